// Every collective goes in three steps:
// 1. Arrive: a rank posts its call (method, counts, pointers) and waits until all have.
// 2. Work: all compare the posted calls; if they agree, each rank does its part straight on the
//    others' memory. No element is written by one rank while another touches it.
// 3. Depart: all wait until all are done, so that nobody's memory goes away under another.
// Only step 1 can fail for want of a rank: after it, all ranks are inside the call.
//
// Invariant: element i is summed as ((rank 0 + rank 1) + rank 2) + ..., whoever does it: the bits
// depend on nothing but the inputs.
#include "collectives/inprocess/inprocess.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/mutex.h"
#include "collectives/range_rules.h"

namespace atl {
namespace {

// What a rank has posted.
struct Call {
  const char* method = "";
  int64_t count = 0;  // elements, or the root of a broadcast: the same on all ranks
  float* data = nullptr;
  std::vector<Range> ranges = {};
  const std::string* bytes = nullptr;
};

class Group {
 public:
  explicit Group(int size) : calls_(size) {}

  int size() const { return static_cast<int>(calls_.size()); }

  // Runs `work` on every rank between arriving and departing.
  Status Collective(int rank, Call call, const std::function<Status()>& work) {
    {
      MutexLock lock(&mutex_);
      calls_[rank] = std::move(call);
      RETURN_IF_ERROR(WaitForAll());
    }
    Status status = Agreement();
    if (status.ok()) status = work();
    MutexLock lock(&mutex_);
    RETURN_IF_ERROR(WaitForAll());
    return status;
  }

  // The calls of all ranks; only within `work`, when nobody changes them.
  const std::vector<Call>& calls() const ABSL_NO_THREAD_SAFETY_ANALYSIS { return calls_; }

  void Leave(int rank) {
    MutexLock lock(&mutex_);
    if (left_ < 0) left_ = rank;
    changed_.NotifyAll();
  }

 private:
  // A barrier over all ranks. Once all have come it succeeds for all, even if one then leaves.
  Status WaitForAll() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const int64_t generation = generation_;
    if (left_ < 0 && ++waiting_ == size()) {
      waiting_ = 0;
      ++generation_;
      changed_.NotifyAll();
      return OkStatus();
    }
    while (generation_ == generation && left_ < 0) changed_.Wait(&mutex_);
    if (generation_ != generation) return OkStatus();
    return absl::UnavailableError(absl::StrCat("rank ", left_, " has left the region"));
  }

  // Whether all ranks have posted the same call: the same answer on every rank.
  Status Agreement() const ABSL_NO_THREAD_SAFETY_ANALYSIS {
    const Call& first = calls_.front();
    for (int rank = 1; rank < size(); ++rank) {
      const Call& other = calls_[rank];
      if (std::strcmp(first.method, other.method) != 0 || first.count != other.count ||
          first.ranges != other.ranges) {
        return absl::InternalError(absl::StrCat("ranks disagree: rank 0 calls ", first.method,
                                                " of ", first.count, ", rank ", rank, " calls ",
                                                other.method, " of ", other.count));
      }
    }
    return OkStatus();
  }

  Mutex mutex_;
  CondVar changed_;
  std::vector<Call> calls_ ABSL_GUARDED_BY(mutex_);
  int waiting_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t generation_ ABSL_GUARDED_BY(mutex_) = 0;
  int left_ ABSL_GUARDED_BY(mutex_) = -1;  // the first rank that left
};

class InProcessCommunicator : public Communicator {
 public:
  InProcessCommunicator(std::shared_ptr<Group> group, int rank)
      : group_(std::move(group)), rank_(rank) {}
  ~InProcessCommunicator() override { group_->Leave(rank_); }

  int rank() const override { return rank_; }
  int size() const override { return group_->size(); }
  std::string backend() const override { return "inprocess"; }

  // The other ranks see all memory.
  StatusOr<Buffer> Allocate(int64_t count) override {
    return Buffer::Ordinary(count, /*shared=*/true);
  }

