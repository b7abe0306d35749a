// Bytes that members fetch from each other: from several sources, with sources that say no, read
// wrong, hang, die or are cut off, and beside an all-reduce.
#include "collectives/wan/transfer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/random.h"
#include "collectives/wan/engine.h"
#include "tests/wan/cluster.h"
#include "tests/wan/proxy.h"

namespace atl::wan {
namespace {

using testing::HasSubstr;

constexpr ViewId kView = {1};
constexpr LaneId kLane = {0};

std::vector<uint8_t> MakeBytes(size_t size, uint64_t seed = 1) {
  std::vector<uint8_t> bytes(size);
  for (size_t i = 0; i < size; ++i)
    bytes[i] = static_cast<uint8_t>(Mix64(seed + i / 8) >> (i % 8 * 8));
  return bytes;
}

FetchRequest Whole(std::vector<uint8_t>* out, std::vector<MemberIndex> sources = {}) {
  FetchRequest request;
  request.name = "state";
  request.sources = std::move(sources);
  request.ranges = {{0, static_cast<int64_t>(out->size())}};
  request.block_bytes = 64 << 10;
  request.out = *out;
  return request;
}

// Reads from memory, and can be told to fail, to wait, or to give other bytes.
class Script : public ByteSource {
 public:
  explicit Script(const std::vector<uint8_t>& bytes) : bytes_(bytes) {}
  int64_t size() const override { return static_cast<int64_t>(bytes_.size()); }
  Status Read(int64_t offset, std::span<uint8_t> out) override {
    std::unique_lock<std::mutex> lock(mutex_);
    read_ += static_cast<int64_t>(out.size());
    changed_.notify_all();
    changed_.wait(lock, [this] { return read_ <= held_after_; });
    if (read_ > fails_after_) return absl::DataLossError("the disk is gone");
    std::copy_n(bytes_.begin() + offset, out.size(), out.begin());
    if (wrong_) out[out.size() / 2] ^= 1;
    return OkStatus();
  }
  void FailAfter(int64_t bytes) { fails_after_ = bytes; }
  void GiveWrongBytes() { wrong_ = true; }
  // Reads that go past so many bytes wait.
  void HoldAfter(int64_t bytes) {
    std::lock_guard<std::mutex> lock(mutex_);
    held_after_ = bytes;
    changed_.notify_all();
  }
  void Hold() { HoldAfter(0); }
  void Release() { HoldAfter(int64_t{1} << 60); }
  void AwaitRead(int64_t bytes) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return read_ >= bytes; });
  }
  int64_t read() {
    std::lock_guard<std::mutex> lock(mutex_);
    return read_;
  }

 private:
  const std::vector<uint8_t> bytes_;
  int64_t fails_after_ = int64_t{1} << 60;
  bool wrong_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
  int64_t held_after_ = int64_t{1} << 60;
  int64_t read_ = 0;
};

class WanTransfer : public testing::Test {
 protected:
  void Start(int members, size_t size = 8 << 20) {
    cluster_ = std::make_unique<Cluster>(members);
    bytes_ = MakeBytes(size);
    out_.assign(size, 0);
  }
  std::shared_ptr<Script> Serve(int member) {
    auto source = std::make_shared<Script>(bytes_);
    const Status status = cluster_->engines[member]->Serve(kView, kLane, "state", source);
    EXPECT_TRUE(status.ok()) << status;
    return source;
  }
  std::shared_ptr<Transfer> Fetch(FetchRequest request) {
    return cluster_->engines[0]->Fetch(kView, kLane, std::move(request));
  }
  static void AwaitFallen(Transfer* transfer, size_t count) {
    while (transfer->Progress().fallen.size() < count) std::this_thread::yield();
  }
  void ExpectWhole(Transfer* transfer) {
    const Status status = transfer->Wait();
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_TRUE(out_ == bytes_);
    const FetchProgress progress = transfer->Progress();
    EXPECT_EQ(progress.received, static_cast<int64_t>(bytes_.size()));
    EXPECT_TRUE(progress.missing.empty());
  }

  std::unique_ptr<Cluster> cluster_;
  std::vector<uint8_t> bytes_;
  std::vector<uint8_t> out_;
};

