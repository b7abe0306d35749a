// Regions of different speed: how many inner steps each takes (sync.slow.policy).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "orchestrator/core/ledger.h"
#include "proto/round_plan.h"
#include "tests/orchestrator/core_driver.h"

namespace atl {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(EvenSteps, TheFastestSetsTheTime) {
  // 30 steps of 1 s; who needs 3 s takes 10.
  EXPECT_THAT(EvenSteps(30, {{1, 30}, {3, 30}, {1.1, 30}}), ElementsAre(30, 10, 30));
  EXPECT_THAT(EvenSteps(30, {{3, 30}, {3, 30}}), ElementsAre(30, 30));
  EXPECT_THAT(EvenSteps(4, {{1, 4}, {100, 4}}), ElementsAre(4, 1)) << "one at least";
}

TEST(EvenSteps, WhoIsAQuarterOffOrLessKeepsItsSteps) {
  EXPECT_THAT(EvenSteps(100, {{1, 100}, {1.24, 100}}), ElementsAre(100, 100));
  EXPECT_THAT(EvenSteps(100, {{1, 100}, {1.26, 100}}), ElementsAre(100, 79));
  EXPECT_THAT(EvenSteps(100, {{1, 100}, {1, 81}}), ElementsAre(100, 81));
  EXPECT_THAT(EvenSteps(100, {{1, 100}, {1, 79}}), ElementsAre(100, 100));
}

TEST(EvenSteps, WhoIsNotKnownKeepsItsSteps) {
  EXPECT_THAT(EvenSteps(30, {{0, 30}, {3, 30}, {1, 30}}), ElementsAre(30, 10, 30));
  EXPECT_THAT(EvenSteps(30, {{0, 12}, {0, 30}}), ElementsAre(12, 30));
}

TEST(IsWorthAView, CountsWhatIsTrainedInASecond) {
  // 60 samples in 90 s, or 40 in 30 s; with 300 s of all-reduce 60 in 390 s, or 40 in 330 s.
  EXPECT_TRUE(IsWorthAView({{1, 30}, {3, 30}}, {30, 10}, 0));
  EXPECT_FALSE(IsWorthAView({{1, 30}, {3, 30}}, {30, 10}, 300));
  // Back again: 40 in 30 s, or 60.
  EXPECT_TRUE(IsWorthAView({{1, 30}, {1, 10}}, {30, 30}, 0));
  EXPECT_TRUE(IsWorthAView({{1, 30}, {1, 10}}, {30, 30}, 300));
  EXPECT_FALSE(IsWorthAView({{1, 30}, {1, 28}}, {30, 30}, 0)) << "too little for a view";
  // A region that has nearly all samples of a step does not get faster by dropping them.
  EXPECT_FALSE(IsWorthAView({{1, 30, 1}, {1.5, 30, 20}}, {30, 20}, 10));
  EXPECT_FALSE(IsWorthAView({{0, 30}, {0, 30}}, {30, 30}, 0)) << "nothing is known";
}

TEST(Pace, IsTheMedianOfTheNewestRounds) {
  Pace pace;
  pace.Add(8, 4);
  pace.Add(800, 4);
  EXPECT_EQ(pace.SecondsPerSample(), std::nullopt);
  pace.Add(-1, 4);
  pace.Add(1, 0);
  EXPECT_EQ(pace.SecondsPerSample(), std::nullopt) << "those were none";
  pace.Add(12, 4);
  EXPECT_EQ(pace.SecondsPerSample(), 3);
  pace.Add(12, 4);
  pace.Add(4, 4);
  EXPECT_EQ(pace.SecondsPerSample(), 3);
}

class CorePace : public testing::Test {
 protected:
  static pb::Job Job(pb::SlowRegions::Policy policy) {
    pb::Job job = CoreDriver::TestJob(2, 40);
    job.mutable_train()->set_inner_steps(12);
    job.mutable_sync()->mutable_slow()->set_policy(policy);
    return job;
  }
  explicit CorePace(pb::SlowRegions::Policy policy = pb::SlowRegions::SHARE)
      : policy_(policy), core_(Job(policy)) {
    core_.survives = true;
    core_.AllReady();
  }
  // b needs `slowness` times as long for a sample as a.
  std::string Rounds(int count, double slowness, int64_t edge_view = 0) {
    std::string text;
    for (int i = 0; i < count; ++i) {
      ++round_;
      // Of the view that holds; the driver's newest one may be planned.
      const pb::View view = core_.core().view();
      for (const int member : {0, 1}) {
        const RoundPlan plan = PlanRound(view, Job(policy_), member, round_);
        pb::LeaderMessage report;
        pb::RoundReport* round = report.mutable_round();
        round->set_view(view.id());
        round->set_round(round_);
        round->set_digest(absl::StrCat("d", round_));
        round->set_tokens(16 * plan.region_samples.size());
        round->set_first_sample(plan.region_samples.begin);
        round->set_end_sample(plan.region_samples.end);
        round->set_train_seconds((member == 0 ? 1 : slowness) * 0.1 *
                                 static_cast<double>(plan.region_samples.size()));
        round->set_wan_seconds(reduce_seconds_);
        round->set_seconds(round->train_seconds() + reduce_seconds_);
        round->set_next_view(i + 1 == count ? edge_view : 0);
        text += core_.Send(view.members(member).region(), std::move(report));
      }
    }
    return text;
  }

