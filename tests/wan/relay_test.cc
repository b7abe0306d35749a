// Regions that only call out: a third one, which all can reach, stands between them. The same bits
// everywhere, every attachment everywhere, and every failure told and named to those who have no
// connection to whom it befell.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "collectives/wan/engine.h"
#include "collectives/wan/relayed.h"
#include "tests/wan/cluster.h"
#include "tests/wan/proxy.h"

namespace atl::wan {
namespace {

using testing::HasSubstr;

std::string Message(const Status& status) { return std::string(status.message()); }

// All but `callable` only call out.
class Relayed : public Cluster {
 public:
  explicit Relayed(int members, std::vector<int> callable = {0}) : Cluster(0) {
    for (int member = 0; member < members; ++member) {
      EngineOptions options;
      options.listen = {"127.0.0.1", 0};
      options.chunk_bytes = 64 << 10;
      options.only_calls_out = std::count(callable.begin(), callable.end(), member) == 0;
      auto engine = Engine::Create(options);
      EXPECT_TRUE(engine.ok()) << engine.status();
      engines.push_back(*std::move(engine));
      endpoints.push_back(engines.back()->endpoint());
    }
  }
};

TEST(WanRelay, MembersThatOnlyCallOutTakePartWhereverTheHubStandsInTheOrder) {
  for (const int members : {3, 4, 6}) {
    for (int hub = 0; hub < members; ++hub) {
      Relayed cluster(members, {hub});
      cluster.JoinAll();
      for (const size_t elements : {0, 1, 100000, 1000000})
        ExpectSums(&cluster, elements, elements);
      EXPECT_TRUE(cluster.engines[hub]->Matrix({1}, {0}).has_value());
    }
    Relayed two(members, {1, members - 1});
    two.JoinAll();
    ExpectSums(&two, 1);
  }
}

TEST(WanRelay, WhereOnlyOneMemberCallsOutItOwnsAShareLikeTheOthers) {
  Relayed cluster(3, {0, 2});
  cluster.JoinAll();
  std::vector<std::vector<float>> data(3, std::vector<float>(300000, 1.0f));
  for (const auto& operation : cluster.StartAll(1, &data)) {
    const auto result = operation->Wait();
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->schedule, ScheduleKind::kEqual);
  }
}

TEST(WanRelay, EveryMemberGetsEveryMembersAttachment) {
  Relayed cluster(4, {2});
  cluster.JoinAll();
  const std::vector<std::string> attachments = {
      std::string("a\0b", 3), "", std::string(Engine::kMaxAttachment, 'x'), "tokens 12"};
  for (uint64_t id = 1; id <= 20; ++id) {
    std::vector<std::vector<float>> data(4, std::vector<float>(1000 * (id % 3), 1.0f));
    std::vector<std::shared_ptr<Operation>> operations;
    for (int member = 0; member < 4; ++member) {
      AllReduceOptions options;
      options.attachment = attachments[member];
      operations.push_back(cluster.engines[member]->AllReduce({1}, {0}, id, data[member], options));
    }
    for (const auto& operation : operations) {
      const auto result = operation->Wait();
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_EQ(result->attachments, attachments);
    }
  }
}

TEST(WanRelay, WithoutAMemberThatCanBeCalledJoinFailsAtOnceAndSaysWhatToDo) {
  Relayed cluster(2, {});
  for (int member = 0; member < 2; ++member) {
    const Status status = cluster.engines[member]->Join(cluster.GroupOf(member), 600);
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(Message(status), HasSubstr("johor, oslo"));
    EXPECT_THAT(Message(status), HasSubstr("give one of them an address"));
  }
}

TEST(WanRelay, OneThatIsLostIsNamedToThoseWhoHaveNoConnectionToIt) {
  Relayed cluster(4, {0});
  cluster.JoinAll();
  auto data = MakeInputs(4, 1000000, 1);
  std::vector<std::shared_ptr<Operation>> operations;
  for (const int member : {0, 1, 3}) {
    operations.push_back(cluster.engines[member]->AllReduce({1}, {0}, 1, data[member], {}));
  }
  cluster.engines[2].reset();
  for (const auto& operation : operations) {
    const Status status = operation->Wait().status();
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    EXPECT_THAT(Message(status), HasSubstr("region 'batam'"));
    const auto blamed = status.GetPayload(kPeerPayload);
    ASSERT_TRUE(blamed.has_value());
    EXPECT_EQ(std::string(*blamed), "batam");
  }
  const auto later = cluster.engines[1]->AllReduce({1}, {0}, 2, data[1], {})->Wait().status();
  EXPECT_THAT(Message(later), HasSubstr("region 'batam'"));
}

// Each joins with the addresses that it is to use.
void JoinEach(Cluster* cluster, const std::vector<std::vector<Endpoint>>& addresses) {
  std::vector<std::thread> joining;
  for (int member = 0; member < cluster->members(); ++member) {
    joining.emplace_back([&, member] {
      Group group = cluster->GroupOf(member);
      group.members = addresses[member];
      const Status status = cluster->engines[member]->Join(group, 30);
      EXPECT_TRUE(status.ok()) << status;
    });
  }
  for (std::thread& thread : joining) thread.join();
}

// Refused without a word, it would wait for all its patience and then name the one that refused.
TEST(WanRelay, OneWhoseCallComesAfterTheGroupBrokeIsToldWhoWasLost) {
  Relayed cluster(3, {0});
  Proxy proxy(cluster.endpoints[0]);
  std::vector<std::vector<Endpoint>> addresses(3, cluster.endpoints);
  addresses[1][0] = proxy.endpoint();
  JoinEach(&cluster, addresses);
  std::vector<float> first(1000), second(1000);
  const auto hubs = cluster.engines[0]->AllReduce({1}, {0}, 1, first, {});
  const auto cut_off = cluster.engines[1]->AllReduce({1}, {0}, 1, second, {});
  proxy.HoldDialler(true);
  proxy.Cut();
  cluster.engines[2].reset();
  ASSERT_THAT(Message(hubs->Wait().status()), HasSubstr("region 'batam'"));
  proxy.HoldDialler(false);
  const Status status = cut_off->Wait().status();
  EXPECT_THAT(Message(status), HasSubstr("region 'batam'"));
  ASSERT_TRUE(status.GetPayload(kPeerPayload).has_value()) << status;
  EXPECT_EQ(std::string(*status.GetPayload(kPeerPayload)), "batam");
}

// It cannot be called, so it calls: until then nobody else knows.
TEST(WanRelay, OneWhoLosesAMemberWhileItIsCutOffTellsTheOthersAfterwards) {
  Relayed cluster(3, {0, 2});
  EngineOptions options;
  options.only_calls_out = true;
  options.chunk_bytes = 64 << 10;
  options.patience_seconds = 3;
  auto engine = Engine::Create(options);
  ASSERT_TRUE(engine.ok()) << engine.status();
  cluster.engines[1] = *std::move(engine);
  Proxy to_hub(cluster.endpoints[0]), to_last(cluster.endpoints[2]);
  std::vector<std::vector<Endpoint>> addresses(3, cluster.endpoints);
  addresses[1][0] = to_hub.endpoint();
  addresses[1][2] = to_last.endpoint();
  JoinEach(&cluster, addresses);
  to_last.HoldDialler(true);
  to_last.HoldAcceptor(true);
  std::vector<float> first(1000), second(1000);
  const auto hubs = cluster.engines[0]->AllReduce({1}, {0}, 1, first, {});
  const auto cut_off = cluster.engines[1]->AllReduce({1}, {0}, 1, second, {});
  ASSERT_FALSE(cluster.engines[1]->AllReduce({1}, {0}, 1, {}, {})->Wait().ok());  // it has begun
  to_hub.HoldDialler(true);
  ASSERT_THAT(Message(cut_off->Wait().status()), HasSubstr("lost region 'batam'"));
  to_hub.Cut();
  to_hub.HoldDialler(false);
  const Status status = hubs->Wait().status();
  ASSERT_TRUE(status.GetPayload(kPeerPayload).has_value()) << status;
  EXPECT_EQ(std::string(*status.GetPayload(kPeerPayload)), "batam");
}

TEST(WanRelay, ACancelEndsTheOperationEverywhereAndTheNextOneGoesWell) {
  Relayed cluster(3, {1});
  cluster.JoinAll();
  for (uint64_t id = 1; id <= 20; id += 2) {
    auto data = MakeInputs(3, 300000, id);
    const auto first = cluster.engines[0]->AllReduce({1}, {0}, id, data[0], {});
    first->Cancel();
    for (const int member : {1, 2}) {
      const auto other = cluster.engines[member]->AllReduce({1}, {0}, id, data[member], {});
      const Status status = other->Wait().status();
      EXPECT_TRUE(absl::IsAborted(status)) << status;
      EXPECT_THAT(Message(status), HasSubstr("region 'johor' cancelled"));
    }
    ExpectSums(&cluster, id + 1);
  }
}

TEST(WanRelay, SizesThatDifferFailEverywhere) {
  for (int odd = 0; odd < 3; ++odd) {
    Relayed cluster(3, {0});
    cluster.JoinAll();
    std::vector<std::shared_ptr<Operation>> operations;
    std::vector<std::vector<float>> data(3, std::vector<float>(1000, 1.0f));
    data[odd].resize(2000);
    AllReduceOptions options;
    options.attachment = "tokens";
    for (const auto& operation : cluster.StartAll(1, &data, options)) {
      const Status status = operation->Wait().status();
      EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
      EXPECT_THAT(Message(status), HasSubstr("elements"));
    }
    ExpectSums(&cluster, 2);
  }
}

TEST(WanRelay, MembersMayEndAsSoonAsTheyAreDone) {
  for (int repeat = 0; repeat < 10; ++repeat) {
    Relayed cluster(4, {repeat % 4});
    cluster.JoinAll();
    const auto inputs = MakeInputs(4, 200000, repeat);
    auto data = inputs;
    AllReduceOptions options;
    options.attachment = "tokens";
    const auto operations = cluster.StartAll(1, &data, options);
    std::vector<std::thread> threads;
    for (int member = 0; member < 4; ++member) {
      threads.emplace_back([&, member] {
        const auto result = operations[member]->Wait();
        EXPECT_TRUE(result.ok()) << result.status();
        cluster.engines[member].reset();
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const auto& vector : data) EXPECT_TRUE(SameBits(vector, Reference(inputs, Codec::kFp32)));
  }
}

TEST(WanRelay, ConnectionsThatBreakAreMadeAgainAndNobodyNotices) {
  Cluster cluster(3);
  Proxy proxy(cluster.endpoints[0]);
  cluster.GoThrough(proxy.endpoint());
  cluster.JoinAll();
  for (uint64_t id = 1; id <= 5; ++id) {
    const auto inputs = MakeInputs(3, 2000000, id);
    auto data = inputs;
    AllReduceOptions options;
    options.attachment = "tokens";
    const auto operations = cluster.StartAll(id, &data, options);
    while (operations[2]->elements_done() < 300000 && !operations[2]->Done()) {
      std::this_thread::yield();
    }
    proxy.Cut();
    for (int member = 0; member < 3; ++member) {
      const auto result = operations[member]->Wait();
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_TRUE(SameBits(data[member], Reference(inputs, Codec::kFp32)));
    }
  }
}

TEST(WanRelay, ASilentMemberIsNamedToThoseWhoHaveNoConnectionToItAndThenHeardAgain) {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<Silence> heard;
  Relayed cluster(2, {0});
  EngineOptions options;
  options.only_calls_out = true;
  options.chunk_bytes = 64 << 10;
  options.on_silence = [&](const Silence& silence) {
    std::lock_guard<std::mutex> lock(mutex);
    heard.push_back(silence);
    changed.notify_all();
  };
  auto engine = Engine::Create(options);
  ASSERT_TRUE(engine.ok()) << engine.status();
  cluster.engines.push_back(*std::move(engine));
  cluster.endpoints.emplace_back();
  // Only member 1 calls through the proxy.
  Proxy proxy(cluster.endpoints[0]);
  std::vector<std::thread> threads;
  for (int member = 0; member < 3; ++member) {
    threads.emplace_back([&, member] {
      Group group = cluster.GroupOf(member);
      if (member == 1) group.members[0] = proxy.endpoint();
      const Status status = cluster.engines[member]->Join(group, 30);
      EXPECT_TRUE(status.ok()) << status;
    });
  }
  for (std::thread& thread : threads) thread.join();
  proxy.HoldDialler(true);
  proxy.HoldAcceptor(true);
  const auto inputs = MakeInputs(3, 100000, 1);
  auto data = inputs;
  const auto operations = cluster.StartAll(1, &data);
  const auto await = [&](size_t count) {
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [&] { return heard.size() >= count; });
  };
  await(1);
  EXPECT_EQ(heard[0].name, "oslo");
  EXPECT_GT(heard[0].seconds, 0);
  proxy.HoldDialler(false);
  proxy.HoldAcceptor(false);
  for (int member = 0; member < 3; ++member) {
    const auto result = operations[member]->Wait();
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_TRUE(SameBits(data[member], Reference(inputs, Codec::kFp32)));
  }
}

TEST(WanRelay, WhatIsRelayedParsesBackAndWhatCannotBeIsRefused) {
  RelayedStart start;
  start.member = 3;
  start.start.elements = 1000;
  start.start.chunk_elements = 256;
  start.start.attachment_bytes = 5;
  start.attachment = "hello";
  std::vector<uint8_t> bytes = EncodeRelayedStart(start);
  const auto parsed = ParseRelayedStart(bytes, 4);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(*parsed, start);
  EXPECT_FALSE(ParseRelayedStart(bytes, 3).ok()) << "no such member";
  bytes.pop_back();
  EXPECT_FALSE(ParseRelayedStart(bytes, 4).ok()) << "an attachment of another size";
  bytes.resize(kRelayedStartSize);
  EXPECT_TRUE(ParseRelayedStart(bytes, 4).ok()) << "none is possible";
  bytes[2] = 1;
  EXPECT_FALSE(ParseRelayedStart(bytes, 4).ok()) << "reserved";
  bytes.resize(10);
  EXPECT_FALSE(ParseRelayedStart(bytes, 4).ok());
  const RelayedSilence silence = {2, 3.5};
  bytes = EncodeRelayedSilence(silence);
  EXPECT_EQ(*ParseRelayedSilence(bytes, 4), silence);
  EXPECT_FALSE(ParseRelayedSilence(bytes, 2).ok());
  EXPECT_FALSE(ParseRelayedSilence(EncodeRelayedSilence({2, -1}), 4).ok());
  bytes.push_back(0);
  EXPECT_FALSE(ParseRelayedSilence(bytes, 4).ok());
}

}  // namespace
}  // namespace atl::wan
