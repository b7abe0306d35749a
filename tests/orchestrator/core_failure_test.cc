// The core on its bad days: faults and their cause, silence, differing digests, nonsense.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "orchestrator/core/core.h"
#include "tests/orchestrator/core_driver.h"

namespace atl {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(CoreFailure, ADifferingDigestNamesTheMinorityAndTheRound) {
  CoreDriver core(CoreDriver::TestJob(3));
  core.AllReady();
  core.Round("a", 1);
  core.Round("b", 1, "other");
  const std::string text = core.Round("c", 1);
  EXPECT_THAT(text, HasSubstr("after round 1 the regions hold different states (P1); b differs"));
  EXPECT_THAT(text, Not(HasSubstr("round 1 loss"))) << "it is not committed";
  EXPECT_THAT(text, HasSubstr("end failed 1"));
}

TEST(CoreFailure, OfTwoThatDisagreeNeitherIsTheCulprit) {
  CoreDriver core(CoreDriver::TestJob(2));
  core.AllReady();
  core.Round("a", 1);
  EXPECT_THAT(core.Round("b", 1, "other"), HasSubstr("no majority among a and b"));
}

TEST(CoreFailure, AFaultEndsTheJobWithItsCode) {
  CoreDriver core(CoreDriver::TestJob(2));
  core.AllReady();
  const std::string text = core.Fault("b", "no space left", 4);
  EXPECT_THAT(text, HasSubstr("region b: no space left (during all-reduce round 1)"));
  EXPECT_THAT(text, HasSubstr("-> a ended failed 4"));
  EXPECT_THAT(text, HasSubstr("end failed 4"));
}

TEST(CoreFailure, AFaultIsHeardEvenWhereAReportBeforeItGotLost) {
  CoreDriver core(CoreDriver::TestJob(2));
  core.AllReady();
  pb::LeaderMessage fault;
  fault.set_sequence(7);
  fault.mutable_fault()->set_what("out of memory");
  EXPECT_THAT(core.Message("a", fault), HasSubstr("end failed 1"));
}

TEST(CoreFailure, ABlamedRegionsOwnWordsNameTheCause) {
  CoreDriver core(CoreDriver::TestJob(3));
  core.AllReady();
  EXPECT_THAT(core.Fault("a", "connection to b broke", 1, "b"),
              HasSubstr("waiting for region b's own words, because region a lost its connection"));
  core.Fault("c", "connection to b broke", 1, "b");
  EXPECT_FALSE(core.ended());
  core.Advance(1);
  core.Fault("b", "CUDA error", 1);
  ASSERT_TRUE(core.ended());
  EXPECT_THAT(core.ended()->reason, HasSubstr("region b: CUDA error"));
}

TEST(CoreFailure, ARegionThatMissesOneThatStoppedWhileConnectingHasStoppedToo) {
  CoreDriver core(CoreDriver::TestJob(2));
  core.AllReady();
  EXPECT_THAT(core.Left("b", 0, 75), HasSubstr("stop: region b was told to leave"));
  core.Fault("a", "b left view 1", 1, "b");
  ASSERT_TRUE(core.ended());
  EXPECT_EQ(core.ended()->exit_code, 75);
  EXPECT_THAT(core.ended()->reason, HasSubstr("b was told to leave; round 0 is committed"));
}

TEST(CoreFailure, ARegionThatMissesOneThatStoppedAfterARoundHasFailed) {
  CoreDriver core(CoreDriver::TestJob(2));
  core.AllReady();
  core.AllRound(1);
  core.Left("b", 1, 75);
  core.Fault("a", "b left view 1", 1, "b");
  core.Advance(6);
  ASSERT_TRUE(core.ended());
  EXPECT_EQ(core.ended()->exit_code, 1);
}

TEST(CoreFailure, ABlamedRegionThatSaysNothingIsNamed) {
  CoreDriver core(CoreDriver::TestJob(3));
  core.AllReady();
  core.Heartbeat("b");
  core.Fault("a", "connection to b broke", 1, "b");
  ASSERT_TRUE(core.wake_at());
  EXPECT_EQ(core.Advance(*core.wake_at() - core.now() - 0.01), "");
  core.Advance(0.02);
  ASSERT_TRUE(core.ended());
  EXPECT_EQ(core.ended()->reason,
            "region b is gone (last heard of at 00:16:40 UTC (during inner step 1/2)); a lost the "
            "connection to it: connection to b broke");
}

TEST(CoreFailure, RegionsThatBlameOneAnotherEndTheJobWithoutACulprit) {
  CoreDriver core(CoreDriver::TestJob(2));
  core.AllReady();
  core.Fault("a", "connection to b broke", 1, "b");
  EXPECT_THAT(core.Fault("b", "connection to a broke", 1, "a"), HasSubstr("end failed 1"));
  EXPECT_THAT(core.ended()->reason, HasSubstr("a and b lost their connections to one another"));
}

TEST(CoreFailure, SilenceInAViewEndsTheJob) {
  CoreDriver core(CoreDriver::TestJob(2));
  core.AllReady();
  for (int i = 0; i < 9; ++i) {
    core.Advance(1);
    core.Heartbeat("a");
  }
  EXPECT_FALSE(core.ended());
  core.Advance(1);
  ASSERT_TRUE(core.ended());
  EXPECT_THAT(core.ended()->reason, HasSubstr("region b has not been heard of since"));
}

TEST(CoreFailure, ARegionWithLongGapsIsGivenMoreTime) {
  CoreDriver core(CoreDriver::TestJob(1));
  core.AllReady();
  core.Advance(3);
  core.Heartbeat("a");
  for (int i = 0; i < 29; ++i) core.Advance(1);
  EXPECT_FALSE(core.ended()) << "ten times the gap of 3 s";
  core.Advance(1);
  EXPECT_TRUE(core.ended());
}

TEST(CoreFailure, SilenceBeforeTheFirstViewMakesRoomForANewStart) {
  CoreDriver core(CoreDriver::TestJob(2));
  core.Start();
  core.Hello("a");
  const std::string text = core.Advance(10);
  EXPECT_THAT(text, HasSubstr("event region_silent"));
  EXPECT_THAT(text, HasSubstr("waiting for a and b to start"));
  EXPECT_FALSE(core.ended());
  EXPECT_THAT(core.Hello("a", "2"), HasSubstr("-> a welcome"));
}

TEST(CoreFailure, ARegionThatWasOnlySlowBeforeTheFirstViewIsTakenBack) {
  CoreDriver core(CoreDriver::TestJob(2));
  core.Start();
  core.Hello("a");
  core.Ready("a");
  core.Advance(10);
  EXPECT_THAT(core.Heartbeat("a"), HasSubstr("region a is heard of again"));
  core.Hello("b");
  EXPECT_THAT(core.Ready("b"), HasSubstr("-> a view 1"));
  core.Round("b", 1);
  EXPECT_THAT(core.Round("a", 1), HasSubstr("round 1 loss")) << "its reports go on counting";
}

TEST(CoreFailure, NobodyIsBlamedForTheOrchestratorsOwnPause) {
  CoreDriver core(CoreDriver::TestJob(2));
  core.AllReady();
  EXPECT_THAT(core.Advance(600), HasSubstr("event paused"));
  EXPECT_FALSE(core.ended());
}

TEST(CoreFailure, ACheckpointThatCannotBeWrittenIsToldAndTheJobGoesOn) {
  CoreDriver core(CoreDriver::TestJob(2));
  core.AllReady();
  core.AllRound(1);
  EXPECT_THAT(core.Checkpoint("b", 1, "disk full: /x"),
              HasSubstr("event checkpoint_failed: region b could not write the checkpoint of round "
                        "1: disk full: /x"));
  EXPECT_FALSE(core.ended());
  EXPECT_THAT(core.Checkpoint("a", 1), Not(HasSubstr("checkpoint_complete")));
  core.AllRound(2);
  core.Checkpoint("b", 2);
  EXPECT_THAT(core.Checkpoint("a", 2), HasSubstr("event checkpoint_complete"));
}

TEST(CoreFailure, TheLastCheckpointThatCannotBeWrittenEndsTheJobWithItsCode) {
  CoreDriver core(CoreDriver::TestJob(2));
  core.AllReady();
  core.AllRound(1);
  core.Checkpoint("b", 1, "disk full: /x");
  EXPECT_THAT(core.Fault("b", "disk full: /x", 4), HasSubstr("end failed 4"));
  EXPECT_THAT(core.ended()->reason, HasSubstr("disk full: /x"));
}

TEST(CoreFailure, ASkippedCheckpointIsToldWithTheCount) {
  CoreDriver core(CoreDriver::TestJob(2));
  core.AllReady();
  core.AllRound(1);
  pb::LeaderMessage message;
  message.mutable_checkpoint()->set_view(core.view("a").id());
  message.mutable_checkpoint()->mutable_checkpoint()->set_round(1);
  message.mutable_checkpoint()->set_failure("the two saves before it are still being written");
  message.mutable_checkpoint()->set_skipped(3);
  message.set_sequence(3);
  EXPECT_THAT(core.Message("a", message),
              HasSubstr("event checkpoint_skipped: region a made no checkpoint of round 1: the two "
                        "saves before it are still being written (3 skipped so far)"));
}

TEST(CoreFailure, LeavingEarlyWithoutASignalIsAFailure) {
  CoreDriver core(CoreDriver::TestJob(2));
  core.AllReady();
  core.AllRound(1);
  EXPECT_THAT(core.Left("a", 1, 0), HasSubstr("end failed 1"));
}

TEST(CoreFailure, SamplesThatWereNotAssignedAreNotCounted) {
  CoreDriver core(CoreDriver::TestJob(2));
  core.AllReady();
  pb::LeaderMessage report = core.RoundReport("a", 1);
  report.mutable_round()->set_end_sample(report.round().end_sample() + 1);
  report.set_sequence(2);
  EXPECT_THAT(core.Message("a", report), HasSubstr("but [0, 4) were assigned to it"));
  EXPECT_TRUE(core.ended());
}

TEST(CoreFailure, RoundsBeyondTheViewEndTheJob) {
  CoreDriver core(CoreDriver::TestJob(2, 3));
  core.AllReady();
  pb::LeaderMessage report = core.RoundReport("a", 3);
  report.mutable_round()->set_round(INT64_MAX);
  report.set_sequence(2);
  EXPECT_THAT(core.Message("a", report), HasSubstr("which is not part of view 1"));
}

TEST(CoreFailure, WhatAnotherViewReportsIsIgnored) {
  CoreDriver core(CoreDriver::TestJob(2));
  core.AllReady();
  pb::LeaderMessage report = core.RoundReport("a", 1);
  report.mutable_round()->set_view(9);
  report.set_sequence(2);
  EXPECT_EQ(core.Message("a", report), "-> a ack 2\n");
}

TEST(CoreFailure, UncommittedSamplesGoBackToTheLedger) {
  CoreDriver core(CoreDriver::TestJob(2));
  core.AllReady();
  core.AllRound(1);
  core.Round("a", 2);
  core.Fault("b", "broken");
  std::map<std::pair<int64_t, std::string>, SampleState> states;
  for (const Record& record : core.records()) {
    if (const auto* sample = std::get_if<SampleRecord>(&record)) {
      states[{sample->round, sample->region}] = sample->state;
    }
  }
  EXPECT_EQ(states.size(), 4);
  EXPECT_EQ((states[{1, "a"}]), SampleState::kCommitted);
  EXPECT_EQ((states[{2, "a"}]), SampleState::kReturned);
  EXPECT_EQ((states[{2, "b"}]), SampleState::kReturned);
}

TEST(CoreFailure, TheOrchestratorsOwnFailureIsToldToTheRegions) {
  CoreDriver core(CoreDriver::TestJob(2));
  core.AllReady();
  const std::string text = core.Take(core.core().OnOwnFailure("disk full", 4, core.now()));
  EXPECT_THAT(text, HasSubstr("-> a ended failed 4"));
  EXPECT_THAT(text, HasSubstr("end failed 4"));
}

}  // namespace
}  // namespace atl
