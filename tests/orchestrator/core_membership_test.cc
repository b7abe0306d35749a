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

TEST_F(CoreMembership, NothingOfTheOldRulesHoldsAFaultBack) {
  core_.AllRound(1);
  EXPECT_THAT(core_.Fault("b", "CUDA error"), HasSubstr("-> a fence 2"));
  EXPECT_FALSE(core_.ended());
}

}  // namespace
}  // namespace atl