TEST_F(WanTransfer, BytesComeFromAllWhoHaveThem) {
  Start(3);
  const auto first = Serve(1);  // before it has joined
  cluster_->JoinAll();
  const auto second = Serve(2);
  // Neither gives all before the other one has begun.
  first->Hold();
  second->Hold();
  const auto transfer = Fetch(Whole(&out_));
  first->AwaitRead(1);
  second->AwaitRead(1);
  first->Release();
  second->Release();
  ExpectWhole(transfer.get());
  const FetchProgress progress = transfer->Progress();
  EXPECT_GT(progress.from[1], 0);
  EXPECT_GT(progress.from[2], 0);
  EXPECT_EQ(progress.from[1] + progress.from[2], progress.received);
  EXPECT_TRUE(progress.fallen.empty());
}

TEST_F(WanTransfer, OnlyTheRangesThatAreAskedForAreSent) {
  Start(2);
  const auto source = Serve(1);
  cluster_->JoinAll();
  FetchRequest request = Whole(&out_);
  request.ranges = {{5000000, 5000001}, {77, 300000}};
  const auto transfer = Fetch(request);
  ASSERT_TRUE(transfer->Wait().ok());
  EXPECT_EQ(source->read(), 1 + 300000 - 77);
  for (int64_t i = 0; i < source->size(); ++i) {
    const bool asked = i == 5000000 || (i >= 77 && i < 300000);
    ASSERT_EQ(out_[i], asked ? bytes_[i] : 0) << i;
  }
}

TEST_F(WanTransfer, ASinkGetsEachBlockOnceAndWhole) {
  Start(3, 3000001);
  Serve(1);
  Serve(2);
  cluster_->JoinAll();
  std::vector<int> times(bytes_.size());
  FetchRequest request = Whole(&out_);
  request.out = {};
  request.sink = [&](int64_t offset, std::span<const uint8_t> block) {
    EXPECT_EQ(offset % (64 << 10), 0);
    for (size_t i = 0; i < block.size(); ++i) {
      out_[offset + i] = block[i];
      ++times[offset + i];
    }
    return OkStatus();
  };
  ExpectWhole(Fetch(request).get());
  for (const int count : times) ASSERT_EQ(count, 1);
}

TEST_F(WanTransfer, WhoServesNothingOrTooLittleFallsOutByName) {
  Start(4);
  const auto whole = Serve(1);
  whole->Hold();
  cluster_->JoinAll();
  const std::vector<uint8_t> short_bytes(100);
  ASSERT_TRUE(cluster_->engines[2]->Serve(kView, kLane, "state", MemorySource(short_bytes)).ok());
  const auto transfer = Fetch(Whole(&out_));
  AwaitFallen(transfer.get(), 2);
  whole->Release();
  ExpectWhole(transfer.get());
  const FetchProgress progress = transfer->Progress();
  ASSERT_EQ(progress.fallen.size(), 2u);
  for (const FallenSource& fallen : progress.fallen) {
    if (fallen.member.value == 2) {
      EXPECT_TRUE(absl::IsOutOfRange(fallen.why)) << fallen.why;
      EXPECT_THAT(std::string(fallen.why.message()), HasSubstr("100 bytes"));
    } else {
      EXPECT_EQ(fallen.name, "turku");
      EXPECT_TRUE(absl::IsNotFound(fallen.why)) << fallen.why;
    }
  }
}

TEST_F(WanTransfer, WithTheLastSourceTheFetchEndsAndAnotherOneGoesOn) {
  Start(2);
  const auto source = Serve(1);
  source->FailAfter(4 << 20);
  cluster_->JoinAll();
  const auto first = Fetch(Whole(&out_));
  const Status status = first->Wait();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("region 'oslo': it could not read"));
  const FetchProgress progress = first->Progress();
  EXPECT_GT(progress.received, 0);
  EXPECT_LE(progress.received, 4 << 20);
  int64_t missing = 0;
  for (const Range& range : progress.missing) missing += range.size();
  EXPECT_EQ(missing, progress.wanted - progress.received);
  const auto again = Serve(1);
  FetchRequest rest = Whole(&out_);
  rest.ranges = progress.missing;
  ASSERT_TRUE(Fetch(rest)->Wait().ok());
  EXPECT_TRUE(out_ == bytes_);
  EXPECT_EQ(again->read(), missing);
}

