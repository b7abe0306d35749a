// The leader's protocol as transcripts: what goes in, what comes out.
#include "worker/agent/agent.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace atl {
namespace {

using State = Agent::State;

pb::Job TestJob() {
  pb::Job job;
  job.set_name("test");
  job.mutable_train()->set_rounds(4);
  job.mutable_train()->set_inner_steps(2);
  job.mutable_train()->set_global_batch(4);
  job.mutable_train()->set_evaluate_every(2);
  job.mutable_checkpoint()->set_every(2);
  job.mutable_checkpoint()->set_keep(3);
  return job;
}

class AgentTest : public ::testing::Test {
 public:
  AgentTest() : agent_(Options()) {}

  static AgentOptions Options() {
    AgentOptions options;
    options.hello.set_region("johor");
    options.hello.set_workers(1);
    return options;
  }

  AgentActions Message(const pb::OrchestratorMessage& message) {
    return agent_.OnMessage(message, ++now_);
  }

  static pb::OrchestratorMessage WelcomeMessage() {
    pb::OrchestratorMessage message;
    *message.mutable_welcome()->mutable_job() = TestJob();
    message.mutable_welcome()->set_heartbeat_seconds(1);
    return message;
  }
  AgentActions Welcome() { return Message(WelcomeMessage()); }

  static pb::OrchestratorMessage View(int64_t id, const std::string& checkpoint = "",
                                      int64_t first_round = 1, const std::string& digest = "") {
    pb::OrchestratorMessage message;
    pb::View* view = message.mutable_view();
    view->set_id(id);
    for (const char* region : {"johor", "oslo"}) {
      pb::Member* member = view->add_members();
      member->set_region(region);
      member->set_workers(1);
      member->add_gateways("127.0.0.1:1000");
      member->set_samples_per_step(2);
    }
    view->set_lanes(1);
    view->set_key(std::string(32, 'k'));
    view->set_first_round(first_round);
    view->set_first_sample((first_round - 1) * 8);
    view->set_inner_steps_done((first_round - 1) * 2);
    view->set_last_round(4);
    view->set_checkpoint(checkpoint);
    view->set_checkpoint_own(!checkpoint.empty());
    view->set_digest(digest);
    return message;
  }

  AgentActions Answer(pb::RegionAnswer answer = {}) { return agent_.OnAnswers({answer}, ++now_); }

  static pb::RegionAnswer WithDigest(uint64_t value) {
    pb::RegionAnswer answer;
    answer.set_digest(Digest{value, 0}.Hex());
    return answer;
  }

  // From the start into the first round's inner steps.
  void EnterFirstRound() {
    agent_.Start(now_);
    Welcome();
    Answer();
    Message(View(1));
    Answer(WithDigest(1));  // entered: evaluation before round 1
    Answer();
    ASSERT_EQ(agent_.state(), State::kTraining);
  }

  // Train and reduce of the round under way; the notes come back with `stop` from the other region.
  AgentActions TrainAndReduce(bool other_stops = false) {
    pb::RegionAnswer trained;
    trained.set_tokens(100);
    trained.set_loss_sum(250);
    const AgentActions reduce = Answer(trained);
    EXPECT_TRUE(reduce.run && reduce.run->has_reduce());
    pb::RegionAnswer reduced;
    *reduced.add_notes() = reduce.run->reduce().note();
    reduced.add_notes()->set_stop(other_stops);
    return Answer(reduced);
  }

