// Member 0's decisions, as a pure state machine: reports in, hooks out. No plan-making here: the
// test answers what the conductor asks for.
#include "collectives/wan/conductor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace atl::wan {
namespace {

constexpr double kFar = 0.1, kNear = 1e-4;

LinkReport Link(int from, int to, double rtt) {
  LinkReport report;
  report.from = from;
  report.to = to;
  report.rtt_seconds = rtt;
  return report;
}

// 100 MB/s unless told otherwise.
LinkReport Busy(int from, int to, double rtt, double rate = 100e6) {
  LinkReport report = Link(from, to, rtt);
  report.busy_seconds = 1;
  report.acked_bytes = rate;
  return report;
}

class WanConductor : public testing::Test {
 protected:
  explicit WanConductor(int members = 3) : members_(members) { Make(ScheduleKind::kAuto); }

  void Make(ScheduleKind kind) {
    Conductor::Hooks hooks;
    hooks.probe = [this](double seconds) { probes_.push_back(seconds); };
    hooks.solve = [this](const LinkMatrix& links, const PlanRequest& request) {
      solves_.push_back({links, request});
    };
    hooks.first_plan = [this](const NumberedPlan& plan) { first_.push_back(plan); };
    hooks.tell = [this](int member, const NumberedPlan& plan) { told_.push_back({member, plan}); };
    std::vector<std::string> names;
    for (int i = 0; i < members_; ++i) names.push_back(std::string(1, static_cast<char>('a' + i)));
    conductor_ = std::make_unique<Conductor>(names, kind, true, 100, hooks);
  }
  void Report(int member, double rtt, bool busy = false, double rate = 100e6) {
    std::vector<LinkReport> reports;
    for (int to = 0; to < members_; ++to) {
      if (to == member) continue;
      reports.push_back(busy ? Busy(member, to, rtt, rate) : Link(member, to, rtt));
    }
    conductor_->OnReport(member, reports);
  }
  void ReportAll(double rtt, bool busy = false, double rate = 100e6) {
    for (int member = 0; member < members_; ++member) Report(member, rtt, busy, rate);
  }
  // What a planner would answer to the last question.
  TreePlan Answer(double throughput = 50e6) {
    TreePlan plan = EqualPlan(members_);
    plan.throughput = throughput;
    plan.latency = kFar;
    return plan;
  }
  void BecomeSteady() {
    ReportAll(kFar);
    ReportAll(kFar, true);
    conductor_->OnPlanned(Answer());
  }

