// The collectives of a host on threads instead of processes, where the thread sanitizer sees them:
// the battery over every way through the slots, sums over hosts, and ranks that stay away.
#include "collectives/mpi/host_exchange.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "collectives/inprocess/inprocess.h"
#include "tests/collectives/battery.h"

namespace atl {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Zeroed memory that a host's ranks share.
class HostMemoryBlock {
 public:
  HostMemoryBlock(int ranks, int64_t chunk_bytes) {
    const int64_t bytes = (HostExchange::BytesNeeded(ranks, chunk_bytes) + 4095) / 4096 * 4096;
    data_ = static_cast<char*>(std::aligned_alloc(4096, bytes));
    std::memset(data_, 0, bytes);
  }
  ~HostMemoryBlock() { std::free(data_); }
  HostMemoryBlock(const HostMemoryBlock&) = delete;
  char* data() const { return data_; }

 private:
  char* data_;
};

// What the ranks see of each other's vectors. Outlives all of them: in processes, what a rank has
// mapped stays when another gives its own back.
class VectorsOfHost {
 public:
  float* Make(int64_t count) {
    MutexLock lock(&mutex_);
    return vectors_.emplace_back(count).data();
  }

 private:
  Mutex mutex_;
  std::deque<std::vector<float>> vectors_ ABSL_GUARDED_BY(mutex_);
};

// Vectors through the exchange, control messages through another communicator.
class ThreadOfHost : public Communicator {
 public:
  ThreadOfHost(Communicator* control, char* memory, VectorsOfHost* vectors,
               HostExchangeOptions options)
      : control_(control),
        vectors_of_host_(vectors),
        shared_(std::make_shared<SharedVectors>(control->rank())) {
    options.vectors = shared_.get();
    exchange_ = std::make_unique<HostExchange>(memory, control->rank(), control->size(), options);
  }
  StatusOr<Buffer> Allocate(int64_t count) override {
    float* const data = vectors_of_host_->Make(count + 1);
    struct Told {
      char* start;
      int64_t bytes;
    } told = {reinterpret_cast<char*>(data), (count + 1) * int64_t{sizeof(float)}};
    ASSIGN_OR_RETURN(const auto all, control_->AllGatherBytes(std::string(
                                         reinterpret_cast<const char*>(&told), sizeof told)));
    std::vector<char*> starts;
    std::vector<int64_t> bytes;
    for (const std::string& text : all) {
      std::memcpy(&told, text.data(), sizeof told);
      starts.push_back(told.start);
      bytes.push_back(told.bytes);
    }
    const uint64_t number = shared_->Add(std::move(starts), std::move(bytes));
    return Buffer(data, count, /*shared=*/true,
                  [shared = shared_, number] { shared->Remove(number); });
  }
  int rank() const override { return control_->rank(); }
  int size() const override { return control_->size(); }
  std::string backend() const override { return "host exchange"; }
  Status AllReduce(float* data, int64_t count) override {
    return exchange_->AllReduce(data, count);
  }
  Status ReduceScatter(float* data, std::span<const Range> ranges) override {
    return exchange_->ReduceScatter(data, ranges);
  }
  Status AllGather(float* data, std::span<const Range> ranges) override {
    return exchange_->AllGather(data, ranges);
  }
  Status Broadcast(std::string* bytes, int root) override {
    return control_->Broadcast(bytes, root);
  }
  StatusOr<std::vector<std::string>> AllGatherBytes(const std::string& bytes) override {
    return control_->AllGatherBytes(bytes);
  }
  Status Barrier() override { return control_->Barrier(); }

 private:
  Communicator* const control_;
  VectorsOfHost* const vectors_of_host_;
  const std::shared_ptr<SharedVectors> shared_;
  std::unique_ptr<HostExchange> exchange_;
};

void RunOnThreads(int count, const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) threads.emplace_back([&, i] { body(i); });
  for (auto& thread : threads) thread.join();
}

