// Regions of different speed: how many inner steps each takes (sync.slow.policy).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
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
        round->set_next_view(i + 1 == count ? edge_view : 0);
        text += core_.Send(view.members(member).region(), std::move(report));
      }
    }
    return text;
  }

  const pb::SlowRegions::Policy policy_;
  CoreDriver core_;
  int64_t round_ = 0;
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

}  // namespace
}  // namespace atl
