// Rounds that go on without a slow region (sync.slow.policy quorum), as its leader lives through
// them: transcripts. What happens in every order is the simulator's (tests/sim).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/digest.h"
#include "worker/agent/agent.h"

namespace atl {
namespace {

class AgentLate : public ::testing::Test {
 protected:
  static constexpr int64_t kSteps = 4;  // johor, oslo and batam take 2 samples each

  AgentLate() : agent_(Options()) {
    agent_.Start(now_);
    pb::OrchestratorMessage welcome;
    pb::Job* job = welcome.mutable_welcome()->mutable_job();
    job->mutable_train()->set_rounds(9);
    job->mutable_train()->set_inner_steps(kSteps);
    job->mutable_train()->set_global_batch(6);
    job->mutable_data()->set_sequence_length(16);
    job->mutable_checkpoint()->set_every(2);
    job->mutable_sync()->mutable_slow()->set_policy(pb::SlowRegions::QUORUM);
    agent_.OnMessage(welcome, ++now_);
    pb::RegionAnswer ready;
    ready.set_gateway("here:1");
    Answer(ready);
    agent_.OnMessage(View(), ++now_);
    Done();    // EnterView
    Answer();  // Evaluate
  }
  static AgentOptions Options() {
    AgentOptions options;
    options.hello.set_region("johor");
    options.hello.set_workers(1);
    options.hello.set_attempt("1");
    options.survives = true;
    return options;
  }
  static pb::OrchestratorMessage View() {
    pb::OrchestratorMessage message;
    pb::View* view = message.mutable_view();
    view->set_id(1);
    view->set_lanes(1);
    view->set_key(std::string(32, 'k'));
    view->set_first_round(1);
    view->set_last_round(9);
    view->set_restart(true);
    for (const char* region : {"johor", "oslo", "batam"}) {
      pb::Member* member = view->add_members();
      member->set_region(region);
      member->set_workers(1);
      member->add_gateways("127.0.0.1:1000");
      member->set_samples_per_step(2);
    }
    return message;
  }
  const pb::RegionCommand& Answer(const pb::RegionAnswer& answer = {}) {
    actions_ = agent_.OnAnswers({answer}, ++now_);
    static const pb::RegionCommand kNone;
    return actions_.run ? *actions_.run : kNone;
  }
  const pb::RegionCommand& Done() {
    pb::RegionAnswer answer;
    answer.set_digest(Digest{7, 7}.Hex());
    return Answer(answer);
  }
  const pb::RegionCommand& Trained(int64_t from, int64_t steps, bool quorum) {
    pb::RegionAnswer answer;
    answer.set_steps(steps);
    answer.set_tokens((steps - from) * 2 * 16);
    answer.set_quorum(quorum);
    return Answer(answer);
  }
  // The others contributed fully.
  const pb::RegionCommand& Reduced(int64_t round, int64_t samples, bool late,
                                   bool oslo_late = false) {
    pb::RegionAnswer answer;
    for (const int member : {0, 1, 2}) {
      pb::RoundNote* note = answer.add_notes();
      note->set_round(round);
      note->set_late(member == 0 ? late : member == 1 && oslo_late);
      note->set_samples(note->late() ? 0 : member == 0 ? samples : 2 * kSteps);
      note->set_tokens(note->samples() * 16);
    }
    return Answer(answer);
  }
  const pb::RoundReport& Report() const {
    for (const pb::LeaderMessage& message : actions_.send) {
      if (message.has_round()) return message.round();
    }
    static const pb::RoundReport kNone;
    return kNone;
  }