void PassTheBattery(int ranks, const HostExchangeOptions& options, bool allocate = false) {
  const HostMemoryBlock memory(ranks, options.chunk_bytes);
  const auto group = MakeInProcessGroup(ranks);
  BatteryOptions battery;
  battery.sums_in_rank_order = true;
  battery.allocate = allocate;
  battery.sizes = {0, 1, 255, 256, 1000, 16384, 50003};
  VectorsOfHost vectors;
  std::vector<BatteryResult> results(ranks);
  RunOnThreads(ranks, [&](int rank) {
    ThreadOfHost communicator(group[rank].get(), memory.data(), &vectors, options);
    results[rank] = RunBattery(communicator, HostMemory(), battery);
  });
  for (const BatteryResult& result : results) {
    EXPECT_THAT(result.failures, IsEmpty());
    EXPECT_GT(result.checks, 500);
  }
}

class HostExchangeBattery : public testing::TestWithParam<int> {};

TEST_P(HostExchangeBattery, PassesWithShortVectorsInOneStep) {
  HostExchangeOptions options;
  options.chunk_bytes = 4096;
  PassTheBattery(GetParam(), options);
}

TEST_P(HostExchangeBattery, PassesInManyStepsPastTheCaches) {
  HostExchangeOptions options;
  options.chunk_bytes = 1024;
  options.short_bytes = 0;
  options.past_caches_bytes = 0;
  PassTheBattery(GetParam(), options);
}

TEST_P(HostExchangeBattery, PassesWhenEveryWaitSleeps) {
  HostExchangeOptions options;
  options.chunk_bytes = 16384;
  options.short_bytes = 1000;
  options.wait.longest_sleep = absl::Microseconds(50);
  PassTheBattery(GetParam(), options);
}

TEST_P(HostExchangeBattery, PassesWhenVectorsAreReachedWhereTheyLie) {
  const PeerMemory peers(std::vector<pid_t>(GetParam(), getpid()));
  HostExchangeOptions options;
  options.chunk_bytes = 1024;
  options.short_bytes = 0;
  options.block_bytes = 1024;
  options.peers = &peers;
  options.always_reach = true;
  PassTheBattery(GetParam(), options);
}

// The long ones are gathered past the caches, the shortest go through slots.
TEST_P(HostExchangeBattery, PassesOnVectorsThatAllSee) {
  HostExchangeOptions options;
  options.chunk_bytes = 4096;
  options.least_shared_bytes = 1000;
  options.gather_past_caches_bytes = 128 << 10;
  PassTheBattery(GetParam(), options, /*allocate=*/true);
}

INSTANTIATE_TEST_SUITE_P(Ranks, HostExchangeBattery, testing::Values(2, 3, 5));

TEST(HostExchange, EndsACallWithTheErrorOfTheOneWhoIsAskedWhileItWaits) {
  const HostMemoryBlock memory(2, 4096);
  HostExchangeOptions options;
  options.chunk_bytes = 4096;
  options.wait.longest_sleep = absl::Milliseconds(1);
  options.while_waiting = [](int local_rank, double) {
    return absl::UnavailableError(std::string("rank ") + char('0' + local_rank) + " is gone");
  };
  HostExchange exchange(memory.data(), 0, 2, options);
  for (const int64_t count : {10, 100000}) {
    std::vector<float> vector(count);
    const Status status = exchange.AllReduce(vector.data(), count);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(status.message(), HasSubstr("rank 1 is gone"));
  }
}

TEST(HostExchange, TakesChunksThatFitIntoACacheWithTheOtherRanksOfACore) {
  EXPECT_EQ(HostExchange::ChunkBytes(2, 64), 172032);
  EXPECT_EQ(HostExchange::ChunkBytes(4, 2), 40960);
  EXPECT_EQ(HostExchange::ChunkBytes(128, 1), 4096);
}

