// What goes wrong between members that stand: changed bytes, members that die, leave, cancel,
// disagree or begin late. Every one of these ends in an error that names the cause, and none in a
// wrong sum.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "collectives/wan/engine.h"
#include "collectives/wan/frame.h"
#include "tests/wan/cluster.h"
#include "tests/wan/proxy.h"

namespace atl::wan {
namespace {

using testing::HasSubstr;

std::string Message(const Status& status) { return std::string(status.message()); }

// Two members, the dialler's bytes through a proxy that changes one of them: that connection ends,
// and another one carries on.
void ChangeOneByte(uint64_t offset, uint8_t mask) {
  SCOPED_TRACE(absl::StrCat("byte ", offset, ", mask ", mask));
  Cluster cluster(2, 1);
  Proxy proxy(cluster.endpoints[0]);
  cluster.GoThrough(proxy.endpoint());
  cluster.JoinAll();
  proxy.FlipByte(offset, mask);
  const auto inputs = MakeInputs(2, 200000, 1);
  auto data = inputs;
  AllReduceOptions options;
  options.attachment = "token count";
  const auto operations = cluster.StartAll(1, &data, options);
  for (int member = 0; member < 2; ++member) {
    const auto result = operations[member]->Wait();
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_TRUE(SameBits(data[member], Reference(inputs, Codec::kFp32)));
  }
  EXPECT_EQ(cluster.engines[0]->connections_refused(), 1);
}

TEST(WanTampering, AChangedByteCostsTheConnectionAndNeverAWrongSum) {
  for (uint64_t at = 0; at < 20000; at += 1 + at / 3) ChangeOneByte(at, 0x01);
  ChangeOneByte(300000, 0x40);
}

TEST(WanTampering, AChangedGreetingIsARefusalOfTheKey) {
  for (const uint64_t at : {40, 71}) {  // in the dialler's nonce
    Cluster cluster(2, 1);
    Proxy proxy(cluster.endpoints[0]);
    cluster.GoThrough(proxy.endpoint());
    proxy.FlipByte(at, 0x10);
    std::thread acceptor(
        [&] { EXPECT_FALSE(cluster.engines[0]->Join(cluster.GroupOf(0), 0.5).ok()); });
    const Status status = cluster.engines[1]->Join(cluster.GroupOf(1), 10);
    EXPECT_TRUE(absl::IsUnauthenticated(status)) << status;
    acceptor.join();
  }
}

TEST(WanFaults, AMemberThatDiesInMidOperationIsNamedToAll) {
  Cluster cluster(3);
  cluster.JoinAll();
  auto data = MakeInputs(3, 1000000, 1);
  auto first = cluster.engines[0]->AllReduce({1}, {0}, 1, data[0], {});
  auto second = cluster.engines[1]->AllReduce({1}, {0}, 1, data[1], {});
  const double began = Clock::Real()->MonotonicSeconds();
  cluster.engines[2].reset();
  for (const auto& operation : {first, second}) {
    const Status status = operation->Wait().status();
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    EXPECT_THAT(Message(status), HasSubstr("region 'batam'"));
    EXPECT_TRUE(status.GetPayload(kPeerPayload).has_value()) << "so that a victim is told apart";
  }
  EXPECT_LT(Clock::Real()->MonotonicSeconds() - began, 10);
  const Status later = cluster.engines[0]->AllReduce({1}, {0}, 2, data[0], {})->Wait().status();
  EXPECT_TRUE(absl::IsUnavailable(later));
  EXPECT_THAT(Message(later), HasSubstr("region 'batam'"));
}

TEST(WanFaults, ConnectionsThatBreakInMidOperationAreMadeAgainAndNobodyNotices) {
  for (const int streams : {1, 3}) {
    Cluster cluster(3, streams);
    Proxy proxy(cluster.endpoints[0]);
    cluster.endpoints[0] = proxy.endpoint();
    cluster.JoinAll();
    for (uint64_t id = 1; id <= 5; ++id) {
      const auto inputs = MakeInputs(3, 3000000, id);
      auto data = inputs;
      const auto operations = cluster.StartAll(id, &data);
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
}

TEST(WanFaults, ConnectionsThatBreakBetweenOperationsAreMadeAgain) {
  Cluster cluster(2);
  Proxy proxy(cluster.endpoints[0]);
  cluster.GoThrough(proxy.endpoint());
  cluster.JoinAll();
  for (uint64_t id = 1; id <= 3; ++id) {
    ExpectSums(&cluster, id);
    proxy.Cut();
  }
  ExpectSums(&cluster, 10);
}

TEST(WanFaults, NumbersThatCameWhileTheirOperationAwaitedItsPlanAreTakenWhenItBegins) {
  Cluster cluster(3, 1);
  Proxy proxy(cluster.endpoints[0]);  // between members 0 and 2 alone
  std::vector<std::thread> joining;
  for (int member = 0; member < 3; ++member) {
    joining.emplace_back([&, member] {
      Group group = cluster.GroupOf(member);
      if (member == 2) group.members[0] = proxy.endpoint();
      EXPECT_TRUE(cluster.engines[member]->Join(group, 30).ok());
    });
  }
  for (std::thread& thread : joining) thread.join();
  cluster.JoinAll(2);
  proxy.HoldAcceptor(true);
  auto first = MakeInputs(3, 100, 1), second = MakeInputs(3, 768, 2);
  const auto expected = Reference(second, Codec::kFp32);
  auto operations = cluster.StartAll(1, &first);
  const auto more = cluster.StartAll(2, &second);
  ASSERT_TRUE(operations[1]->Wait().ok());
  // Member 1 sends its numbers for the second; member 2 lacks member 0's start of the first.
  for (uint64_t id = 1; id <= 3; ++id) {  // time enough for them to arrive
    std::vector<std::vector<float>> data(3, std::vector<float>(100000, 1.0f));
    for (const auto& other : cluster.StartAll(id, &data, {}, 2)) ASSERT_TRUE(other->Wait().ok());
  }
  EXPECT_FALSE(more[2]->Done());
  proxy.HoldAcceptor(false);
  operations.insert(operations.end(), more.begin(), more.end());
  for (const auto& operation : operations) {
    const auto result = operation->Wait();
    ASSERT_TRUE(result.ok()) << result.status();
  }
  for (const auto& vector : second) EXPECT_TRUE(SameBits(vector, expected));
}

TEST(WanFaults, WhatALossyCodecSentIsSentAgainWithTheSameBytes) {
  Cluster cluster(2);
  Proxy proxy(cluster.endpoints[0]);
  cluster.GoThrough(proxy.endpoint());
  cluster.JoinAll();
  auto data = MakeInputs(2, 3000000, 1);
  std::vector<std::vector<float>> residuals(2, std::vector<float>(3000000));
  std::vector<std::shared_ptr<Operation>> operations;
  for (int member = 0; member < 2; ++member) {
    AllReduceOptions options;
    options.codec = Codec::kInt4;
    options.residual = residuals[member];
    operations.push_back(cluster.engines[member]->AllReduce({1}, {0}, 1, data[member], options));
  }
  while (operations[1]->elements_done() < 300000 && !operations[1]->Done()) {
    std::this_thread::yield();
  }
  proxy.Cut();
  for (const auto& operation : operations) ASSERT_TRUE(operation->Wait().ok());
  EXPECT_TRUE(SameBits(data[0], data[1]));
}

TEST(WanFaults, ASilentMemberIsNamedWhileTheOperationWaitsAndMayComeBack) {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<Silence> heard;
  Cluster cluster(2, 1);
  Proxy proxy(cluster.endpoints[0]);
  EngineOptions options;
  options.listen = {"127.0.0.1", 0};
  options.chunk_bytes = 64 << 10;
  options.on_silence = [&](const Silence& silence) {
    std::lock_guard<std::mutex> lock(mutex);
    heard.push_back(silence);
    changed.notify_all();
  };
  auto engine = Engine::Create(options);
  ASSERT_TRUE(engine.ok());
  cluster.engines[1] = *std::move(engine);
  cluster.endpoints.resize(2);
  cluster.GoThrough(proxy.endpoint());
  cluster.JoinAll();
  proxy.HoldDialler(true);
  proxy.HoldAcceptor(true);
  const auto inputs = MakeInputs(2, 100000, 1);
  auto data = inputs;
  const auto operations = cluster.StartAll(1, &data);
  const auto await = [&](size_t count) {
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [&] { return heard.size() >= count; });
  };
  await(1);
  EXPECT_EQ(heard[0].name, "johor");
  EXPECT_GE(heard[0].seconds, 2);
  EXPECT_LT(heard[0].seconds, 4);
  EXPECT_FALSE(operations[0]->Done());
  proxy.HoldDialler(false);
  proxy.HoldAcceptor(false);
  for (int member = 0; member < 2; ++member) {
    const auto result = operations[member]->Wait();
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_TRUE(SameBits(data[member], Reference(inputs, Codec::kFp32)));
  }
}

TEST(WanFaults, AMemberThatStaysSilentIsLostAfterTheEnginesPatience) {
  Cluster cluster(1, 1);
  Proxy proxy(cluster.endpoints[0]);
  EngineOptions options;
  options.listen = {"127.0.0.1", 0};
  options.patience_seconds = 0.5;
  auto engine = Engine::Create(options);
  ASSERT_TRUE(engine.ok());
  cluster.engines.push_back(*std::move(engine));
  cluster.endpoints.resize(2);
  cluster.GoThrough(proxy.endpoint());
  cluster.JoinAll();
  proxy.HoldDialler(true);
  proxy.HoldAcceptor(true);
  std::vector<float> data(1000);
  const Status status = cluster.engines[1]->AllReduce({1}, {0}, 1, data, {})->Wait().status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(Message(status), HasSubstr("silent"));
  EXPECT_TRUE(status.GetPayload(kPeerPayload).has_value());
  proxy.Cut();
}

TEST(WanFaults, AFailedOperationGivesTheBufferBackAsItWasIfAskedTo) {
  Cluster cluster(2);
  cluster.JoinAll();
  const auto inputs = MakeInputs(2, 1000000, 1);
  auto data = inputs;
  AllReduceOptions options;
  options.restore_on_failure = true;
  const auto operations = cluster.StartAll(1, &data, options);
  while (operations[0]->elements_done() == 0 && !operations[0]->Done()) std::this_thread::yield();
  operations[1]->Cancel();
  for (int member = 0; member < 2; ++member) {
    if (operations[member]->Wait().ok()) continue;  // it was quicker
    EXPECT_TRUE(SameBits(data[member], inputs[member]));
  }
}

TEST(WanFaults, DifferentSizesCodecsOrChunksFailOnBothSidesAndSayWhatDiffers) {
  Cluster cluster(2);
  cluster.engines.push_back(MakeEngine(2, 128 << 10));
  cluster.endpoints.push_back(cluster.engines.back()->endpoint());
  cluster.JoinAll();
  std::vector<std::vector<float>> data(3, std::vector<float>(300000, 1.0f));
  for (const auto& operation : cluster.StartAll(1, &data)) {
    const Status status = operation->Wait().status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(Message(status), HasSubstr("elements a chunk"));
  }
  Cluster pair(2);
  pair.JoinAll();
  for (uint64_t id = 1; id <= 20; ++id) {
    std::vector<float> seven(70000), eight(80000);
    AllReduceOptions bf16;
    bf16.codec = Codec::kBf16;
    const bool codec = id % 2 == 0;
    const auto a = pair.engines[0]->AllReduce({1}, {0}, id, seven, {});
    const auto b = codec ? pair.engines[1]->AllReduce({1}, {0}, id, seven, bf16)
                         : pair.engines[1]->AllReduce({1}, {0}, id, eight, {});
    for (const auto& operation : {a, b}) {
      const Status status = operation->Wait().status();
      EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
      EXPECT_THAT(Message(status), HasSubstr(codec ? "codec" : "elements"));
      EXPECT_THAT(Message(status), HasSubstr(codec ? "bf16" : "70000"));
      EXPECT_THAT(Message(status), HasSubstr(codec ? "fp32" : "80000"));
    }
  }
  ExpectSums(&pair, 100);  // the connections are as good as before
}

TEST(WanFaults, CancelEndsTheOperationHereAndThenThere) {
  Cluster cluster(2);
  cluster.JoinAll();
  auto data = MakeInputs(2, 1000000, 1);
  const auto mine = cluster.engines[0]->AllReduce({1}, {0}, 1, data[0], {});
  mine->Cancel();
  EXPECT_TRUE(mine->Done());
  EXPECT_TRUE(absl::IsCancelled(mine->Wait().status()));
  const auto theirs = cluster.engines[1]->AllReduce({1}, {0}, 1, data[1], {});
  const Status status = theirs->Wait().status();
  EXPECT_TRUE(absl::IsAborted(status)) << status;
  EXPECT_THAT(Message(status), HasSubstr("region 'johor' cancelled operation 1"));
  mine->Cancel();  // done: nothing happens
  // In the middle, with both at it.
  auto more = MakeInputs(2, 1000000, 2);
  const auto operations = cluster.StartAll(2, &more);
  while (operations[1]->elements_done() == 0 && !operations[1]->Done()) std::this_thread::yield();
  operations[0]->Cancel();
  EXPECT_TRUE(operations[0]->Done());
  (void)operations[1]->Wait();
  ExpectSums(&cluster, 3);
}

TEST(WanFaults, LeavingCancelsWhatIsUnderWay) {
  Cluster cluster(2);
  cluster.JoinAll();
  std::vector<float> data(1000000);
  const auto operation = cluster.engines[0]->AllReduce({1}, {0}, 1, data, {});
  cluster.engines[0]->Leave({1});
  EXPECT_TRUE(operation->Done());
  EXPECT_TRUE(absl::IsCancelled(operation->Wait().status()));
  const Status status = cluster.engines[1]->AllReduce({1}, {0}, 1, data, {})->Wait().status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
}

TEST(WanMemory, AnOperationThatHasNotBegunHereStaysInTheSendersHands) {
  constexpr size_t kElements = 6 << 20;
  constexpr int64_t kToSend = kElements / 2 * sizeof(float);
  Cluster cluster(2, 1);
  cluster.JoinAll(1, 0);
  cluster.JoinAll(1, 1);
  std::vector<float> early(kElements, 1.0f), late(kElements, 2.0f);
  const auto first = cluster.engines[1]->AllReduce({1}, {0}, 1, early, {});
  // Meanwhile another lane goes through: there was time enough to send it all.
  int64_t other_lane = 0;
  for (uint64_t id = 1; id <= 4; ++id) {
    std::vector<std::vector<float>> data(2, std::vector<float>(1 << 19, 1.0f));
    for (const auto& operation : cluster.StartAll(id, &data, {}, 1, 1)) {
      ASSERT_TRUE(operation->Wait().ok());
    }
    other_lane += 2 << 20;
  }
  // What has left is what the kernel's buffers took; a receive buffer grows only when it is read.
  EXPECT_LT(cluster.engines[1]->bytes_sent() - other_lane, kToSend / 2);
  EXPECT_FALSE(first->Done());
  const auto second = cluster.engines[0]->AllReduce({1}, {0}, 1, late, {});
  ASSERT_TRUE(first->Wait().ok());
  ASSERT_TRUE(second->Wait().ok());
  EXPECT_TRUE(SameBits(early, late));
  EXPECT_EQ(early, std::vector<float>(kElements, 3.0f));
}

TEST(WanPriority, WhatIsUrgentOvertakesWhatWaitsForTheSameStream) {
  constexpr size_t kLow = 8 << 20, kHigh = 1 << 19;
  Cluster cluster(2, 1);
  Proxy proxy(cluster.endpoints[0]);
  cluster.GoThrough(proxy.endpoint());
  cluster.JoinAll();
  std::vector<std::vector<float>> low(2, std::vector<float>(kLow, 1.0f));
  std::vector<std::vector<float>> high(2, std::vector<float>(kHigh, 1.0f));
  AllReduceOptions urgent;
  urgent.priority = 5;
  std::vector<std::shared_ptr<Operation>> operations;
  operations.push_back(cluster.engines[0]->AllReduce({1}, {0}, 1, low[0], {}));
  operations.push_back(cluster.engines[0]->AllReduce({1}, {0}, 2, high[0], urgent));
  // Answered when both have begun there.
  ASSERT_FALSE(cluster.engines[0]->AllReduce({1}, {0}, 2, {}, {})->Wait().ok());
  proxy.HoldDialler(true);
  operations.push_back(cluster.engines[1]->AllReduce({1}, {0}, 1, low[1], {}));
  operations.push_back(cluster.engines[1]->AllReduce({1}, {0}, 2, high[1], urgent));
  // All of the acceptor's contributions to the first are here, and its start of the second with
  // them, while the dialler's own frames are stuck behind the proxy.
  while (operations[2]->elements_done() < static_cast<int64_t>(kLow / 2)) {
    std::this_thread::yield();
  }
  proxy.HoldDialler(false);
  for (const auto& operation : operations) ASSERT_TRUE(operation->Wait().ok());
  int low_frames = 0, low_before_last_high = 0;
  for (const FrameHeader& header : proxy.DiallersFrames()) {
    if (header.type != FrameType::kContribution) continue;
    if (header.operation == 1) {
      ++low_frames;
    } else {
      low_before_last_high = low_frames;
    }
  }
  EXPECT_EQ(low_frames, static_cast<int>(kLow / 2 * 4 / (64 << 10)));
  EXPECT_LT(low_before_last_high, low_frames / 2);
}

}  // namespace
}  // namespace atl::wan