  double now_ = 100;
  Agent agent_;
  AgentActions actions_;
};

TEST_F(AgentLate, ARoundThatGoesOnWithoutItIsCommittedAndWhatItTrainsCountsInTheNext) {
  ASSERT_TRUE(actions_.run && actions_.run->has_train());
  EXPECT_EQ(actions_.run->train().quorum(), 2) << "all but one";
  EXPECT_EQ(actions_.run->train().position(), 1);

  pb::RegionCommand command = Trained(0, 1, true);
  ASSERT_TRUE(command.has_reduce());
  EXPECT_EQ(command.reduce().mode(), pb::ReduceRound::LATE);
  EXPECT_TRUE(command.reduce().note().late());
  EXPECT_EQ(command.reduce().note().tokens(), 0);

  command = Reduced(1, 0, true);
  ASSERT_TRUE(command.has_commit());
  EXPECT_TRUE(command.commit().keep_training());
  EXPECT_EQ(command.commit().tokens(), 2 * 2 * kSteps * 16);

  command = Done();
  EXPECT_TRUE(Report().heard());
  ASSERT_EQ(Report().short_contributions_size(), 1);
  EXPECT_TRUE(Report().short_contributions(0).late());
  ASSERT_TRUE(command.has_train());
  EXPECT_EQ(command.train().round(), 2);
  EXPECT_EQ(command.train().first_step(), 1);
  EXPECT_EQ(command.train().samples(0).begin(), 0) << "what it had of round 1";
  EXPECT_EQ(command.train().samples(0).end(), 2 * kSteps);

  command = Trained(1, 3, true);
  ASSERT_TRUE(command.has_reduce());
  EXPECT_EQ(command.reduce().mode(), pb::ReduceRound::CONTRIBUTE) << "late once, not twice";
  EXPECT_EQ(command.reduce().round(), 2);
  EXPECT_EQ(command.reduce().note().samples(), 6);
  EXPECT_EQ(command.reduce().note().tokens(), 6 * 16);

  command = Reduced(2, 6, false);
  EXPECT_FALSE(command.commit().keep_training());
  command = Done();
  EXPECT_FALSE(Report().heard());
  EXPECT_EQ(Report().end_sample(), 6);
  ASSERT_EQ(Report().short_contributions_size(), 1);
  EXPECT_FALSE(Report().short_contributions(0).late());
  EXPECT_EQ(Report().short_contributions(0).samples(), 6);
  // What it did not get to of round 1, and all that round 2 would have given it.
  ASSERT_TRUE(command.has_save());
  EXPECT_EQ(command.save().next_sample(), 2 * 6 * kSteps);
  ASSERT_EQ(command.save().returned_size(), 2);
  EXPECT_EQ(command.save().returned(0).begin(), 6);
  EXPECT_EQ(command.save().returned(0).end(), 8);
  EXPECT_EQ(command.save().returned(1).begin(), 6 * kSteps);
  EXPECT_EQ(command.save().returned(1).end(), 6 * kSteps + 8);

  pb::RegionAnswer saved;
  command = Answer(saved);
  ASSERT_TRUE(command.has_train());
  EXPECT_EQ(command.train().round(), 3);
  EXPECT_EQ(command.train().first_step(), 0);
  EXPECT_EQ(command.train().samples(0).begin(), 2 * 6 * kSteps);
}

TEST_F(AgentLate, AfterARoundInWhichAnotherWasLateItContributesWhatItHas) {
  Trained(0, kSteps, false);
  Reduced(1, 2 * kSteps, false, true);
  ASSERT_TRUE(Done().has_train());
  const pb::RegionCommand& command = Trained(0, 2, true);
  EXPECT_EQ(command.reduce().mode(), pb::ReduceRound::CONTRIBUTE);
  EXPECT_EQ(command.reduce().note().samples(), 4);
}

TEST_F(AgentLate, InTheLastRoundNobodyIsLate) {
  for (int64_t round = 1; round < 9; ++round) {
    Trained(0, kSteps, false);
    Reduced(round, 2 * kSteps, false);
    if (Done().has_save()) Answer();
  }
  ASSERT_EQ(agent_.round(), 9);
  const pb::RegionCommand& command = Trained(0, 2, true);
  EXPECT_EQ(command.reduce().mode(), pb::ReduceRound::CONTRIBUTE);
}

TEST_F(AgentLate, WhatIsInterruptedInTheReductionTrainsOnForTheSameRound) {
  Trained(0, 1, true);
  pb::OrchestratorMessage fence;
  fence.mutable_fence()->set_id(2);
  EXPECT_TRUE(agent_.OnMessage(fence, ++now_).interrupt);
  pb::RegionAnswer interrupted;
  interrupted.set_interrupted(true);
  const pb::RegionCommand& command = Answer(interrupted);
  ASSERT_TRUE(command.has_train());
  EXPECT_EQ(command.train().round(), 1);
  EXPECT_EQ(command.train().first_step(), 1);
  EXPECT_EQ(command.train().quorum(), 0) << "there is no reduction to wait for";
}

}  // namespace
}  // namespace atl