  const pb::SlowRegions::Policy policy_;
  CoreDriver core_;
  int64_t round_ = 0;
  double reduce_seconds_ = 0;
};

class CorePaceWait : public CorePace {
 protected:
  CorePaceWait() : CorePace(pb::SlowRegions::WAIT) {}
};

TEST_F(CorePace, ARegionThatStaysSlowTakesFewerSteps) {
  EXPECT_THAT(Rounds(2, 3), Not(HasSubstr("steps_lowered"))) << "once or twice is not always";
  const std::string text = Rounds(1, 3);
  EXPECT_THAT(text, HasSubstr("event steps_lowered: region b is to take 4 inner steps a round "
                              "instead of 12 of 12"));
  EXPECT_THAT(text, HasSubstr("view 2 with 2 members, 2 of them full, follows view 1"));
  const pb::View& planned = core_.view("b");
  EXPECT_EQ(planned.after(), 1);
  EXPECT_EQ(planned.members(0).inner_steps(), 0);
  EXPECT_EQ(planned.members(1).inner_steps(), 4);
  EXPECT_THAT(Rounds(5, 3), Not(HasSubstr("steps_"))) << "said once while the view is on its way";
}

TEST_F(CorePace, WhereTheAllReduceIsMostOfARoundNobodyTakesFewerSteps) {
  reduce_seconds_ = 100;
  EXPECT_THAT(Rounds(8, 3), Not(HasSubstr("steps_lowered")));
}

TEST_F(CorePace, AfterTheEdgeTheLedgerGivesItFewerSamplesAndItGetsThemBack) {
  Rounds(3, 3);
  EXPECT_EQ(core_.core().view().first_sample(), 0);
  Rounds(1, 3, 2);
  ASSERT_EQ(core_.core().view().id(), 2);
  EXPECT_EQ(core_.core().view().first_sample(), 4 * 12 * 4);
  EXPECT_EQ(PlannedSamples(core_.core().view(), Job(policy_), 5), 2 * 12 + 2 * 4);
  EXPECT_THAT(Rounds(3, 3), Not(HasSubstr("steps_"))) << "both finish together";
  EXPECT_THAT(Rounds(3, 1), HasSubstr("event steps_raised: region b is to take 12 inner steps"));
}

TEST_F(CorePace, WhoseStepsGoToAndFroIsMeasuredForLonger) {
  EXPECT_THAT(Rounds(3, 3), HasSubstr("steps_lowered"));
  Rounds(1, 3, 2);
  EXPECT_THAT(Rounds(2, 1), HasSubstr("steps_raised")) << "two of three";
  Rounds(1, 1, 3);
  EXPECT_THAT(Rounds(4, 3), Not(HasSubstr("steps_"))) << "five rounds since then";
  EXPECT_THAT(Rounds(1, 3), HasSubstr("steps_lowered"));
}

TEST(Pace, AChangeBackDoublesTheRoundsUntilTheNextOne) {
  Pace pace;
  const auto rounds_until_change = [&](bool lowered) {
    int rounds = 0;
    for (; !pace.MayChange(); ++rounds) pace.Add(1, 1);
    pace.Changed(lowered);
    return rounds;
  };
  EXPECT_EQ(rounds_until_change(true), 3);
  EXPECT_EQ(rounds_until_change(true), 3);
  EXPECT_EQ(rounds_until_change(false), 3);
  EXPECT_EQ(rounds_until_change(true), 6);
  EXPECT_EQ(rounds_until_change(true), 12);
  EXPECT_EQ(rounds_until_change(true), 6);
  for (int i = 0; i < 20; ++i) rounds_until_change(i % 2 == 0);
  EXPECT_EQ(rounds_until_change(true), Pace::kMostRounds);
}

TEST_F(CorePaceWait, OthersWaitIfTheJobSaysSo) {
  EXPECT_THAT(Rounds(10, 5), Not(HasSubstr("steps_")));
}

TEST_F(CorePace, ANewStartOfASlowRegionBeginsWithAllSteps) {
  Rounds(3, 3);
  core_.Hello("b", "2");
  for (const Record& record : core_.records()) {
    if (const auto* region = std::get_if<RegionRecord>(&record)) {
      if (region->attempt != "2") continue;
      EXPECT_EQ(region->inner_steps, 0);
    }
  }
  EXPECT_THAT(core_.core().DurableState(), Not(HasSubstr(" steps ")));
}

// sync.slow.policy quorum: what the core makes of a contribution that comes a round later.
class CoreLate : public testing::Test {
 protected:
  static pb::Job Job() {
    pb::Job job = CoreDriver::TestJob(3, 200);
    job.mutable_sync()->mutable_slow()->set_policy(pb::SlowRegions::QUORUM);
    return job;
  }
  CoreLate() : core_(Job()) {
    core_.survives = true;
    core_.AllReady();
  }
  // a and b report a round that c was late for; then c reports that it holds the result.
  std::string LateIn(int64_t round) {
    std::string text;
    for (const char* region : {"a", "b"}) text += core_.Send(region, Late(region, round));
    pb::LeaderMessage heard = Late("c", round);
    pb::RoundReport* report = heard.mutable_round();
    report->set_heard(true);
    report->clear_first_sample();
    report->clear_end_sample();
    report->clear_tokens();
    return text + core_.Send("c", std::move(heard));
  }
  pb::LeaderMessage Late(const std::string& region, int64_t round = 1) {
    pb::LeaderMessage message = core_.RoundReport(region, round);
    pb::ShortContribution* one = message.mutable_round()->add_short_contributions();
    one->set_region("c");
    one->set_late(true);
    return message;
  }
  std::string Committed() const {
    std::string text;
    for (const Record& record : core_.records()) {
      const auto* sample = std::get_if<SampleRecord>(&record);
      if (sample == nullptr || sample->state != SampleState::kCommitted) continue;
      absl::StrAppend(&text, sample->round, sample->region, " ", RangesText(sample->samples), "\n");
    }
    return text;
  }