TEST_F(WanTransfer, ASourceWhoseBytesAreWrongFallsOutAndItsBlocksComeFromOthers) {
  Start(3);
  Serve(1)->GiveWrongBytes();
  const auto right = Serve(2);
  right->Hold();  // until a wrong block has come
  cluster_->JoinAll();
  FetchRequest request = Whole(&out_);
  request.out = {};
  request.sink = [&](int64_t offset, std::span<const uint8_t> block) {
    if (!std::equal(block.begin(), block.end(), bytes_.begin() + offset)) {
      right->Release();
      return Status(absl::DataLossError("another hash"));
    }
    std::copy(block.begin(), block.end(), out_.begin() + offset);
    return OkStatus();
  };
  const auto transfer = Fetch(request);
  ExpectWhole(transfer.get());
  const FetchProgress progress = transfer->Progress();
  ASSERT_EQ(progress.fallen.size(), 1u);
  EXPECT_EQ(progress.fallen[0].name, "oslo");
  EXPECT_TRUE(absl::IsDataLoss(progress.fallen[0].why));
}

TEST_F(WanTransfer, ASinkThatFailsEndsTheFetch) {
  Start(2);
  Serve(1);
  cluster_->JoinAll();
  FetchRequest request = Whole(&out_);
  request.out = {};
  request.sink = [](int64_t, std::span<const uint8_t>) {
    return absl::ResourceExhaustedError("the disk is full");
  };
  const auto transfer = Fetch(request);
  EXPECT_TRUE(absl::IsResourceExhausted(transfer->Wait()));
  EXPECT_EQ(transfer->Progress().missing, (std::vector<Range>{{0, 8 << 20}}));
}

TEST_F(WanTransfer, AfterCancelAndStopServingNothingIsTouched) {
  Start(2);
  const auto source = Serve(1);
  cluster_->JoinAll();
  source->Hold();
  const auto transfer = Fetch(Whole(&out_));
  source->AwaitRead(1);
  transfer->Cancel();
  EXPECT_TRUE(absl::IsCancelled(transfer->Wait()));
  std::vector<uint8_t>().swap(out_);
  source->Release();
  cluster_->engines[1]->StopServing(kView, kLane, "state");
  const int64_t read = source->read();
  ExpectSums(cluster_.get(), 1);
  EXPECT_EQ(source->read(), read);
}

TEST_F(WanTransfer, ConnectionsThatBreakCostNoByteTwice) {
  Start(2, 32 << 20);
  Proxy proxy(cluster_->endpoints[0]);
  cluster_->GoThrough(proxy.endpoint());
  const auto source = Serve(1);
  cluster_->JoinAll();
  const auto transfer = Fetch(Whole(&out_));
  for (const int64_t at : {4 << 20, 12 << 20, 20 << 20}) {
    source->AwaitRead(at);
    proxy.Cut();
  }
  ExpectWhole(transfer.get());
  EXPECT_EQ(transfer->Progress().again, 0);
  EXPECT_EQ(source->read(), 32 << 20);
}

TEST_F(WanTransfer, WhatASilentSourceOwesComesFromTheOthers) {
  Start(3);
  const auto mute = Serve(1);
  Serve(2);
  cluster_->JoinAll();
  mute->Hold();
  ExpectWhole(Fetch(Whole(&out_)).get());
  mute->Release();
}

TEST_F(WanTransfer, AnAllReduceBesideAFetchHasTheSameBits) {
  Start(3, 64 << 20);
  Serve(1);
  Serve(2);
  cluster_->JoinAll();
  const auto transfer = Fetch(Whole(&out_));
  for (uint64_t id = 1; id <= 10; ++id) ExpectSums(cluster_.get(), id, 1000000);
  ExpectWhole(transfer.get());
}

TEST_F(WanTransfer, ACapIsKept) {
  Start(3, 2 << 20);
  Serve(1);
  Serve(2);
  cluster_->JoinAll();
  FetchRequest request = Whole(&out_);
  request.rate_cap = 4 << 20;
  const auto transfer = Fetch(request);
  ExpectWhole(transfer.get());
  // Not a word on speed: sooner than that is too fast.
  EXPECT_GT(transfer->Progress().seconds, 0.5 - 0.07);
}

