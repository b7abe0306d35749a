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

TEST(CheckpointWriters, AreTheFirstFullMembersOfTheView) {
  pb::View view;
  for (const char* region : {"a", "b", "c", "d"}) view.add_members()->set_region(region);
  view.mutable_members(1)->set_role(pb::Member::OBSERVER);
  pb::Job job;
  const auto writers = [&] {
    std::string names;
    for (const char* region : {"a", "b", "c", "d", "e"}) {
      if (WritesCheckpoints(view, job, region)) names += region;
    }
    EXPECT_EQ(CheckpointWriters(view, job), static_cast<int64_t>(names.size()));
    return names;
  };
  EXPECT_EQ(writers(), "acd");
  job.mutable_checkpoint()->set_replicas(2);
  EXPECT_EQ(writers(), "ac");
  job.mutable_checkpoint()->set_replicas(7);
  EXPECT_EQ(writers(), "acd");
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

TEST(Pool, TakesWhatWasReturnedFirst) {
  SamplePool pool({{2, 4}, {7, 8}}, 20);
  EXPECT_EQ(pool.Take(5), (std::vector<Range>{{2, 4}, {7, 8}, {20, 22}}));
  EXPECT_EQ(pool, SamplePool({}, 22));
  pool.Return({3, 5});
  pool.Return({5, 6});
  EXPECT_EQ(pool.returned(), (std::vector<Range>{{3, 6}}));
  pool.Remove({4, 5});
  EXPECT_EQ(pool.returned(), (std::vector<Range>{{3, 4}, {5, 6}}));
  pool.Return({20, 22});
  EXPECT_EQ(pool.next(), 20) << "nobody can tell that they had been taken";
  pool.Remove({21, 23});
  EXPECT_EQ(pool, SamplePool({{3, 4}, {5, 6}, {20, 21}}, 23));
}

TEST(RoundPlan, TakesReturnedSamplesFirst) {
  pb::View view = ViewWith({3, 5});
  view.set_first_sample(100);
  ToProto({{10, 14}, {20, 21}}, view.mutable_returned());
  const pb::Job job = JobWith(8, 1);
  EXPECT_EQ(PlanRound(view, job, 0, 1).samples, (std::vector<Range>{{10, 13}}));
  EXPECT_EQ(PlanRound(view, job, 1, 1).samples,
            (std::vector<Range>{{13, 14}, {20, 21}, {100, 103}}));
  EXPECT_EQ(PlanRound(view, job, 0, 2).samples, (std::vector<Range>{{103, 106}}));
  EXPECT_EQ(PoolAfter(view, job, 0), SamplePool({{10, 14}, {20, 21}}, 100));
  EXPECT_EQ(PoolAfter(view, job, 1), SamplePool({}, 103));
  ShortContributions shorter;
  shorter.Add()->set_region("r1");
  shorter[0].set_samples(1);
  EXPECT_EQ(PoolAfter(view, job, 1, shorter), SamplePool({{20, 21}, {100, 103}}, 103));
}

TEST(RoundPlan, ACarriedRoundTakesWhatItsMembersHad) {
  pb::View view = ViewWith({4, 4});
  view.set_first_round(5);
  view.set_first_sample(50);
  view.set_carried(true);
  ToProto({{30, 38}}, view.mutable_members(0)->mutable_first_samples());
  view.mutable_members(0)->set_first_steps(2);
  ToProto({{42, 44}, {46, 48}}, view.mutable_members(1)->mutable_first_samples());
  view.mutable_members(1)->set_first_steps(1);
  ToProto({{44, 46}}, view.mutable_returned());
  const pb::Job job = JobWith(8, 2);
  ASSERT_TRUE(CheckView(view, job).ok());
  EXPECT_EQ(PlanRound(view, job, 0, 5).samples_per_step, 4);
  EXPECT_EQ(PlanRound(view, job, 1, 5).samples, (std::vector<Range>{{42, 44}, {46, 48}}));
  EXPECT_EQ(PlannedSamples(view, job, 5), 12);
  EXPECT_EQ(PlanRound(view, job, 0, 6).samples, (std::vector<Range>{{44, 46}, {50, 56}}));
  EXPECT_EQ(PoolAfter(view, job, 4), SamplePool({{30, 38}, {42, 48}}, 50));
}

TEST(RoundPlan, APlannedViewBeginsWhereTheOneBeforeEnds) {
  pb::View before = ViewWith({4, 4});
  pb::View planned = ViewWith({8});
  planned.set_id(2);
  planned.set_after(1);
  planned.clear_first_round();
  const pb::Job job = JobWith(8, 2);
  ASSERT_TRUE(CheckView(planned, job).ok());
  const pb::View view = ContinueView(planned, before, job, 3, "d3", PoolAfter(before, job, 3));
  EXPECT_EQ(view.first_round(), 4);
  EXPECT_EQ(view.first_sample(), 48);
  EXPECT_EQ(view.inner_steps_done(), 6);
  EXPECT_EQ(view.last_round(), 100);
  EXPECT_TRUE(CheckView(view, job).ok());
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
