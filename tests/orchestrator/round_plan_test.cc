// Which samples a round takes: no gap, no overlap.
#include "proto/round_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/exit_code.h"
#include "base/random.h"

namespace atl {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

pb::Job JobWith(int64_t batch, int64_t inner_steps) {
  pb::Job job;
  job.mutable_train()->set_global_batch(batch);
  job.mutable_train()->set_inner_steps(inner_steps);
  return job;
}

pb::View ViewWith(const std::vector<int64_t>& shares) {
  pb::View view;
  view.set_id(1);
  view.set_lanes(1);
  view.set_key(std::string(32, 'k'));
  view.set_first_round(1);
  view.set_last_round(100);
  for (size_t i = 0; i < shares.size(); ++i) {
    pb::Member* member = view.add_members();
    member->set_region("r" + std::to_string(i));
    member->set_workers(1);
    member->add_gateways("127.0.0.1:1");
    member->set_samples_per_step(shares[i]);
  }
  return view;
}

TEST(Shares, FollowWorkersAndGiveWhatIsLeftToTheFirst) {
  EXPECT_THAT(*Shares(8, {1, 1, 1}), ElementsAre(3, 3, 2));
  EXPECT_THAT(*Shares(8, {2, 1, 1}), ElementsAre(4, 2, 2));
  EXPECT_THAT(*Shares(12, {1, 2, 3}), ElementsAre(2, 4, 6));
  EXPECT_THAT(*Shares(1000000000, {65536, 65536}), ElementsAre(500000000, 500000000));
}

TEST(Shares, LeaveNoRegionWithoutASample) {
  EXPECT_THAT(*Shares(3, {100, 1, 1}), ElementsAre(1, 1, 1));
  EXPECT_THAT(*Shares(4, {100, 1, 1}), ElementsAre(2, 1, 1));
}

TEST(Shares, RefuseMoreRegionsThanSamples) {
  const auto shares = Shares(2, {1, 1, 1});
  EXPECT_EQ(ExitCodeOf(shares.status()), ExitCode::kUsage);
  EXPECT_THAT(std::string(shares.status().message()), HasSubstr("train.global_batch is 2"));
}

TEST(Shares, AlwaysSumToTheGlobalBatch) {
  const CounterRandom random(1);
  for (int trial = 0; trial < 2000; ++trial) {
    std::vector<int> workers;
    for (uint64_t i = 0; i < 1 + random.Bits(trial * 100) % 9; ++i) {
      workers.push_back(1 + static_cast<int>(random.Bits(trial * 100 + i + 1) % 70));
    }
    const int64_t batch =
        static_cast<int64_t>(workers.size() + random.Bits(trial * 100 + 50) % 1000);
    const auto shares = Shares(batch, workers);
    ASSERT_TRUE(shares.ok());
    int64_t sum = 0;
    for (const int64_t share : *shares) {
      ASSERT_GE(share, 1);
      sum += share;
    }
    ASSERT_EQ(sum, batch);
  }
}

TEST(RoundPlan, CutsEachRoundAmongTheMembersWithoutGapOrOverlap) {
  pb::View view = ViewWith({3, 3, 2});
  view.set_first_round(6);
  view.set_first_sample(1200);
  const pb::Job job = JobWith(8, 30);
  int64_t cursor = 1200;
  for (int64_t round = 6; round <= 20; ++round) {
    for (int member = 0; member < 3; ++member) {
      const RoundPlan plan = PlanRound(view, job, member, round);
      EXPECT_EQ(plan.job_samples.begin, 1200 + (round - 6) * 240);
      EXPECT_EQ(plan.job_samples.size(), 240);
      EXPECT_EQ(plan.region_samples.begin, cursor);
      EXPECT_EQ(plan.inner_steps, 30);
      EXPECT_EQ(plan.region_samples.size(), plan.samples_per_step * 30);
      cursor = plan.region_samples.end;
    }
  }
}

TEST(RoundPlan, TakesOneStepARoundWhenEveryStepIsShared) {
  pb::Job job = JobWith(8, 30);
  job.mutable_sync()->set_method(pb::Sync::EVERY_STEP);
  const RoundPlan plan = PlanRound(ViewWith({3, 3, 2}), job, 1, 2);
  EXPECT_EQ(plan.inner_steps, 1);
  EXPECT_EQ(plan.job_samples, (Range{8, 16}));
  EXPECT_EQ(plan.region_samples, (Range{11, 14}));
}

TEST(Lanes, GoToTheWorkerWhoseShareHoldsThem) {
  for (int workers = 1; workers <= 9; ++workers) {
    for (int lanes = 1; lanes <= 12; ++lanes) {
      for (int lane = 0; lane < lanes; ++lane) {
        const int worker = WorkerOfLane(lane, lanes, workers);
        EXPECT_LE(worker * lanes / workers, lane);
        EXPECT_GT((worker + 1) * lanes / workers, lane);
      }
    }
  }
}

TEST(View, ThatDoesNotFitTheJobIsRefused) {
  const pb::Job job = JobWith(8, 30);
  EXPECT_TRUE(CheckView(ViewWith({3, 3, 2}), job).ok());
  const auto broken = [&](auto change) {
    pb::View view = ViewWith({3, 3, 2});
    change(view);
    return !CheckView(view, job).ok();
  };
  EXPECT_TRUE(broken([](pb::View& v) { v.set_id(0); }));
  EXPECT_TRUE(broken([](pb::View& v) { v.clear_members(); }));
  EXPECT_TRUE(broken([](pb::View& v) { v.set_lanes(0); }));
  EXPECT_TRUE(broken([](pb::View& v) { v.set_lanes(2); }));
  EXPECT_TRUE(broken([](pb::View& v) { v.set_key("short"); }));
  EXPECT_TRUE(broken([](pb::View& v) { v.set_first_round(0); }));
  EXPECT_TRUE(broken([](pb::View& v) { v.set_last_round(0); }));
  EXPECT_TRUE(broken([](pb::View& v) { v.set_first_sample(-1); }));
  EXPECT_TRUE(broken([](pb::View& v) { v.set_first_sample(INT64_MAX - 5); }));
  EXPECT_TRUE(broken([](pb::View& v) { v.set_last_round(INT64_MAX); }));
  EXPECT_TRUE(broken([](pb::View& v) { v.mutable_members(1)->set_region("r0"); }));
  EXPECT_TRUE(broken([](pb::View& v) { v.mutable_members(1)->set_workers(0); }));
  EXPECT_TRUE(broken([](pb::View& v) { v.mutable_members(1)->set_samples_per_step(4); }));
  EXPECT_TRUE(broken([](pb::View& v) { v.mutable_members(1)->set_samples_per_step(-3); }));
}

}  // namespace
}  // namespace atl
