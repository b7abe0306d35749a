// The battery on threads, and ranks that end early.
#include "collectives/inprocess/inprocess.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <thread>

#include "tests/collectives/battery.h"

namespace atl {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Runs `body` on a thread per rank of a new group.
void OnEveryRank(int size, const std::function<void(Communicator&)>& body) {
  auto group = MakeInProcessGroup(size);
  std::vector<std::thread> threads;
  for (auto& communicator : group) threads.emplace_back([&] { body(*communicator); });
  for (auto& thread : threads) thread.join();
}

class InProcessBattery : public testing::TestWithParam<int> {};

TEST_P(InProcessBattery, PassesOnEveryRank) {
  BatteryOptions options;
  options.sums_in_rank_order = true;
  options.oversized_message = GetParam() == 2;
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  const bool long_vector = false;  // a sanitizer looks at every access: minutes
#else
  const bool long_vector = GetParam() == 3;
#endif
  if (!long_vector) options.sizes.back() = 50003;
  std::vector<BatteryResult> results(GetParam());
  OnEveryRank(GetParam(), [&](Communicator& communicator) {
    results[communicator.rank()] = RunBattery(communicator, HostMemory(), options);
  });
  for (const BatteryResult& result : results) {
    EXPECT_THAT(result.failures, IsEmpty());
    EXPECT_GT(result.checks, 500);
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, InProcessBattery, testing::Range(1, 6));

TEST(InProcess, GivesRanksInOrder) {
  const auto group = MakeInProcessGroup(3);
  ASSERT_EQ(group.size(), 3u);
  for (int rank = 0; rank < 3; ++rank) {
    EXPECT_EQ(group[rank]->rank(), rank);
    EXPECT_EQ(group[rank]->size(), 3);
    EXPECT_EQ(group[rank]->backend(), "inprocess");
  }
}

TEST(InProcess, FailsTheRanksThatWaitForOneThatLeaves) {
  auto group = MakeInProcessGroup(3);
  std::vector<float> data[2] = {std::vector<float>(10), std::vector<float>(10)};
  Status status[2];
  std::thread first([&] { status[0] = group[0]->AllReduce(data[0].data(), 10); });
  std::thread second([&] { status[1] = group[1]->AllReduce(data[1].data(), 10); });
  group[2].reset();  // before, while or after the others begin to wait: the outcome is the same
  first.join();
  second.join();
  for (const Status& each : status) {
    EXPECT_EQ(each.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(each.message()), HasSubstr("rank 2"));
  }
  EXPECT_EQ(group[0]->Barrier().code(), absl::StatusCode::kUnavailable);
}

TEST(InProcess, FinishesTheCollectiveThatAllRanksEnteredBeforeOneLeaves) {
  for (int repetition = 0; repetition < 200; ++repetition) {
    auto group = MakeInProcessGroup(3);
    Status status[3];
    std::vector<std::thread> threads;
    for (int rank = 0; rank < 3; ++rank) {
      threads.emplace_back([&, rank] {
        status[rank] = group[rank]->Barrier();
        group[rank].reset();
      });
    }
    for (auto& thread : threads) thread.join();
    for (const Status& each : status) ASSERT_TRUE(each.ok()) << each;
  }
}

TEST(InProcess, TellsEveryRankWhenTheRanksCallDifferentMethods) {
  OnEveryRank(2, [](Communicator& communicator) {
    std::vector<float> data(4);
    const Status status =
        communicator.rank() == 0 ? communicator.AllReduce(data.data(), 4) : communicator.Barrier();
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  });
}

TEST(InProcess, TellsEveryRankWhenTheRanksBringDifferentCounts) {
  OnEveryRank(3, [](Communicator& communicator) {
    std::vector<float> data(4);
    EXPECT_EQ(communicator.AllReduce(data.data(), communicator.rank() == 1 ? 3 : 4).code(),
              absl::StatusCode::kInternal);
  });
}

TEST(RangesDeathTest, AreCheckedAgainstTheContract) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  auto group = MakeInProcessGroup(1);
  std::vector<float> data(10);
  const std::vector<Range> two = {{0, 5}, {5, 10}};
  const std::vector<Range> backwards = {{5, 2}};
  EXPECT_DEATH(group[0]->ReduceScatter(data.data(), two).IgnoreError(), "one range a rank");
  EXPECT_DEATH(group[0]->AllGather(data.data(), backwards).IgnoreError(), "range.end");
}

}  // namespace
}  // namespace atl