  double now_ = 100;
  Agent agent_;
};

TEST_F(AgentTest, AWholeJobGoesRoundByRoundWithSavesAndEvaluationsWhereTheyAreDue) {
  std::string transcript;
  const auto note = [&](const AgentActions& actions) {
    for (const auto& message : actions.send) {
      if (message.has_hello()) transcript += "hello ";
      if (message.has_ready()) transcript += "ready ";
      if (message.has_round()) absl::StrAppend(&transcript, "round", message.round().round(), " ");
      if (message.has_evaluation())
        absl::StrAppend(&transcript, "evaluated", message.evaluation().round(), " ");
      if (message.has_checkpoint())
        absl::StrAppend(&transcript, "saved", message.checkpoint().checkpoint().round(), " ");
      if (message.has_left()) absl::StrAppend(&transcript, "left", message.left().round(), " ");
      if (message.has_fault()) absl::StrAppend(&transcript, "fault ");
    }
    return actions;
  };
  note(agent_.Start(now_));
  note(Welcome());
  note(Answer());
  note(Message(View(1)));
  AgentActions actions = note(Answer(WithDigest(1)));
  for (int i = 0; i < 40 && agent_.state() != State::kLeaving; ++i) {
    pb::RegionAnswer answer = WithDigest(7);
    if (actions.run && actions.run->has_reduce()) answer.add_notes();
    actions = note(Answer(answer));
  }
  EXPECT_EQ(transcript,
            "hello ready evaluated0 round1 round2 saved2 evaluated2 round3 round4 saved4 "
            "evaluated4 left4 ");
  pb::OrchestratorMessage ended;
  ended.mutable_ended()->set_state("done");
  actions = Message(ended);
  ASSERT_TRUE(actions.exit.has_value());
  EXPECT_EQ(actions.exit->code, ExitCode::kDone);
}

TEST_F(AgentTest, ReportsCarryTheRoundsSumsAndItsSamples) {
  EnterFirstRound();
  TrainAndReduce();
  const AgentActions actions = Answer(WithDigest(42));
  ASSERT_FALSE(actions.send.empty());
  const pb::RoundReport& report = actions.send[0].round();
  EXPECT_EQ(report.round(), 1);
  EXPECT_EQ(report.tokens(), 100);
  EXPECT_EQ(report.loss_sum(), 250);
  EXPECT_EQ(report.digest(), (Digest{42, 0}.Hex()));
  EXPECT_EQ(report.first_sample(), 0);
  EXPECT_EQ(report.end_sample(), 4);
  EXPECT_GT(report.wan_seconds(), 0);
}

TEST_F(AgentTest, DigestsOfTheRanksAreAdded) {
  EnterFirstRound();
  TrainAndReduce();
  const AgentActions actions = agent_.OnAnswers({WithDigest(40), WithDigest(2)}, ++now_);
  EXPECT_EQ(actions.send[0].round().digest(), (Digest{42, 0}.Hex()));
}

// Saves behind training.
class SavingTest : public AgentTest {
 public:
  static pb::RegionAnswer Pending() {
    pb::RegionAnswer answer;
    answer.set_pending(true);
    return answer;
  }
  // Rounds until a save is due: its command is under way then.
  AgentActions UntilSave() {
    for (int i = 0; i < 20; ++i) {
      AgentActions actions = agent_.state() == State::kTraining ? TrainAndReduce() : AgentActions();
      actions = Answer(WithDigest(1));
      if (actions.run && actions.run->has_save()) return actions;
    }
    ADD_FAILURE() << "no save";
    return {};
  }
  AgentActions Ended(int64_t round, const std::string& error = "") {
    pb::SaveEnded ended;
    ended.set_round(round);
    if (error.empty()) ended.set_path("/there");
    ended.set_error(error);
    ended.set_exit_code(error.empty() ? 0 : 4);
    return agent_.OnSaved(ended, ++now_);
  }
};

TEST_F(SavingTest, ASaveThatIsPendingHoldsNothingUpAndIsReportedWhenItHasEnded) {
  EnterFirstRound();
  AgentActions actions = UntilSave();
  ASSERT_EQ(actions.run->save().round(), 2);
  EXPECT_FALSE(actions.run->save().wait());
  actions = Answer(Pending());
  EXPECT_TRUE(actions.send.empty());
  Answer();  // evaluation
  ASSERT_EQ(agent_.state(), State::kTraining);
  actions = Ended(2);
  ASSERT_EQ(actions.send.size(), 1u);
  EXPECT_EQ(actions.send[0].checkpoint().checkpoint().round(), 2);
  EXPECT_EQ(actions.send[0].checkpoint().checkpoint().path(), "/there");
  EXPECT_EQ(actions.send[0].checkpoint().checkpoint().next_sample(), 16);
  EXPECT_EQ(agent_.state(), State::kTraining);
}

TEST_F(SavingTest, ASaveMayEndBeforeItsAnswerIsHere) {
  EnterFirstRound();
  UntilSave();
  EXPECT_TRUE(Ended(2).send.empty());
  AgentActions actions = Answer(Pending());
  ASSERT_EQ(actions.send.size(), 1u);
  EXPECT_EQ(actions.send[0].checkpoint().checkpoint().round(), 2);
  EXPECT_EQ(actions.send[0].checkpoint().checkpoint().path(), "/there");
  Answer();  // evaluation
  UntilSave();
  Answer();  // the last save
  Answer();  // evaluation
  EXPECT_EQ(agent_.state(), State::kLeaving) << "nothing is still to be waited for";
}

TEST_F(SavingTest, ASaveThatFailsBehindTrainingIsToldAndTrainingGoesOn) {
  EnterFirstRound();
  UntilSave();
  Answer(Pending());
  Answer();
  const AgentActions actions = Ended(2, "disk full");
  ASSERT_EQ(actions.send.size(), 1u);
  EXPECT_EQ(actions.send[0].checkpoint().failure(), "disk full");
  EXPECT_EQ(agent_.state(), State::kTraining);
}

TEST_F(SavingTest, ASkippedSaveIsToldWithTheCount) {
  EnterFirstRound();
  UntilSave();
  pb::RegionAnswer skipped;
  skipped.set_skipped(true);
  const AgentActions actions = Answer(skipped);
  ASSERT_EQ(actions.send.size(), 1u);
  EXPECT_EQ(actions.send[0].checkpoint().skipped(), 1);
  EXPECT_EQ(agent_.state(), State::kEvaluating);
}

TEST_F(SavingTest, TheLastSaveWaitsAndItsFailureIsTheJobs) {
  EnterFirstRound();
  UntilSave();
  Answer(Pending());
  Answer();
  Ended(2);
  const AgentActions actions = UntilSave();
  ASSERT_EQ(actions.run->save().round(), 4);
  EXPECT_TRUE(actions.run->save().wait());
  pb::RegionAnswer failed;
  failed.set_error("disk full");
  failed.set_exit_code(4);
  const AgentActions told = Answer(failed);
  ASSERT_EQ(told.send.size(), 2u);
  EXPECT_EQ(told.send[0].checkpoint().failure(), "disk full");
  EXPECT_EQ(told.send[1].fault().exit_code(), 4);
}

TEST_F(SavingTest, NobodyLeavesWhileASaveIsPending) {
  EnterFirstRound();
  UntilSave();
  Answer(Pending());
  Answer();
  UntilSave();
  Answer();  // the last save
  const AgentActions evaluated = Answer();
  EXPECT_TRUE(evaluated.send.size() == 1 && evaluated.send[0].has_evaluation());
  EXPECT_NE(agent_.state(), State::kLeaving);
  agent_.OnTick(++now_);
  EXPECT_NE(agent_.state(), State::kLeaving);
  const AgentActions actions = Ended(2);
  ASSERT_EQ(actions.send.size(), 2u);
  EXPECT_TRUE(actions.send[0].has_checkpoint());
  EXPECT_TRUE(actions.send[1].has_left());
  EXPECT_EQ(agent_.state(), State::kLeaving);
}

TEST_F(AgentTest, WhatIsToBeMendedIsPassedOnBesideTheRoundAndItsEndIsReported) {
  EnterFirstRound();
  pb::OrchestratorMessage message;
  message.mutable_mend()->set_view(1);
  message.mutable_mend()->set_round(2);
  const AgentActions actions = Message(message);
  ASSERT_TRUE(actions.mend.has_value());
  EXPECT_EQ(actions.mend->order.round(), 2);
  EXPECT_EQ(actions.mend->view.id(), 1);
  EXPECT_FALSE(actions.run.has_value());
  EXPECT_EQ(agent_.state(), State::kTraining);
  message.mutable_mend()->set_view(7);
  EXPECT_FALSE(Message(message).mend.has_value());

  pb::CheckpointTended tended;
  tended.set_round(2);
  tended.set_place("s3://bucket");
  const AgentActions told = agent_.OnTended(tended, ++now_);
  ASSERT_EQ(told.send.size(), 1u);
  EXPECT_EQ(told.send[0].tended().view(), 1);
  EXPECT_EQ(told.send[0].tended().place(), "s3://bucket");
}

TEST_F(AgentTest, AStopWantedElsewhereEndsTheRoundHereToo) {
  EnterFirstRound();
  TrainAndReduce(/*other_stops=*/true);
  AgentActions actions = Answer(WithDigest(1));
  ASSERT_TRUE(actions.run && actions.run->has_save()) << "a stop commits a checkpoint first";
  actions = Answer();
  ASSERT_EQ(agent_.state(), State::kLeaving);
  ASSERT_EQ(actions.send.size(), 2u);
  EXPECT_EQ(actions.send[1].left().exit_code(), 75);
  EXPECT_EQ(actions.send[1].left().round(), 1);
}

TEST_F(AgentTest, AStopWantedHereTravelsInTheNoteAndDoesNotCutTheRoundShort) {
  EnterFirstRound();
  const AgentActions stop = agent_.OnStopRequested("SIGTERM", ++now_);
  EXPECT_FALSE(stop.exit.has_value());
  const AgentActions reduce = Answer();
  ASSERT_TRUE(reduce.run && reduce.run->has_reduce());
  EXPECT_TRUE(reduce.run->reduce().note().stop());
}

TEST_F(AgentTest, AStopBeforeAnyViewLeavesAtOnce) {
  agent_.Start(now_);
  Welcome();
  const AgentActions actions = agent_.OnStopRequested("SIGTERM", ++now_);
  ASSERT_TRUE(actions.exit.has_value());
  EXPECT_EQ(actions.exit->code, ExitCode::kStoppedCleanly);
}

TEST_F(AgentTest, ReportsAreRepeatedUntilAcknowledged) {
  EnterFirstRound();
  TrainAndReduce();
  Answer(WithDigest(1));
  now_ += Outbox::kResendSeconds + 1;
  AgentActions again = agent_.OnTick(now_);
  ASSERT_EQ(again.send.size(), 3u);  // Ready, evaluation, round
  pb::OrchestratorMessage ack;
  ack.mutable_ack()->set_sequence(again.send.back().sequence());
  Message(ack);
  now_ += Outbox::kResendSeconds + 1;
  EXPECT_TRUE(agent_.OnTick(now_).send.empty());
}

TEST_F(AgentTest, AnUnusableCheckpointIsReportedAndTheAgentWaitsForAnotherView) {
  agent_.Start(now_);
  Welcome();
  Answer();
  Message(View(1, "/ck/round-2", 3, Digest{9, 9}.Hex()));
  AgentActions actions = Answer(WithDigest(1));  // loads, but holds something else
  ASSERT_EQ(agent_.state(), State::kWaiting);
  ASSERT_TRUE(actions.send[0].has_ready());
  EXPECT_EQ(actions.send[0].ready().failed_checkpoint(), "/ck/round-2");
  EXPECT_NE(actions.send[0].ready().failure().find("digest"), std::string::npos);
  actions = Message(View(2, "/ck/round-1", 2, Digest{5, 5}.Hex()));
  EXPECT_EQ(agent_.state(), State::kEntering);
  Answer(WithDigest(1));
  EXPECT_EQ(agent_.state(), State::kWaiting);
}

TEST_F(AgentTest, ANewerViewReplacesTheOneBeingEntered) {
  agent_.Start(now_);
  Welcome();
  Answer();
  Message(View(1, "/ck/round-2", 3, Digest{9, 9}.Hex()));
  AgentActions actions =
      Message(View(2, "/ck/round-1", 2, Digest{5, 0}.Hex()));  // another region can't load round 2
  EXPECT_TRUE(actions.abandon_view);
  EXPECT_FALSE(actions.run.has_value()) << "one command at a time";
  pb::RegionAnswer abandoned;
  abandoned.set_error("the view is no more");
  abandoned.set_exit_code(1);
  actions = Answer(abandoned);
  ASSERT_TRUE(actions.run && actions.run->has_enter_view());
  EXPECT_EQ(actions.run->enter_view().view().id(), 2);
  actions = Answer(WithDigest(5));
  ASSERT_TRUE(actions.run && actions.run->has_train());
  EXPECT_EQ(actions.run->train().round(), 2);
}

TEST_F(AgentTest, AResumedJobDoesNotEvaluateOrSaveWhatIsOnDiskAlready) {
  agent_.Start(now_);
  Welcome();
  Answer();
  Message(View(1, "/ck/round-2", 3, Digest{7, 0}.Hex()));
  const AgentActions actions = Answer(WithDigest(7));
  ASSERT_TRUE(actions.run && actions.run->has_train());
  EXPECT_EQ(actions.run->train().round(), 3);
}

TEST_F(AgentTest, AFailureNamesTheRankThatIsTheCauseNotTheOneThatFollows) {
  EnterFirstRound();
  Answer();
  pb::RegionAnswer follows, cause;
  follows.set_error("connection to oslo broke");
  follows.set_exit_code(1);
  follows.set_blames("oslo");
  cause.set_error("disk failed");
  cause.set_exit_code(4);
  const AgentActions actions = agent_.OnAnswers({follows, cause}, ++now_);
  ASSERT_TRUE(actions.send[0].has_fault());
  EXPECT_EQ(actions.send[0].fault().what(), "rank 1: disk failed");
  EXPECT_EQ(actions.send[0].fault().exit_code(), 4);
  EXPECT_EQ(actions.send[0].fault().doing(), "all-reduce of round 1");
  EXPECT_EQ(agent_.state(), State::kFailed);
}

TEST_F(AgentTest, AStopWhileConnectingGivesTheViewUpAndLeavesAtOnce) {
  agent_.Start(now_);
  Welcome();
  Answer();
  Message(View(1));
  ASSERT_EQ(agent_.state(), State::kEntering);
  AgentActions actions = agent_.OnStopRequested("SIGTERM", ++now_);
  EXPECT_TRUE(actions.abandon_view);
  EXPECT_FALSE(actions.exit.has_value()) << "the ranks still answer";
  pb::RegionAnswer abandoned;
  abandoned.set_error("while connecting: the view was given up");
  abandoned.set_interrupted(true);
  actions = Answer(abandoned);
  ASSERT_EQ(actions.send.size(), 1u);
  EXPECT_EQ(actions.send[0].left().exit_code(), 75);
  EXPECT_EQ(actions.send[0].left().round(), 0);
  ASSERT_TRUE(actions.exit.has_value());
  EXPECT_EQ(actions.exit->code, ExitCode::kStoppedCleanly);
  EXPECT_FALSE(actions.exit->is_cause);
}

TEST_F(AgentTest, AStopThatComesWhenAllAreConnectedWaitsForTheRoundsNotes) {
  agent_.Start(now_);
  Welcome();
  Answer();
  Message(View(1));
  agent_.OnStopRequested("SIGTERM", ++now_);
  Answer(WithDigest(1));
  ASSERT_EQ(agent_.state(), State::kEvaluating);
  Answer();
  const AgentActions actions = Answer();  // trained
  ASSERT_TRUE(actions.run.has_value());
  EXPECT_TRUE(actions.run->reduce().note().stop());
}

TEST(SurvivingAgent, WhoIsToldToLeaveWhileItConnectsGivesTheViewUp) {
  for (const bool all : {false, true}) {
    AgentOptions options = AgentTest::Options();
    options.survives = true;
    Agent agent(options);
    agent.Start(0);
    agent.OnMessage(AgentTest::WelcomeMessage(), 1);
    agent.OnAnswers({{}}, 2);
    agent.OnMessage(AgentTest::View(1), 3);
    ASSERT_EQ(agent.state(), State::kEntering);
    pb::OrchestratorMessage stop;
    stop.mutable_stop()->set_reason("SIGTERM");
    AgentActions actions = all ? agent.OnMessage(stop, 4) : agent.OnStopRequested("SIGTERM", 4);
    EXPECT_TRUE(actions.interrupt);
    pb::RegionAnswer interrupted;
    interrupted.set_interrupted(true);
    interrupted.set_error("it was given up");
    actions = agent.OnAnswers({interrupted}, 5);
    ASSERT_TRUE(actions.exit);
    EXPECT_EQ(actions.exit->code, ExitCode::kStoppedCleanly);
    ASSERT_TRUE(actions.send.back().has_left());
    EXPECT_TRUE(actions.send.back().left().never_entered());
  }
}

TEST_F(AgentTest, AVictimExitsWithTheJobsCodeAndSaysThatItIsNoCause) {
  EnterFirstRound();
  Answer();
  pb::RegionAnswer follows;
  follows.set_error("connection to oslo broke");
  follows.set_exit_code(1);
  follows.set_blames("oslo");
  agent_.OnAnswers({follows}, ++now_);
  pb::OrchestratorMessage ended;
  ended.mutable_ended()->set_state("failed");
  ended.mutable_ended()->set_exit_code(4);
  const AgentActions actions = Message(ended);
  ASSERT_TRUE(actions.exit.has_value());
  EXPECT_EQ(actions.exit->code, ExitCode::kEnvironment);
  EXPECT_FALSE(actions.exit->is_cause);
}

TEST_F(AgentTest, AFullDiskIsReportedAsAFailedCheckpointAndEndsTheRegion) {
  EnterFirstRound();
  agent_.OnStopRequested("test", ++now_);
  TrainAndReduce(true);
  Answer(WithDigest(1));
  pb::RegionAnswer full;
  full.set_error("no space left");
  full.set_exit_code(4);
  const AgentActions actions = Answer(full);
  ASSERT_GE(actions.send.size(), 2u);
  EXPECT_EQ(actions.send[0].checkpoint().failure(), "no space left");
  EXPECT_EQ(actions.send[1].fault().exit_code(), 4);
}

TEST_F(AgentTest, NobodyThereEndsWithTheCodeForALostOrchestrator) {
  agent_.Start(now_);
  agent_.OnLink(Agent::Link::kTrying, "nobody answers at tcp://127.0.0.1:1", now_);
  EXPECT_FALSE(agent_.OnTick(now_ + 29).exit.has_value());
  const AgentActions actions = agent_.OnTick(now_ + 30);
  ASSERT_TRUE(actions.exit.has_value());
  EXPECT_EQ(actions.exit->code, ExitCode::kOrchestratorLost);
  EXPECT_NE(actions.exit->why.find("nobody answers"), std::string::npos);
}

TEST_F(AgentTest, ARejectedKeyIsAConfigurationErrorSoon) {
  agent_.Start(now_);
  agent_.OnLink(Agent::Link::kKeyRejected, "the lease is not accepted", now_);
  EXPECT_FALSE(agent_.OnTick(now_ + 1).exit.has_value());
  const AgentActions actions = agent_.OnTick(now_ + 3);
  ASSERT_TRUE(actions.exit.has_value());
  EXPECT_EQ(actions.exit->code, ExitCode::kUsage);
}

TEST_F(AgentTest, ARefusalEndsWithTheOrchestratorsCodeAndReason) {
  agent_.Start(now_);
  pb::OrchestratorMessage message;
  message.mutable_refused()->set_reason("no such region");
  message.mutable_refused()->set_exit_code(2);
  const AgentActions actions = Message(message);
  ASSERT_TRUE(actions.exit.has_value());
  EXPECT_EQ(actions.exit->code, ExitCode::kUsage);
  EXPECT_NE(actions.exit->why.find("no such region"), std::string::npos);
}

TEST_F(AgentTest, ASteadyViewNeedsNoWordFromTheOrchestrator) {
  EnterFirstRound();
  now_ += 10000;  // silence
  EXPECT_FALSE(agent_.OnTick(now_).exit.has_value());
  TrainAndReduce();
  EXPECT_TRUE(Answer(WithDigest(1)).run->has_train());
}

TEST_F(AgentTest, AViewThatDoesNotHoldTogetherIsRefused) {
  agent_.Start(now_);
  Welcome();
  Answer();
  pb::OrchestratorMessage view = View(1);
  view.mutable_view()->mutable_members(0)->set_samples_per_step(1000);
  const AgentActions actions = Message(view);
  ASSERT_FALSE(actions.send.empty());
  EXPECT_TRUE(actions.send[0].has_fault());
}

}  // namespace
}  // namespace atl