// Messages from one thread to another, in order.
class Pipe {
 public:
  void Send(const float* from, int64_t count) {
    MutexLock lock(&mutex_);
    messages_.emplace_back(from, from + count);
    changed_.NotifyAll();
  }
  std::vector<float> Receive() {
    MutexLock lock(&mutex_);
    while (messages_.empty()) changed_.Wait(&mutex_);
    std::vector<float> message = std::move(messages_.front());
    messages_.pop_front();
    return message;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::deque<std::vector<float>> messages_;
};

class PipesToHosts : public OtherHosts {
 public:
  PipesToHosts(Pipe* from_before, Pipe* to_before, Pipe* from_after, Pipe* to_after)
      : from_before_(from_before),
        to_before_(to_before),
        from_after_(from_after),
        to_after_(to_after) {}
  bool is_first() const override { return from_before_ == nullptr; }
  bool is_last() const override { return from_after_ == nullptr; }
  StatusOr<float*> PartialBuffer(int64_t count) override {
    partial_.resize(count);
    return partial_.data();
  }
  Status ReceivePartial(float* to, int64_t count) override {
    return Receive(*from_before_, to, count);
  }
  Status SendPartial(int64_t count) override {
    to_after_->Send(partial_.data(), count);
    return OkStatus();
  }
  Status ReceiveTotal(float* to, int64_t count) override {
    return Receive(*from_after_, to, count);
  }
  Status SendTotal(const float* from, int64_t count) override {
    to_before_->Send(from, count);
    return OkStatus();
  }
  Status FinishOlderTotals() override { return OkStatus(); }
  Status Finish() override { return OkStatus(); }

 private:
  static Status Receive(Pipe& pipe, float* to, int64_t count) {
    const std::vector<float> message = pipe.Receive();
    if (static_cast<int64_t>(message.size()) != count) return absl::InternalError("other length");
    std::copy(message.begin(), message.end(), to);
    return OkStatus();
  }
  Pipe *const from_before_, *const to_before_, *const from_after_, *const to_after_;
  std::vector<float> partial_;
};

// Hosts of 2, 1 and 3 ranks: one carries for all. The order of floats' sums shows in the values.
TEST(HostExchange, AddsUpOverHostsInRankOrder) {
  constexpr int kRanksOfHost[] = {2, 1, 3};
  constexpr int kHosts = 3, kRanks = 6;
  constexpr int64_t kCount = 20011;
  HostExchangeOptions options;
  options.chunk_bytes = 1024;
  std::vector<std::unique_ptr<HostMemoryBlock>> memory;
  for (const int ranks : kRanksOfHost) {
    memory.push_back(std::make_unique<HostMemoryBlock>(ranks, options.chunk_bytes));
  }
  const auto input = [](int rank, int64_t i) {
    return static_cast<float>((i * 7919 + rank * 104729) % 100003) * (rank % 2 ? 1e-3f : 1.7f);
  };
  std::vector<float> expected(kCount);
  for (int64_t i = 0; i < kCount; ++i) {
    expected[i] = input(0, i);
    for (int rank = 1; rank < kRanks; ++rank) expected[i] += input(rank, i);
  }
  Pipe onward[kHosts], back[kHosts];  // onward[h]: from host h to h + 1; back[h]: the reverse
  std::vector<std::vector<float>> vectors(kRanks, std::vector<float>(kCount));
  RunOnThreads(kRanks, [&](int rank) {
    const int host = rank < 2 ? 0 : rank < 3 ? 1 : 2;
    const int local = rank - (host == 0 ? 0 : host == 1 ? 2 : 3);
    PipesToHosts pipes(host > 0 ? &onward[host - 1] : nullptr, host > 0 ? &back[host - 1] : nullptr,
                       host < 2 ? &back[host] : nullptr, host < 2 ? &onward[host] : nullptr);
    HostExchange exchange(memory[host]->data(), local, kRanksOfHost[host], options);
    for (int repetition = 0; repetition < 3; ++repetition) {
      for (int64_t i = 0; i < kCount; ++i) vectors[rank][i] = input(rank, i);
      OverHosts what;
      what.data = vectors[rank].data();
      what.whole = {0, kCount};
      what.wanted = {0, kCount};
      what.here_end = kCount;
      what.before_end = kCount;
      what.hosts_after = 2 - host;
      const Status status = exchange.ReduceOverHosts(what, local == 0 ? &pipes : nullptr);
      EXPECT_TRUE(status.ok()) << status;
    }
  });
  for (int rank = 0; rank < kRanks; ++rank) EXPECT_EQ(vectors[rank], expected) << rank;
}

}  // namespace
}  // namespace atl