  Status AllReduce(float* data, int64_t count) override {
    CHECK_GE(count, 0);
    return group_->Collective(rank_, {.method = "AllReduce", .count = count, .data = data}, [&] {
      // This rank sums its share of the elements and hands the sums to everybody.
      SumShare({count * rank_ / size(), count * (rank_ + 1) / size()}, /*to_all=*/true);
      return OkStatus();
    });
  }

  Status ReduceScatter(float* data, std::span<const Range> ranges) override {
    const Range whole = CheckedUnion(ranges, size());
    Call call{.method = "ReduceScatter", .count = whole.size(), .data = data};
    call.ranges.assign(ranges.begin(), ranges.end());
    return group_->Collective(rank_, std::move(call), [&] {
      SumShare(ranges[rank_], /*to_all=*/false);
      return OkStatus();
    });
  }

  Status AllGather(float* data, std::span<const Range> ranges) override {
    const Range whole = CheckedUnion(ranges, size());
    Call call{.method = "AllGather", .count = whole.size(), .data = data};
    call.ranges.assign(ranges.begin(), ranges.end());
    return group_->Collective(rank_, std::move(call), [&] {
      for (int source = 0; source < size(); ++source) {
        const Range range = ranges[source];
        if (source == rank_ || range.empty()) continue;
        std::copy_n(group_->calls()[source].data + range.begin, range.size(), data + range.begin);
      }
      return OkStatus();
    });
  }

  Status Broadcast(std::string* bytes, int root) override {
    CHECK(root >= 0 && root < size()) << root;
    return group_->Collective(
        rank_, {.method = "Broadcast", .count = root, .bytes = bytes}, [&]() -> Status {
          const std::string& source = *group_->calls()[root].bytes;
          RETURN_IF_ERROR(CheckControlSize(static_cast<int64_t>(source.size())));
          if (rank_ != root) *bytes = source;
          return OkStatus();
        });
  }

  StatusOr<std::vector<std::string>> AllGatherBytes(const std::string& bytes) override {
    std::vector<std::string> all;
    RETURN_IF_ERROR(
        group_->Collective(rank_, {.method = "AllGatherBytes", .bytes = &bytes}, [&]() -> Status {
          int64_t total = 0;
          for (const Call& call : group_->calls()) total += call.bytes->size();
          RETURN_IF_ERROR(CheckControlSize(total));
          for (const Call& call : group_->calls()) all.push_back(*call.bytes);
          return OkStatus();
        }));
    return all;
  }

  Status Barrier() override {
    return group_->Collective(rank_, {.method = "Barrier"}, [] { return OkStatus(); });
  }

 private:
  static Status CheckControlSize(int64_t size) {
    if (size <= kMaxControlBytes) return OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("a control message of ", size, " bytes; at most ", kMaxControlBytes));
  }

  // Sums elements `share` over the ranks, in rank order. Nobody else touches these elements of any
  // rank meanwhile.
  void SumShare(Range share, bool to_all) {
    const std::vector<Call>& calls = group_->calls();
    // In blocks that stay in the cache while the ranks are added up.
    constexpr int64_t kBlock = 4096;
    float sum[kBlock];
    for (int64_t begin = share.begin; begin < share.end; begin += kBlock) {
      const int64_t count = std::min(kBlock, share.end - begin);
      std::copy_n(calls[0].data + begin, count, sum);
      for (int source = 1; source < size(); ++source) {
        const float* other = calls[source].data + begin;
        for (int64_t i = 0; i < count; ++i) sum[i] += other[i];
      }
      if (!to_all) {
        std::copy_n(sum, count, calls[rank_].data + begin);
        continue;
      }
      for (const Call& call : calls) std::copy_n(sum, count, call.data + begin);
    }
  }

  const std::shared_ptr<Group> group_;
  const int rank_;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> MakeInProcessGroup(int size) {
  CHECK_GE(size, 1);
  auto group = std::make_shared<Group>(size);
  std::vector<std::unique_ptr<Communicator>> ranks;
  for (int rank = 0; rank < size; ++rank) {
    ranks.push_back(std::make_unique<InProcessCommunicator>(group, rank));
  }
  return ranks;
}

}  // namespace atl
