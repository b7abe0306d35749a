// All-reduces that go well: exact sums, the same bits everywhere, several at once.
#include "collectives/wan/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/wan/cluster.h"

namespace atl::wan {
namespace {

using testing::HasSubstr;

void ExpectExact(Cluster* cluster, uint64_t id, size_t elements, Codec codec) {
  const auto inputs = MakeInputs(cluster->members(), elements, id);
  auto data = inputs;
  AllReduceOptions options;
  options.codec = codec;
  const auto operations = cluster->StartAll(id, &data, options);
  const std::vector<float> expected = Reference(inputs, codec);
  for (int member = 0; member < cluster->members(); ++member) {
    const auto result = operations[member]->Wait();
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_TRUE(SameBits(data[member], expected))
        << elements << " elements, member " << member << " of " << cluster->members();
    EXPECT_EQ(operations[member]->elements_done(), static_cast<int64_t>(elements));
    EXPECT_GE(result->seconds, 0);
    const double share = 2.0 * (cluster->members() - 1) / cluster->members();
    if (elements > 100000) {
      const double encoded = share * static_cast<double>(EncodedSize(codec, elements));
      EXPECT_NEAR(static_cast<double>(result->bytes_sent), encoded, 0.02 * encoded);
      EXPECT_NEAR(static_cast<double>(result->bytes_received), encoded, 0.02 * encoded);
    }
  }
}

class ExactSums : public testing::TestWithParam<std::tuple<int, int>> {};

TEST_P(ExactSums, InEveryMemberForAllSizesAndCodecs) {
  const auto [members, streams] = GetParam();
  Cluster cluster(members, streams);
  cluster.JoinAll();
  uint64_t id = 0;
  for (const size_t elements : {0, 1, 7, 1000, 300000, 3000000}) {
    for (const Codec codec : kAllCodecs) {
      ExpectExact(&cluster, id++, elements, codec);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Members, ExactSums,
                         testing::Combine(testing::Values(1, 2, 3, 5), testing::Values(1, 3)));

TEST(WanEngine, LinksTellWhatHasReachedEachPeer) {
  Cluster cluster(3);
  cluster.JoinAll();
  ExpectExact(&cluster, 1, 3000000, Codec::kFp32);
  // Each sends both others their third of the vector's numbers, and its own third's sums.
  const double share = 2.0 * 4 * 3000000 / 3;
  for (const auto& engine : cluster.engines) {
    std::vector<LinkStatus> links = engine->Links();
    ASSERT_EQ(links.size(), 2u);
    // Acknowledgements come a little later, and are seen at the next tick.
    while (static_cast<double>(std::min(links[0].bytes_sent, links[1].bytes_sent)) < share) {
      links = engine->Links();
      std::this_thread::yield();
    }
    for (const LinkStatus& link : links) {
      EXPECT_LT(static_cast<double>(link.bytes_sent), 1.1 * share);
      EXPECT_GT(link.sending_rate, 0);
      EXPECT_GE(link.retransmitted, 0);
      EXPECT_LT(link.retransmitted, 1);
      EXPECT_GT(link.rtt_seconds, 0);
      EXPECT_GE(link.connections, 1);
    }
  }
}

TEST(WanEngine, EightMembersSumVectorsSmallerThanTheirChunks) {
  Cluster cluster(8, 1);
  cluster.JoinAll();
  uint64_t id = 0;
  for (const size_t elements : {3, 255, 257, 2047, 40000}) {
    ExpectExact(&cluster, id++, elements, Codec::kFp32);
  }
}

TEST(WanEngine, InfinityAndNanReachEveryMember) {
  Cluster cluster(3);
  cluster.JoinAll();
  for (const Codec codec : {Codec::kFp32, Codec::kBf16}) {
    std::vector<std::vector<float>> data(3, std::vector<float>(600, 1.0f));
    data[0][5] = std::numeric_limits<float>::infinity();
    data[1][550] = std::numeric_limits<float>::quiet_NaN();
    AllReduceOptions options;
    options.codec = codec;
    for (const auto& operation : cluster.StartAll(static_cast<uint64_t>(codec), &data, options)) {
      ASSERT_TRUE(operation->Wait().ok());
    }
    EXPECT_TRUE(std::isinf(data[2][5]));
    EXPECT_TRUE(std::isnan(data[2][550]));
    EXPECT_EQ(data[2][6], 3.0f);
    EXPECT_TRUE(SameBits(data[0], data[1]));
    EXPECT_TRUE(SameBits(data[0], data[2]));
  }
}

TEST(WanEngine, GivesEveryMemberEveryMembersAttachment) {
  Cluster cluster(3);
  cluster.JoinAll();
  const std::vector<std::string> attachments = {"", std::string("a\0b", 3),
                                                std::string(Engine::kMaxAttachment, 'x')};
  for (const size_t elements : {0, 1000}) {
    std::vector<std::vector<float>> data(3, std::vector<float>(elements, 1.0f));
    std::vector<std::shared_ptr<Operation>> operations;
    for (int member = 0; member < 3; ++member) {
      AllReduceOptions options;
      options.attachment = attachments[member];
      operations.push_back(
          cluster.engines[member]->AllReduce({1}, {0}, elements, data[member], options));
    }
    for (const auto& operation : operations) {
      const auto result = operation->Wait();
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_EQ(result->attachments, attachments);
    }
  }
  AllReduceOptions options;
  options.attachment.assign(Engine::kMaxAttachment + 1, 'x');
  EXPECT_TRUE(absl::IsInvalidArgument(
      cluster.engines[0]->AllReduce({1}, {0}, 5000, {}, options)->Wait().status()));
}

TEST(WanEngine, ManyOperationsAtOnceOnSeveralLanesAndViews) {
  Cluster cluster(3);
  struct Running {
    std::vector<std::vector<float>> inputs, data;
    std::vector<std::shared_ptr<Operation>> operations;
  };
  std::vector<std::unique_ptr<Running>> all;
  for (int64_t view = 1; view <= 2; ++view) {
    for (int64_t lane = 0; lane < 2; ++lane) cluster.JoinAll(view, lane);
  }
  for (uint64_t id = 1; id <= 5; ++id) {
    for (int64_t view = 1; view <= 2; ++view) {
      for (int64_t lane = 0; lane < 2; ++lane) {
        auto running = std::make_unique<Running>();
        running->inputs = MakeInputs(3, 150000 + 1000 * id, 100 * view + 10 * lane + id);
        running->data = running->inputs;
        AllReduceOptions options;
        options.priority = static_cast<int>(id % 3);
        running->operations = cluster.StartAll(id, &running->data, options, view, lane);
        all.push_back(std::move(running));
      }
    }
  }
  for (const auto& running : all) {
    const std::vector<float> expected = Reference(running->inputs, Codec::kFp32);
    for (int member = 0; member < 3; ++member) {
      const auto result = running->operations[member]->Wait();
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_TRUE(SameBits(running->data[member], expected));
    }
  }
  cluster.engines[0]->Leave({1});
  EXPECT_TRUE(absl::IsFailedPrecondition(
      cluster.engines[0]->AllReduce({1}, {0}, 9, {}, {})->Wait().status()));
  // The other view does not notice.
  std::vector<std::vector<float>> data(3, std::vector<float>(10, 2.0f));
  for (const auto& operation : cluster.StartAll(9, &data, {}, 2, 1)) {
    EXPECT_TRUE(operation->Wait().ok());
  }
}

TEST(WanEngine, AHighPriorityStartedByAllLaterDoesNotBlockOneThatBeganBefore) {
  // Member 0 begins both at once, the others begin the second only after the first is done: the
  // numbers of the second must not stand in the way of the first.
  Cluster cluster(3, 1);
  cluster.JoinAll();
  const auto inputs = MakeInputs(3, 1000000, 1);
  auto first = inputs, second = inputs;
  AllReduceOptions low, high;
  high.priority = 9;
  std::vector<std::shared_ptr<Operation>> operations;
  operations.push_back(cluster.engines[0]->AllReduce({1}, {0}, 1, first[0], low));
  operations.push_back(cluster.engines[0]->AllReduce({1}, {0}, 2, second[0], high));
  for (const int member : {1, 2}) {
    auto operation = cluster.engines[member]->AllReduce({1}, {0}, 1, first[member], low);
    operations.push_back(operation);
  }
  ASSERT_TRUE(operations[2]->Wait().ok());
  ASSERT_TRUE(operations[3]->Wait().ok());
  ASSERT_TRUE(operations[0]->Wait().ok());
  for (const int member : {1, 2}) {
    operations.push_back(cluster.engines[member]->AllReduce({1}, {0}, 2, second[member], high));
  }
  for (const auto& operation : operations) ASSERT_TRUE(operation->Wait().ok());
  EXPECT_TRUE(SameBits(first[1], Reference(inputs, Codec::kFp32)));
  EXPECT_TRUE(SameBits(second[2], Reference(inputs, Codec::kFp32)));
}

TEST(WanEngine, MembersMayEndAsSoonAsTheyAreDone) {
  for (int repeat = 0; repeat < 5; ++repeat) {
    Cluster cluster(3, 3);
    cluster.JoinAll();
    const auto inputs = MakeInputs(3, 500000, repeat);
    auto data = inputs;
    const auto operations = cluster.StartAll(1, &data);
    std::vector<std::thread> threads;
    for (int member = 0; member < 3; ++member) {
      threads.emplace_back([&, member] {
        const auto result = operations[member]->Wait();
        EXPECT_TRUE(result.ok()) << result.status();
        cluster.engines[member].reset();
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (int member = 0; member < 3; ++member) {
      EXPECT_TRUE(SameBits(data[member], Reference(inputs, Codec::kFp32)));
    }
  }
}

TEST(WanEngine, IdsMustRiseAndTheGroupMustStand) {
  Cluster cluster(1);
  std::vector<float> data(10, 1.0f);
  EXPECT_TRUE(absl::IsFailedPrecondition(
      cluster.engines[0]->AllReduce({1}, {0}, 1, data, {})->Wait().status()));
  cluster.JoinAll();
  EXPECT_TRUE(cluster.engines[0]->AllReduce({1}, {0}, 5, data, {})->Wait().ok());
  const Status status = cluster.engines[0]->AllReduce({1}, {0}, 5, data, {})->Wait().status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("ids must rise"));
  EXPECT_TRUE(absl::IsAlreadyExists(cluster.engines[0]->Join(cluster.GroupOf(0), 1)));
  cluster.engines[0]->Leave({1});
  cluster.JoinAll();
  EXPECT_TRUE(cluster.engines[0]->AllReduce({1}, {0}, 5, data, {})->Wait().ok());
}

TEST(WanEngine, RefusesOptionsAndGroupsThatCannotBe) {
  EngineOptions options;
  options.listen = {"127.0.0.1", 0};
  options.streams = -1;
  EXPECT_FALSE(Engine::Create(options).ok());
  options.streams = 1;
  options.chunk_bytes = 1LL << 40;
  EXPECT_FALSE(Engine::Create(options).ok());
  Cluster cluster(1);
  Group group = cluster.GroupOf(0);
  group.self = {1};
  EXPECT_TRUE(absl::IsInvalidArgument(cluster.engines[0]->Join(group, 1)));
  group = cluster.GroupOf(0);
  group.names.clear();
  EXPECT_TRUE(absl::IsInvalidArgument(cluster.engines[0]->Join(group, 1)));
}

}  // namespace
}  // namespace atl::wan