  struct Question {
    LinkMatrix links;
    PlanRequest request;
  };
  const int members_;
  std::unique_ptr<Conductor> conductor_;
  std::vector<double> probes_;
  std::vector<Question> solves_;
  std::vector<NumberedPlan> first_;
  std::vector<std::pair<int, NumberedPlan>> told_;
};

TEST_F(WanConductor, NearMembersGetEqualSharesAtOnceAndNobodyProbes) {
  Report(0, kNear);
  Report(2, kNear);
  EXPECT_TRUE(first_.empty()) << "member 1 has not reported";
  Report(1, kNear);
  ASSERT_EQ(first_.size(), 1);
  EXPECT_EQ(first_[0].plan.throughput, 0) << "nobody paces";
  EXPECT_EQ(first_[0].version, 101);
  EXPECT_TRUE(probes_.empty());
  ReportAll(kNear, true);
  EXPECT_TRUE(solves_.empty());
  EXPECT_FALSE(conductor_->TakeCandidate().has_value());
}

TEST_F(WanConductor, NearMembersGetTheScheduleThatWasWished) {
  Make(ScheduleKind::kRing);
  ReportAll(kNear);
  ASSERT_EQ(first_.size(), 1);
  EXPECT_EQ(first_[0].plan.kind, ScheduleKind::kRing);
}

TEST_F(WanConductor, FarMembersProbeThenPlanThenStand) {
  ReportAll(kFar);
  ASSERT_EQ(probes_.size(), 1);
  EXPECT_GE(probes_[0], 10 * kFar);
  EXPECT_TRUE(solves_.empty());
  Report(0, kFar, true);
  Report(1, kFar, true);
  EXPECT_TRUE(solves_.empty());
  Report(2, kFar, true);
  ASSERT_EQ(solves_.size(), 1);
  EXPECT_NEAR(solves_[0].links.delay(0, 1), kFar / 2, 1e-9);
  EXPECT_TRUE(solves_[0].request.order_stable);
  EXPECT_TRUE(first_.empty());
  conductor_->OnPlanned(Answer());
  ASSERT_EQ(first_.size(), 1);
  EXPECT_EQ(first_[0].plan.throughput, 50e6);
}

TEST_F(WanConductor, LinksThatAreKnownFromAViewBeforeAreNotProbed) {
  LinkModel former({"d", "c", "b", "a"});
  std::vector<LinkReport> reports;
  for (int from = 0; from < 4; ++from) {
    for (int to = 0; to < 4; ++to) {
      if (from != to) reports.push_back(Busy(from, to, kFar, 10e6 * (from + 1)));
    }
  }
  former.Observe(reports);
  conductor_->Remember(former);
  ReportAll(kFar);
  EXPECT_TRUE(probes_.empty());
  ASSERT_EQ(solves_.size(), 1);
  EXPECT_EQ(solves_[0].links.up[0], former.matrix().up[3]);
  EXPECT_EQ(solves_[0].links.down[2], former.matrix().down[1]);
  EXPECT_EQ(solves_[0].links.rate(1, 0), former.matrix().rate(2, 3));
  EXPECT_EQ(solves_[0].links.delay(0, 1), kFar / 2);
  EXPECT_TRUE(first_.empty());
  conductor_->OnPlanned(Answer());
  EXPECT_EQ(first_.size(), 1);
  ReportAll(kFar, true);
  EXPECT_EQ(solves_.size(), 2);
}

TEST_F(WanConductor, LinksOfWhichAMemberIsUnknownAreProbed) {
  LinkModel former({"a", "b"});
  former.Observe({Busy(0, 1, kFar), Busy(1, 0, kFar)});
  conductor_->Remember(former);
  ReportAll(kFar);
  EXPECT_EQ(probes_.size(), 1);
}

TEST_F(WanConductor, ProbesAreNeverLongerThanAFewSeconds) {
  ReportAll(1e18);
  ASSERT_EQ(probes_.size(), 1);
  EXPECT_LE(probes_[0], kMaxProbeSeconds);
}

TEST_F(WanConductor, WithoutAPlanTheFirstOneIsEqualShares) {
  ReportAll(kFar);
  ReportAll(kFar, true);
  conductor_->OnPlanned(absl::InternalError("no optimum"));
  ASSERT_EQ(first_.size(), 1);
  EXPECT_EQ(first_[0].plan.trees.size(), EqualPlan(3).trees.size());
  EXPECT_EQ(first_[0].plan.throughput, 0);
}

TEST_F(WanConductor, ABetterPlanIsACandidateOnceAndTheSameOneIsNone) {
  BecomeSteady();
  ReportAll(kFar, true);
  ASSERT_EQ(solves_.size(), 2);
  TreePlan better = Answer(50e6);
  better.trees.pop_back();
  better.trees.pop_back();
  better.trees[0].weight = 1;
  conductor_->OnBegin(1e6);
  conductor_->OnPlanned(better);  // judged by what the links are thought to carry
  const auto candidate = conductor_->TakeCandidate();
  if (candidate.has_value()) {
    EXPECT_GT(candidate->version, first_[0].version);
  }
  EXPECT_FALSE(conductor_->TakeCandidate().has_value());
}

TEST_F(WanConductor, ReportsThatComeWhileAPlanIsMadeAskForAnother) {
  BecomeSteady();
  ReportAll(kFar, true);
  ReportAll(kFar, true);
  ReportAll(kFar, true);
  EXPECT_EQ(solves_.size(), 2) << "one at a time";
  conductor_->OnPlanned(Answer());
  EXPECT_EQ(solves_.size(), 3);
  conductor_->OnPlanned(Answer());
  EXPECT_EQ(solves_.size(), 3);
}

TEST_F(WanConductor, AFailureToPlanKeepsTheOldOne) {
  BecomeSteady();
  ReportAll(kFar, true);
  conductor_->OnPlanned(absl::InternalError("no optimum"));
  EXPECT_FALSE(conductor_->TakeCandidate().has_value());
  ReportAll(kFar, true);
  EXPECT_EQ(solves_.size(), 3);
}

TEST_F(WanConductor, AMemberThatReportsTwiceIsHeardOnceARound) {
  BecomeSteady();
  for (int i = 0; i < 5; ++i) Report(1, kFar, true);
  EXPECT_EQ(solves_.size(), 1);
  Report(0, kFar, true);
  Report(2, kFar, true);
  EXPECT_EQ(solves_.size(), 2);
}

TEST_F(WanConductor, ReportsOfOneMemberAloneAreForgottenInTime) {
  BecomeSteady();
  for (int i = 0; i < 100000; ++i) Report(1, kFar, true);
  // Those that are kept are far fewer: the others are asked for anew soon.
  int rounds = 0;
  for (; rounds < 100; ++rounds) {
    const size_t before = solves_.size();
    Report(0, kFar, true);
    Report(2, kFar, true);
    if (solves_.size() == before) break;
    conductor_->OnPlanned(Answer());
  }
  EXPECT_LE(rounds, 16);
}

TEST_F(WanConductor, AMemberThatBeginsAnewBeforeThePlanStartsThemAllOver) {
  Report(0, kFar);
  Report(1, kFar);
  conductor_->Restarted(1);
  Report(2, kFar);
  EXPECT_TRUE(probes_.empty()) << "member 1's report was of its last life";
  Report(1, kFar);
  EXPECT_EQ(probes_.size(), 1);
  conductor_->Restarted(2);
  Report(2, kFar);
  EXPECT_EQ(probes_.size(), 2);
}

TEST_F(WanConductor, AMemberThatBeginsAnewWhileTheFirstPlanIsMade) {
  ReportAll(kFar);
  ReportAll(kFar, true);
  ASSERT_EQ(solves_.size(), 1);
  conductor_->Restarted(1);
  conductor_->OnPlanned(Answer());  // of links that are no more
  EXPECT_TRUE(first_.empty());
  EXPECT_FALSE(conductor_->TakeCandidate().has_value());
  Report(1, kFar);
  EXPECT_EQ(probes_.size(), 2);
  ReportAll(kFar, true);
  ASSERT_EQ(solves_.size(), 2);
  conductor_->OnPlanned(Answer());
  EXPECT_EQ(first_.size(), 1);
}

TEST_F(WanConductor, AMemberThatBeginsAnewAfterThePlanIsToldTheAnnouncedOne) {
  BecomeSteady();
  conductor_->Restarted(2);
  EXPECT_TRUE(told_.empty()) << "its links do not stand yet";
  Report(2, kFar);
  ASSERT_EQ(told_.size(), 1);
  EXPECT_EQ(told_[0].first, 2);
  EXPECT_EQ(told_[0].second.version, first_[0].version);
  // A candidate that is not announced yet is not for telling.
  ReportAll(kFar, true);
  conductor_->OnPlanned(Answer(5e6));
  ReportAll(kFar, true, 10e6);
  conductor_->OnPlanned(Answer(5e6));
  conductor_->Restarted(1);
  Report(1, kFar);
  ASSERT_EQ(told_.size(), 2);
  EXPECT_EQ(told_[1].second.version, first_[0].version);
  const auto candidate = conductor_->TakeCandidate();
  ASSERT_TRUE(candidate.has_value());
  conductor_->Restarted(1);
  Report(1, kFar);
  EXPECT_EQ(told_[2].second.version, candidate->version);
}

TEST_F(WanConductor, PlansWithNumbersThatDoNotTravelAreMadeToTravel) {
  for (const double number : {std::numeric_limits<double>::infinity(), 1e300, 4e18}) {
    Make(ScheduleKind::kAuto);
    first_.clear();
    ReportAll(kFar);
    ReportAll(kFar, true);
    TreePlan plan = Answer(number);
    plan.latency = number;
    conductor_->OnPlanned(plan);
    ASSERT_EQ(first_.size(), 1);
    EXPECT_TRUE(std::isfinite(first_[0].plan.throughput));
    EXPECT_TRUE(std::isfinite(first_[0].plan.latency));
  }
}

TEST_F(WanConductor, AbsurdReportsLeaveAMatrixAPlannerCanTake) {
  for (const double number : {1e18, 5e-324, 1e-300, 0.0}) {
    Make(ScheduleKind::kAuto);
    first_.clear();
    solves_.clear();
    ReportAll(kFar);
    for (int member = 0; member < 3; ++member) {
      std::vector<LinkReport> reports;
      for (int to = 0; to < 3; ++to) {
        if (to == member) continue;
        LinkReport report = Busy(member, to, number);
        if (member == 1) report.busy_seconds = report.acked_bytes = number;
        if (member == 2) report.acked_bytes = number;
        report.paced_rate = report.queue_seconds = report.retransmitted = number;
        reports.push_back(report);
      }
      conductor_->OnReport(member, reports);
    }
    ASSERT_EQ(solves_.size(), 1);
    StatusOr<TreePlan> plan = MakePlan(solves_[0].links, solves_[0].request);
    conductor_->OnPlanned(std::move(plan));
    EXPECT_EQ(first_.size(), 1);
  }
}

}  // namespace
}  // namespace atl::wan