  CoreDriver core_;
};

TEST_F(CoreLate, WhatALateRegionHadOfARoundIsCommittedWithTheNext) {
  const std::string text = LateIn(1);
  EXPECT_THAT(text, HasSubstr("event late: round 1 went on without region c"));
  EXPECT_THAT(text, HasSubstr("round 1 loss 2 digest d1"));
  // Shares were 2, 1, 1 of 4, two steps: c had [6, 8) and would have had [14, 16).
  core_.Round("a", 2);
  core_.Round("b", 2);
  pb::LeaderMessage report = core_.RoundReport("c", 2);
  report.mutable_round()->set_first_sample(6);
  report.mutable_round()->set_end_sample(8);
  EXPECT_THAT(core_.Send("c", std::move(report)), HasSubstr("round 2 loss 2 digest d2"));
  EXPECT_EQ(Committed(),
            "1a [0, 4)\n1b [4, 6)\n1c none\n"
            "2a [8, 12)\n2b [12, 14)\n2c [6, 8)\n");
  EXPECT_THAT(core_.core().DurableState(), HasSubstr("ledger 3 4 24 [14, 16)"));
}

TEST_F(CoreLate, ALateRegionTakesWhatItHoldsIntoTheNextView) {
  LateIn(1);
  core_.Suspect("a", "b", 2, true);
  core_.Fenced("a", 2, 1);
  EXPECT_THAT(core_.Fenced("c", 2, 1), HasSubstr("view 2: round 2 next, 2 members"));
  const pb::View& view = core_.view("c");
  ASSERT_EQ(view.members(1).first_samples_size(), 1);
  EXPECT_EQ(view.members(1).first_samples(0).begin(), 6);
  EXPECT_EQ(view.members(1).first_samples(0).end(), 8);
}

TEST_F(CoreLate, ARoundThatOnlyTheDeadHaveIsMadeAgainWithTheLateRegionsPart) {
  core_.Send("b", Late("b"));
  core_.Suspect("a", "b", 1, true);
  core_.Fenced("a", 2, 0);
  EXPECT_THAT(core_.Fenced("c", 2, 0), HasSubstr("view 2: round 1 next, 2 members"));
  EXPECT_EQ(core_.view("c").members(1).first_samples(0).begin(), 6);
  EXPECT_EQ(core_.view("c").members(1).first_samples(0).end(), 8);
}

TEST_F(CoreLate, WhatIsGivenBackAgainAndAgainComesAgainInAnotherView) {
  int64_t round = 1;
  while (round < 199) {
    std::string text = LateIn(round);
    // Its part of this round counts with the next.
    pb::LeaderMessage report = core_.RoundReport("c", round);
    report.mutable_round()->set_round(round + 1);
    report.mutable_round()->set_digest(absl::StrCat("d", round + 1));
    text += core_.Round("a", round + 1) + core_.Round("b", round + 1);
    text += core_.Send("c", std::move(report));
    if (absl::StrContains(text, "follows view 1")) break;
    round += 2;
  }
  EXPECT_EQ(round, 65) << "33 ranges";
}

TEST_F(CoreLate, AnotherStateThanTheOthersIsNoticedOfALateRegionToo) {
  pb::LeaderMessage heard = Late("c");
  core_.Send("a", Late("a"));
  core_.Send("b", Late("b"));
  heard.mutable_round()->set_heard(true);
  heard.mutable_round()->set_digest("other");
  EXPECT_THAT(core_.Send("c", std::move(heard)), HasSubstr("region c is left out"));
}

TEST_F(CoreLate, TheOneThatWasNotLateIsNotRightForThat) {
  std::string text;
  for (const char* region : {"a", "b", "c"}) {
    const bool late = region[0] != 'a';
    pb::LeaderMessage message = core_.RoundReport(region, 1, late ? "right" : "damaged");
    for (const char* one : {"b", "c"}) {
      pb::ShortContribution* part = message.mutable_round()->add_short_contributions();
      part->set_region(one);
      part->set_late(true);
    }
    message.mutable_round()->set_heard(late);
    text += core_.Send(region, std::move(message));
  }
  EXPECT_THAT(text, HasSubstr("region a is left out"));
  EXPECT_THAT(text, HasSubstr("digest right"));
}

}  // namespace
}  // namespace atl
