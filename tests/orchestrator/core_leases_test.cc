// Leases, as transcripts: who is waited for, which round is the last, what is said of it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "orchestrator/core/core.h"
#include "orchestrator/core/round_time.h"
#include "tests/orchestrator/core_driver.h"

namespace atl {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// The driver's clock begins at 1000 s: 00:16:40.
std::string At(double seconds) {
  return absl::FormatTime(absl::RFC3339_full, absl::UnixEpoch() + absl::Seconds(1000 + seconds),
                          absl::UTCTimeZone());
}

pb::Job JobWith(double start, double end, double lead = 0) {
  pb::Job job = CoreDriver::TestJob(2, 20);
  pb::Lease* lease = job.mutable_regions(1)->mutable_lease();
  if (start > 0) lease->set_start(At(start));
  if (end > 0) lease->set_end(At(end));
  lease->set_lead(lead);
  return job;
}

class Leases : public testing::Test {
 protected:
  void Begin(const pb::Job& job) {
    core_ = std::make_unique<CoreDriver>(job);
    core_->survives = true;
    core_->AllReady();
  }
  // A round of 10 s, of which the all-reduce takes 2.
  std::string Round(int64_t round) {
    std::string text = core_->Advance(10);
    for (const std::string& region : core_->names()) {
      pb::LeaderMessage report = core_->RoundReport(region, round);
      report.mutable_round()->set_seconds(10);
      report.mutable_round()->set_wan_seconds(2);
      text += core_->Send(region, report);
    }
    return text;
  }
  std::unique_ptr<CoreDriver> core_;
};

TEST_F(Leases, ARegionIsNotWaitedForBeforeItsLeaseBegins) {
  core_ = std::make_unique<CoreDriver>(JobWith(60, 0));
  core_->survives = true;
  core_->Start();
  core_->Hello("a");
  EXPECT_THAT(core_->Ready("a"), HasSubstr("-> a view 1"));
}

TEST_F(Leases, ARegionWhoseLeaseHasBegunIsWaitedFor) {
  core_ = std::make_unique<CoreDriver>(JobWith(60, 0));
  core_->survives = true;
  core_->Start();
  core_->Advance(61);
  core_->Hello("a");
  EXPECT_THAT(core_->Ready("a"), AllOf(Not(HasSubstr("view")), HasSubstr("waiting for b")));
}

TEST_F(Leases, TheLastWholeRoundIsPlannedAndNoneIsWasted) {
  Begin(JobWith(0, 45));
  // Rounds end at 10, 20, 30, 40. With 3 s kept free, the fourth is the last to fit.
  EXPECT_THAT(Round(1), AllOf(HasSubstr("event lease_short"), HasSubstr("round 4 will be its last"),
                              Not(HasSubstr("drain"))));
  EXPECT_THAT(Round(2), Not(HasSubstr("lease")));
  EXPECT_THAT(Round(3), AllOf(HasSubstr("it leaves after round 4, the last that fits"),
                              HasSubstr("-> b drain")));
}

TEST_F(Leases, TheLeadOfTheSiteIsTakenOff) {
  Begin(JobWith(0, 45, 10));
  Round(1);
  EXPECT_THAT(Round(2), HasSubstr("it leaves after round 3, the last that fits"));
}

TEST_F(Leases, ALeaseThatOutlastsTheJobIsNotSpokenOf) {
  Begin(JobWith(0, 500));
  for (int64_t round = 1; round <= 6; ++round) EXPECT_THAT(Round(round), Not(HasSubstr("lease")));
}

TEST_F(Leases, TheWordToLeaveIsSaidUntilItIsHeard) {
  Begin(JobWith(0, 45));
  for (int64_t round = 1; round <= 3; ++round) Round(round);
  EXPECT_THAT(core_->Advance(0.5), Not(HasSubstr("drain")));
  EXPECT_THAT(core_->Advance(1), AllOf(HasSubstr("-> b drain"), Not(HasSubstr("event"))));
  pb::LeaderMessage leaving;
  leaving.mutable_leaving()->set_reason("its lease ends");
  core_->Send("b", leaving);
  EXPECT_THAT(core_->Advance(2), Not(HasSubstr("drain")));
}

TEST_F(Leases, ARegionWhoseClockIsAheadLosesItsLeaseEarlier) {
  Begin(JobWith(0, 45));
  pb::LeaderMessage heartbeat;
  heartbeat.set_attempt("1");
  heartbeat.mutable_heartbeat()->set_view(1);
  heartbeat.mutable_heartbeat()->set_clock(core_->now() + 12);
  EXPECT_THAT(core_->Message("b", heartbeat), HasSubstr("is 12.0 s ahead of"));
  Round(1);
  EXPECT_THAT(Round(2), HasSubstr("it leaves after round 3, the last that fits"));
}

// It was said when the orchestrator came back after a minute.
TEST_F(Leases, HeartbeatsThatWaitedForTheOrchestratorDoNotMakeAClockBehind) {
  Begin(JobWith(0, 1000));
  pb::LeaderMessage heartbeat;
  heartbeat.set_attempt("1");
  const auto hear = [&](double age) {
    heartbeat.mutable_heartbeat()->set_view(1);
    heartbeat.mutable_heartbeat()->set_clock(core_->now() - age);
    return core_->Message("b", heartbeat);
  };
  std::string text;
  for (int age = 60; age > 0; --age) text += hear(age);
  for (int i = 0; i < 10; ++i) {
    text += core_->Advance(1);
    text += hear(0.1);
  }
  EXPECT_THAT(text, Not(HasSubstr("the clock of region")));
}

TEST_F(Leases, AClockThatIsBehindIsTold) {
  Begin(JobWith(0, 1000));
  pb::LeaderMessage heartbeat;
  heartbeat.set_attempt("1");
  heartbeat.mutable_heartbeat()->set_view(1);
  std::string text;
  for (int i = 0; i < 10; ++i) {
    heartbeat.mutable_heartbeat()->set_clock(core_->now() - 12);
    text += core_->Message("b", heartbeat);
    text += core_->Advance(1);
  }
  EXPECT_THAT(text, HasSubstr("is 12.0 s behind the orchestrator's"));
}

TEST_F(Leases, WhatTheWorkerSaysComesBeforeTheJobFile) {
  core_ = std::make_unique<CoreDriver>(JobWith(0, 45));
  core_->survives = true;
  core_->Start();
  core_->Hello("a");
  pb::LeaderMessage hello;
  hello.mutable_hello()->set_protocol(kTestProtocol);
  hello.mutable_hello()->set_region("b");
  hello.mutable_hello()->set_attempt("1");
  hello.mutable_hello()->set_workers(1);
  hello.mutable_hello()->set_lease_end(1000 + 500);
  core_->Hello("b", "0");
  core_->Message("b", hello);
  pb::LeaderMessage ready;
  core_->Ready("a");
  *ready.mutable_ready() = core_->ReadyMessage("b");
  ready.set_attempt("1");
  ready.set_sequence(1);
  EXPECT_THAT(core_->Message("b", ready), HasSubstr("view 1"));
  for (int64_t round = 1; round <= 4; ++round) {
    pb::LeaderMessage report = core_->RoundReport("b", round);
    report.set_sequence(1 + round);
    report.set_attempt("1");
    report.mutable_round()->set_seconds(10);
    core_->Advance(10);
    core_->Round("a", round);
    EXPECT_THAT(core_->Message("b", report), Not(HasSubstr("lease")));
  }
}

TEST_F(Leases, ANoticeThatIsShorterThanARoundIsSpokenOfOnce) {
  pb::Job job = JobWith(0, 0);
  job.mutable_regions(0)->mutable_lease()->set_notice(5);
  job.mutable_regions(1)->mutable_lease()->set_notice(50);
  Begin(job);
  EXPECT_THAT(Round(1), AllOf(HasSubstr("region a has 5.0 s notice, and a round takes 10.0 s"),
                              Not(HasSubstr("region b has"))));
  EXPECT_THAT(Round(2), Not(HasSubstr("notice")));
}

TEST_F(Leases, WhoComesForLessThanItTakesToJoinIsNotTakenIn) {
  Begin(JobWith(0, 45));
  for (int64_t round = 1; round <= 3; ++round) Round(round);
  core_->Hello("b", "2");
  EXPECT_THAT(core_->Ready("b") + core_->Advance(1), Not(HasSubstr("event planned")));
}

RoundRecord Committed(int64_t round, double time) {
  RoundRecord record;
  record.view = 1, record.round = round, record.time = time;
  return record;
}

std::map<std::string, pb::RoundReport> Reports(double slow_wan, double quick_wan) {
  std::map<std::string, pb::RoundReport> reports;
  reports["slow"].set_seconds(10);
  reports["slow"].set_wan_seconds(slow_wan);
  reports["quick"].set_seconds(10);
  reports["quick"].set_wan_seconds(quick_wan);
  for (auto& [region, report] : reports) report.set_wan_bytes_sent(1000);
  return reports;
}

TEST(RoundTimeTest, TellsTrainingFromTheAllReduceByWhoWaitedLeast) {
  RoundTime time;
  EXPECT_FALSE(time.IsKnown());
  time.OnCommitted(Committed(1, 100), Reports(1, 7));
  EXPECT_DOUBLE_EQ(time.Train(), 9);
  EXPECT_DOUBLE_EQ(time.Reduce(), 1);
  EXPECT_DOUBLE_EQ(time.Round(), 10);
}

TEST(RoundTimeTest, CountsWhatLiesBetweenRoundsOfAView) {
  RoundTime time;
  time.OnCommitted(Committed(1, 100), Reports(1, 7));
  time.OnCommitted(Committed(2, 115), Reports(1, 7));
  EXPECT_DOUBLE_EQ(time.Round(), 15);
}

TEST(RoundTimeTest, BelievesLinksThatHaveBecomeSlower) {
  RoundTime time;
  time.OnCommitted(Committed(1, 100), Reports(1, 7));
  time.OnLinks("quick", 500);
  EXPECT_DOUBLE_EQ(time.Reduce(), 2);
  time.OnLinks("quick", 1);
  EXPECT_DOUBLE_EQ(time.Reduce(), 3) << "a guess says so much at most";
}

}  // namespace
}  // namespace atl
