// Views that change, as transcripts; what happens in every order is the simulator's (tests/sim).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "orchestrator/core/core.h"
#include "tests/orchestrator/core_driver.h"

namespace atl {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class CoreMembership : public testing::Test {
 protected:
  CoreMembership() : core_(CoreDriver::TestJob(3, 6)) {
    core_.survives = true;
    core_.AllReady();
  }
  // b is gone in the reduction of round 2.
  void LoseB() {
    core_.AllRound(1);
    const std::string text = core_.Suspect("a", "b", 2, true);
    EXPECT_THAT(text, HasSubstr("region b is left out: a lost it (the line broke)"));
    EXPECT_THAT(text, HasSubstr("-> a fence 2\n-> c fence 2\n"));
    EXPECT_THAT(text, HasSubstr("-> b dropped"));
  }
  void TakeRound2FromC() {
    LoseB();
    pb::LeaderMessage report = core_.RoundReport("c", 2);
    report.set_sequence(3);
    report.set_attempt("1");
    core_.Message("c", report);
    pb::LeaderMessage fenced;
    fenced.set_sequence(4);
    fenced.mutable_fenced()->set_id(2);
    fenced.mutable_fenced()->set_has_state(true);
    fenced.mutable_fenced()->set_round(2);
    fenced.mutable_fenced()->set_digest("d2");
    core_.Message("c", fenced);
    EXPECT_THAT(core_.Fenced("a", 2, 1), HasSubstr("round 2 is taken from c"));
  }