TEST_F(WanTransfer, InAGroupForTransfersAMemberThatIsKilledTakesNothingAlong) {
  constexpr int64_t kSize = 64 << 20;
  Start(4, kSize);
  auto proxy = std::make_unique<Proxy>(cluster_->endpoints[1]);
  for (int member = 0; member < 4; ++member) {
    Group group = cluster_->GroupOf(member);
    group.transfers_only = true;
    if (member == 1) group.members.assign(4, Endpoint());
    group.members[1] = proxy->endpoint();
    const Status joined = cluster_->engines[member]->Join(group, 30);
    ASSERT_TRUE(joined.ok()) << joined;
  }
  const auto killed = Serve(1);
  const auto others = {Serve(2), Serve(3)};
  // They give a part, and the rest when the one that is killed is known to be gone.
  for (const auto& other : others) other->HoldAfter(kSize / 4);
  killed->HoldAfter(kSize / 4);
  const auto transfer = Fetch(Whole(&out_));
  killed->AwaitRead(1 << 20);
  proxy.reset();
  AwaitFallen(transfer.get(), 1);
  killed->Release();
  for (const auto& other : others) other->Release();
  ExpectWhole(transfer.get());
  const FetchProgress progress = transfer->Progress();
  EXPECT_LE(progress.again, kSize / 50);
  ASSERT_EQ(progress.fallen.size(), 1u);
  EXPECT_EQ(progress.fallen[0].name, "oslo");
  // The group goes on without it, and with it when it is back.
  std::fill(out_.begin(), out_.end(), 0);
  ExpectWhole(Fetch(Whole(&out_, {{2}, {3}})).get());
  std::vector<float> data(10);
  EXPECT_TRUE(absl::IsFailedPrecondition(
      cluster_->engines[0]->AllReduce(kView, kLane, 1, data, {})->Wait().status()));
}

TEST_F(WanTransfer, InAGroupForTransfersAMemberThatLeftMayComeAgain) {
  Start(2);
  const auto join = [&](int member) {
    Group group = cluster_->GroupOf(member);
    group.transfers_only = true;
    const Status joined = cluster_->engines[member]->Join(group, 30);
    ASSERT_TRUE(joined.ok()) << joined;
  };
  join(0);
  for (int time = 0; time < 3; ++time) {
    Serve(1);
    join(1);
    std::fill(out_.begin(), out_.end(), 0);
    // Until its new membership is known here, it is the one that has left.
    Status status = Fetch(Whole(&out_))->Wait();
    while (!status.ok()) {
      EXPECT_THAT(std::string(status.message()), HasSubstr("left"));
      std::this_thread::yield();
      status = Fetch(Whole(&out_))->Wait();
    }
    EXPECT_TRUE(out_ == bytes_);
    cluster_->engines[1]->Leave(kView);
  }
}

TEST_F(WanTransfer, ASourceThatIsLostEndsTheFetchWithItsName) {
  Start(2, 64 << 20);
  const auto source = Serve(1);
  source->HoldAfter(1 << 20);
  cluster_->JoinAll();
  const auto transfer = Fetch(Whole(&out_));
  source->AwaitRead(1 << 20);
  std::thread killer([&] { cluster_->engines[1].reset(); });
  const Status status = transfer->Wait();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("oslo"));
  EXPECT_TRUE(status.GetPayload(kPeerPayload).has_value());
  source->Release();
  killer.join();
}

TEST_F(WanTransfer, RequestsThatCannotBeAreErrors) {
  Start(2);
  cluster_->JoinAll();
  FetchRequest request = Whole(&out_);
  request.name = "";
  EXPECT_TRUE(absl::IsInvalidArgument(Fetch(request)->Wait()));
  request = Whole(&out_);
  request.ranges = {{0, 10}, {9, 20}};
  EXPECT_TRUE(absl::IsInvalidArgument(Fetch(request)->Wait()));
  request.ranges = {{0, static_cast<int64_t>(out_.size()) + 1}};
  EXPECT_TRUE(absl::IsInvalidArgument(Fetch(request)->Wait()));
  request = Whole(&out_, {{0}});
  EXPECT_TRUE(absl::IsInvalidArgument(Fetch(request)->Wait()));
  request = Whole(&out_);
  request.block_bytes = 1;
  EXPECT_TRUE(absl::IsInvalidArgument(Fetch(request)->Wait()));
  EXPECT_TRUE(
      absl::IsFailedPrecondition(cluster_->engines[0]->Fetch({7}, kLane, Whole(&out_))->Wait()));
}

}  // namespace
}  // namespace atl::wan
