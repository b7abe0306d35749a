// Every schedule with every codec, 2 to 9 members, vectors shorter than the members are many, of
// prime and of round sizes: after each all-reduce
//
// 1. all members hold the same bits;
// 2. each number is as near to the true weighted sum as its codec allows (sums.h);
// 3. under an order-stable plan the bits are those of the documented sum: every member's numbers
//    through the codec, added in member order in fp32, the sum through the codec.
//
// Deep trees that come of measured links: tests/wanlab/wan_lab_test.cc.
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "collectives/wan/engine.h"
#include "tests/wan/cluster.h"

namespace atl::wan {
namespace {

constexpr int64_t kChunkBytes = 16 << 10;
constexpr size_t kLongest = 1000003;
constexpr ScheduleKind kSchedules[] = {ScheduleKind::kAuto, ScheduleKind::kEqual,
                                       ScheduleKind::kDirect, ScheduleKind::kRing,
                                       ScheduleKind::kTrees};

class AllReduceMatrix : public testing::TestWithParam<std::tuple<ScheduleKind, int>> {
 protected:
  struct Running {
    Codec codec;
    std::vector<std::vector<float>> inputs, data;
    std::vector<std::shared_ptr<Operation>> operations;
  };

  AllReduceMatrix() : cluster_(0) {
    const auto [schedule, members] = GetParam();
    EngineOptions options;
    options.listen = {"127.0.0.1", 0};
    options.streams = 1 + members % 2;
    options.chunk_bytes = kChunkBytes;
    options.schedule = schedule;
    for (int member = 0; member < members; ++member) {
      auto engine = Engine::Create(options);
      EXPECT_TRUE(engine.ok()) << engine.status();
      cluster_.engines.push_back(*std::move(engine));
      cluster_.endpoints.push_back(cluster_.engines.back()->endpoint());
    }
  }

  void Start(Codec codec, size_t elements, int64_t lane) {
    Running running;
    running.codec = codec;
    running.inputs = WeighedInputs(cluster_.members(), elements, ++id_);
    running.data = running.inputs;
    AllReduceOptions options;
    options.codec = codec;
    running.operations = cluster_.StartAll(id_, &running.data, options, 1, lane);
    running_.push_back(std::move(running));
  }

  void AwaitAndCheck() {
    for (const Running& running : running_) {
      SCOPED_TRACE(absl::StrCat(running.inputs[0].size(), " elements, ", CodecName(running.codec)));
      ASSERT_NO_FATAL_FAILURE(Check(running));
    }
    running_.clear();
  }

  void Check(const Running& running) {
    const auto [schedule, members] = GetParam();
    ScheduleKind kind = ScheduleKind::kAuto;
    for (const auto& operation : running.operations) {
      const auto result = operation->Wait();
      ASSERT_TRUE(result.ok()) << result.status();
      kind = result->schedule;
    }
    if (schedule == ScheduleKind::kRing || schedule == ScheduleKind::kTrees) {
      EXPECT_EQ(kind, schedule);  // asked for by name, it is what ran
    }
    for (int member = 1; member < members; ++member) {
      EXPECT_TRUE(SameBits(running.data[member], running.data[0])) << "member " << member;
    }
    EXPECT_EQ(WrongIn(running.inputs, running.data[0], running.codec, kind), "");
  }

  uint64_t id_ = 0;
  std::vector<Running> running_;  // outlives the engines that write to it
  Cluster cluster_;
};

TEST_P(AllReduceMatrix, GivesAllMembersTheSameBitsAndTheRightSum) {
  const auto members = static_cast<size_t>(cluster_.members());
  const std::pair<size_t, size_t> sizes[] = {
      {1, members - 1}, {members, members + 1}, {251, 256 * members}, {257 * members + 3, 30011}};
  cluster_.JoinAll(1, 0);
  cluster_.JoinAll(1, 1);
  for (const Codec codec : kAllCodecs) {
    for (const auto& [first, second] : sizes) {
      Start(codec, first, 0);  // two groups of the same engines at once
      Start(codec, second, 1);
      AwaitAndCheck();
    }
  }
}

TEST_P(AllReduceMatrix, AndSoItDoesWithALongVector) {
  const auto [schedule, members] = GetParam();
  cluster_.JoinAll();
  // A codec each, so that every schedule and every number of members has had several.
  const size_t turn = static_cast<size_t>(members) + static_cast<size_t>(schedule);
  Start(kAllCodecs[turn % std::size(kAllCodecs)], kLongest, 0);
  AwaitAndCheck();
}

INSTANTIATE_TEST_SUITE_P(SchedulesAndMembers, AllReduceMatrix,
                         testing::Combine(testing::ValuesIn(kSchedules), testing::Range(2, 10)),
                         [](const auto& info) {
                           return absl::StrCat(ScheduleName(std::get<0>(info.param)), "Of",
                                               std::get<1>(info.param));
                         });

}  // namespace
}  // namespace atl::wan