  CoreDriver core_;
};

TEST_F(CoreMembership, WhoIsGoneIsLeftOutAndTheOthersGoOn) {
  LoseB();
  EXPECT_THAT(core_.Fenced("a", 2, 1), Not(HasSubstr("view 2:")));
  EXPECT_THAT(core_.Fenced("c", 2, 1), HasSubstr("view 2: round 2 next, 2 members"));
  const pb::View& view = core_.view("a");
  EXPECT_EQ(view.first_round(), 2);
  EXPECT_EQ(view.take_round(), 0) << "both stand at round 1";
  // Shares were 2, 1, 1 of 4: round 2 was [8, 16), and b had [12, 14) of it.
  ASSERT_EQ(view.members(0).first_samples_size(), 1);
  EXPECT_EQ(view.members(0).first_samples(0).begin(), 8);
  EXPECT_EQ(view.members(1).first_samples(0).begin(), 14);
  ASSERT_EQ(view.returned_size(), 1);
  EXPECT_EQ(view.returned(0).begin(), 12);
  EXPECT_EQ(view.returned(0).end(), 14);
  EXPECT_EQ(view.first_sample(), 16);
}

TEST_F(CoreMembership, ARoundThatOneSurvivorHasIsTakenByTheOthers) {
  TakeRound2FromC();
  EXPECT_EQ(core_.view("a").first_round(), 3);
  EXPECT_EQ(core_.view("a").take_round(), 2);
}

TEST_F(CoreMembership, ATakenRoundIsCommittedWhenAllHaveIt) {
  TakeRound2FromC();

  pb::LeaderMessage report;
  pb::RoundReport* round = report.mutable_round();
  round->set_view(2);
  round->set_round(2);
  round->set_digest("d2");
  round->set_tokens(64);
  round->set_first_sample(8);
  round->set_end_sample(12);
  report.set_sequence(5);
  EXPECT_THAT(core_.Message("a", report), HasSubstr("round 2 loss"));
}

TEST_F(CoreMembership, ASilentRegionIsNotBelievedDeadWhileItSpeaksToUs) {
  core_.AllRound(1);
  core_.Suspect("a", "b", 2, false);
  for (int i = 0; i < 3; ++i) {
    core_.Heartbeat("a");
    core_.Heartbeat("b");
    core_.Heartbeat("c");
    EXPECT_FALSE(core_.core().fencing());
    core_.Advance(0.5);
  }
  core_.Round("a", 2);
  core_.Advance(0.5);
  core_.Advance(0.5);
  EXPECT_FALSE(core_.core().fencing()) << "a's round went on";
}

// Of three regions, which all go on to speak to the orchestrator.
class CoreSilence : public CoreMembership {
 protected:
  CoreSilence() { core_.AllRound(1); }
  // The text of these half seconds, in which all are heard.
  std::string Pass(int half_seconds) {
    std::string text;
    for (int i = 0; i < half_seconds; ++i) {
      for (const char* region : {"a", "b", "c"}) text += core_.Heartbeat(region);
      text += core_.Advance(0.5);
    }
    return text;
  }
  // b is missed by both others, and by the orchestrator, for `seconds`.
  std::string CutOff(double seconds) {
    core_.Heartbeat("b");
    std::string text;
    for (double passed = 0; passed < seconds; passed += 0.5) {
      core_.Heartbeat("a");
      core_.Heartbeat("c");
      text += core_.Advance(0.5);
      if (passed != 2) continue;
      text += core_.Silent("a", "b", 2, 2.5);
      text += core_.Silent("c", "b", 2, 2.5);
    }
    return text;
  }
};

TEST_F(CoreSilence, WhomAllOthersMissIsGivenASecond) {
  core_.Silent("a", "b", 2, 2.5);
  core_.Silent("c", "b", 2, 2.5);
  EXPECT_THAT(Pass(1), Not(HasSubstr("left out")));
  EXPECT_THAT(Pass(1), HasSubstr("region b is left out: it speaks to the orchestrator"));
}

TEST_F(CoreSilence, WhomOneMissesIsGivenTwo) {
  core_.Silent("a", "b", 2, 2.5);
  EXPECT_THAT(Pass(3), Not(HasSubstr("left out")));
  EXPECT_THAT(Pass(1), HasSubstr("region b is left out"));
}

TEST_F(CoreSilence, WhoIsHeardAgainIsNotLeftOutThoughTheRoundTakesLong) {
  core_.Silent("a", "b", 2, 2.5);
  core_.Silent("c", "b", 2, 2.5);
  Pass(1);
  core_.Silent("a", "b", 2, -1);
  core_.Silent("c", "b", 2, -1);
  EXPECT_THAT(Pass(20), Not(HasSubstr("ends")));
  core_.Silent("a", "b", 2, 2.5);
  EXPECT_THAT(Pass(4), HasSubstr("left out")) << "what is said anew counts anew";
}

// A word of the view before ended the next one two seconds later.
TEST_F(CoreSilence, WhoIsNoMemberIsNotWaitedFor) {
  core_.Fault("b", "a rank is gone");
  core_.Fenced("a", 2, 1);
  EXPECT_THAT(core_.Fenced("c", 2, 1), HasSubstr("view 2:"));
  core_.Silent("a", "b", 2, 2.5);
  core_.Silent("c", "b", 2, 2.5);
  EXPECT_THAT(Pass(20), Not(HasSubstr("ends")));
}

// What it was silent for while it was cut off was taken for its manner: of a region that had once
// been cut off for 5 s nobody believed for 15 s that it was again.
TEST_F(CoreSilence, AFaultsSilenceIsNotARegionsManner) {
  EXPECT_THAT(CutOff(2.5), Not(HasSubstr("left out")));
  core_.Heartbeat("b");
  core_.Silent("a", "b", 2, -1);
  core_.Silent("c", "b", 2, -1);
  core_.AllRound(2);
  Pass(4);
  core_.Heartbeat("b");
  std::string text;
  for (int i = 0; i < 6; ++i) {
    core_.Heartbeat("a");
    core_.Heartbeat("c");
    text += core_.Advance(0.5);
    if (i == 4) text += core_.Silent("a", "b", 3, 2.5);
  }
  EXPECT_THAT(text,
              HasSubstr("left out: a lost it (silent while waited for), and we hear nothing"));
}

TEST_F(CoreMembership, ANewStartOfAMemberJoinsAgainAsAnObserver) {
  LoseB();
  core_.Fenced("a", 2, 1);
  core_.Fenced("c", 2, 1);
  EXPECT_THAT(core_.Hello("b", "2"), HasSubstr("-> b welcome"));
  EXPECT_THAT(core_.Ready("b"), HasSubstr("view 3 with 3 members, 2 of them full"));
  const pb::View& planned = core_.view("b");
  EXPECT_EQ(planned.after(), 2);
  EXPECT_EQ(planned.first_round(), 0);
  EXPECT_EQ(planned.members(1).role(), pb::Member::OBSERVER);
}

TEST_F(CoreMembership, WhoLeavesWithoutHavingEnteredIsNotWaitedFor) {
  const std::string text = core_.Left("b", 0, 75, true);
  EXPECT_THAT(text, HasSubstr("region b is left out: left"));
  EXPECT_THAT(text, HasSubstr("-> a fence 2\n-> c fence 2\n"));
}

TEST_F(CoreMembership, NothingOfTheOldRulesHoldsAFaultBack) {
  core_.AllRound(1);
  EXPECT_THAT(core_.Fault("b", "CUDA error"), HasSubstr("-> a fence 2"));
  EXPECT_FALSE(core_.ended());
}

// Round 2 says that c goes, and that not all were ready for the view without it.
class CLeavesEarly : public CoreMembership {
 protected:
  CLeavesEarly() {
    core_.AllRound(1);
    pb::LeaderMessage leaving;
    leaving.mutable_leaving()->set_reason("SIGTERM");
    core_.Send("c", leaving);
    std::string text;
    for (const char* region : {"c", "a", "b"}) {
      pb::LeaderMessage report = core_.RoundReport(region, 2);
      // Of view 1: of [8, 16) a had 4 samples, b and c two each.
      const int64_t begin = region[0] == 'a' ? 8 : region[0] == 'b' ? 12 : 14;
      report.mutable_round()->set_view(1);
      report.mutable_round()->set_first_sample(begin);
      report.mutable_round()->set_end_sample(begin + (region[0] == 'a' ? 4 : 2));
      report.mutable_round()->add_leaving("c");
      text += core_.Send(region, report);
    }
    EXPECT_THAT(text, HasSubstr("c left before another view was agreed on"));
    for (const char* region : {"a", "b", "c"}) answered_ += core_.Fenced(region, 3, 2);
  }
  std::string answered_;
};

// It is writing its checkpoint. It used to be in the next view, left that likewise, and so on.
TEST_F(CLeavesEarly, TheNextViewIsMadeOnceItSaysThatItHasLeft) {
  EXPECT_THAT(answered_, Not(HasSubstr("view 3:")));
  EXPECT_THAT(core_.Left("c", 2, 75), HasSubstr("view 3: round 3 next, 2 members"));
}

TEST_F(CLeavesEarly, WhenItDoesNotSaySoItIsAMemberOnceMore) {
  EXPECT_THAT(answered_, Not(HasSubstr("view 3:")));
  std::string text;
  for (int i = 0; i < 14; ++i) {
    for (const char* region : {"a", "b", "c"}) text += core_.Heartbeat(region);
    text += core_.Advance(0.5);
  }
  EXPECT_THAT(text, HasSubstr("view 3: round 3 next, 3 members"));
}

// Rounds 2 of a and b say that c goes and that view 2 follows; c itself is never heard again.
class CLeaves : public CoreMembership {
 protected:
  CLeaves() {
    core_.AllRound(1);
    pb::LeaderMessage leaving;
    leaving.mutable_leaving()->set_reason("SIGTERM");
    EXPECT_THAT(core_.Send("c", leaving), HasSubstr("view 2 with 2 members, 2 of them full"));
    for (const char* region : {"a", "b"}) {
      pb::LeaderMessage report = core_.RoundReport(region, 2);
      report.mutable_round()->set_view(1);
      // Of view 1: of [8, 16) a had 4 samples, b and c two each.
      report.mutable_round()->set_first_sample(region[0] == 'a' ? 8 : 12);
      report.mutable_round()->set_end_sample(region[0] == 'a' ? 12 : 14);
      report.mutable_round()->set_next_view(2);
      report.mutable_round()->add_leaving("c");
      said_ += core_.Send(region, report);
    }
  }
  std::string said_;
};

TEST_F(CLeaves, ARoundThatOnlyALostLeaverWasWaitedForIsCommittedWhenItIsGivenUp) {
  EXPECT_THAT(said_, HasSubstr("view 2 holds from round 3 on"));
  EXPECT_THAT(said_, Not(HasSubstr("round 2 loss")));
  std::string text;
  for (int i = 0; i < 30; ++i) {
    text += core_.Heartbeat("a") + core_.Heartbeat("b") + core_.Advance(0.5);
  }
  EXPECT_THAT(text, HasSubstr("region c has not been heard of"));
  EXPECT_THAT(text, HasSubstr("round 2 loss"));
  EXPECT_FALSE(core_.core().fencing());
}

TEST_F(CLeaves, ALeaverWhoseLastRoundBrokeIsReleasedSinceTheOthersEndedIt) {
  pb::LeaderMessage heartbeat;
  heartbeat.set_attempt("1");
  heartbeat.mutable_heartbeat()->set_view(1);
  heartbeat.mutable_heartbeat()->set_holds(true);
  const std::string text = core_.Message("c", heartbeat);
  EXPECT_THAT(text, HasSubstr("its last round was ended by the others"));
  EXPECT_THAT(text, HasSubstr("-> c dropped"));
  EXPECT_THAT(text, HasSubstr("round 2 loss"));
}

TEST_F(CLeaves, WhatALeaverSuspectsOnceTheOthersHaveGoneOnEndsNothing) {
  core_.Suspect("c", "a", 2, false);
  std::string text;
  for (int i = 0; i < 8; ++i) {
    for (const char* region : {"a", "b", "c"}) text += core_.Heartbeat(region);
    text += core_.Advance(0.5);
  }
  EXPECT_THAT(text, Not(HasSubstr("fence")));
}

TEST_F(CoreMembership, AMemberThatHasGivenUpTheViewIsLeftOut) {
  core_.AllRound(1);
  pb::LeaderMessage stale;
  *stale.mutable_ready() = core_.ReadyMessage("b");
  EXPECT_THAT(core_.Send("b", stale), Not(HasSubstr("left out")));
  pb::LeaderMessage ready;
  *ready.mutable_ready() = core_.ReadyMessage("b");
  ready.mutable_ready()->set_floor(1);
  EXPECT_THAT(core_.Send("b", ready), HasSubstr("region b is left out"));
}

TEST_F(CoreMembership, WhatAnEarlierStartSaysIsAnsweredToThatStart) {
  core_.AllRound(1);
  pb::LeaderMessage late;
  late.set_attempt("0");
  late.mutable_heartbeat();
  const Actions actions = core_.core().OnMessage("b", late, core_.now());
  ASSERT_EQ(actions.messages.size(), 1u);
  EXPECT_EQ(actions.messages[0].message.dropped().attempt(), "0");
}

// b observes round 2 of a and c, which only b is left to tell of.
TEST_F(CoreMembership, WhoOnlyHeardARoundCanSayWhatWasInIt) {
  LoseB();
  core_.Fenced("a", 2, 1);
  core_.Fenced("c", 2, 1);
  core_.Hello("b", "2");
  EXPECT_THAT(core_.Ready("b"), HasSubstr("view 3 with 3 members, 2 of them full"));
  for (const char* region : {"a", "c"}) {
    pb::LeaderMessage report;
    pb::RoundReport* round = report.mutable_round();
    round->set_view(2), round->set_round(2), round->set_digest("d2"), round->set_tokens(64);
    round->set_first_sample(region[0] == 'a' ? 8 : 14);
    round->set_end_sample(region[0] == 'a' ? 12 : 16);
    round->set_next_view(3);
    core_.Send(region, report);
  }
  ASSERT_EQ(core_.core().view().id(), 3);
  ASSERT_EQ(core_.core().committed_round(), 2);
  // Of round 3 nobody but b is heard: c contributed two samples less than planned.
  const pb::View view = core_.core().view();
  pb::LeaderMessage heard;
  heard.mutable_round()->set_heard(true);
  heard.mutable_round()->set_view(3), heard.mutable_round()->set_round(3);
  heard.mutable_round()->set_digest("d3");
  pb::ShortContribution* less = heard.mutable_round()->add_short_contributions();
  less->set_region("c"), less->set_samples(2 * view.members(2).samples_per_step() - 1);
  core_.Send("b", heard);
  EXPECT_THAT(core_.Suspect("b", "c", 4, true), HasSubstr("region c is left out"));
  pb::LeaderMessage fenced;
  fenced.mutable_fenced()->set_id(4);
  fenced.mutable_fenced()->set_has_state(true), fenced.mutable_fenced()->set_round(3);
  fenced.mutable_fenced()->set_digest("d3");
  core_.Send("b", fenced);
  fenced.mutable_fenced()->set_round(2), fenced.mutable_fenced()->set_digest("d2");
  EXPECT_THAT(core_.Send("a", fenced), HasSubstr("round 3 is taken from b"));
  bool returned = false;
  for (const Record& record : core_.records()) {
    const auto* sample = std::get_if<SampleRecord>(&record);
    returned |= sample != nullptr && sample->round == 3 && sample->region == "c" &&
                SizeOf(sample->samples) == less->samples();
  }
  EXPECT_TRUE(returned) << "the sample that c did not train goes back";
}

// A hello that overtook later ones: the reports below what a heartbeat names will not come again.
TEST(CoreSequence, ALateHelloDoesNotMakeTheCoreWaitForWhatWasAcknowledgedBefore) {
  CoreDriver core(CoreDriver::TestJob(1));
  core.survives = true;
  core.Start();
  core.Hello("a", "1");
  pb::LeaderMessage heartbeat;
  heartbeat.set_attempt("1");
  heartbeat.mutable_heartbeat()->set_first_sequence(3);
  EXPECT_THAT(core.Message("a", heartbeat), HasSubstr("-> a dropped")) << "it says Ready again";
  pb::LeaderMessage ready;
  ready.set_attempt("1");
  ready.set_sequence(3);
  *ready.mutable_ready() = core.ReadyMessage("a");
  EXPECT_THAT(core.Message("a", ready), HasSubstr("region a is ready"));
}

}  // namespace
}  // namespace atl
