// Vectors that all ranks see where they lie: see host_exchange.h.
//
// Where a rank's vector is, is said in one of two halves, for even and odd steps. Why a half is
// free at step s: no rank leaves step s-1 before all have come to it, and who has come to it has
// read what was said at step s-2.
#include <algorithm>
#include <cstring>

#include "base/log.h"
#include "collectives/mpi/host_exchange.h"
#include "collectives/mpi/vector_sums.h"

namespace atl {

StatusOr<bool> HostExchange::MeetInSharedVectors(float* data, Range whole) {
  SharedVectors* const vectors = options_.vectors;
  if (vectors == nullptr || !vectors->ever()) return false;
  const int64_t bytes = whole.size() * int64_t{sizeof(float)};
  if (IsShort(whole.size()) && bytes < options_.least_shared_bytes) return false;
  const SharedVectors::Place own = vectors->Find(data + whole.begin, bytes);
  const uint32_t half = step_ % 2;
  gates_[rank_].said[half].number.store(own.number, std::memory_order_relaxed);
  gates_[rank_].said[half].offset.store(own.offset, std::memory_order_relaxed);
  Call call;
  call.first = step_;
  call.end = ++step_;
  gates_[rank_].brought.Raise(call.end);
  RETURN_IF_ERROR(WaitForAll(&Gates::brought, call.end));
  bool all = own.number != 0;
  seen_.assign(ranks_, data + whole.begin);
  for (int rank = 0; rank < ranks_; ++rank) {
    const SharedVectors::Place place = {
        gates_[rank].said[half].number.load(std::memory_order_relaxed),
        gates_[rank].said[half].offset.load(std::memory_order_relaxed)};
    all = all && place.number == own.number;
    if (!all || rank == rank_) continue;
    seen_[rank] = reinterpret_cast<float*>(vectors->At(rank, place, bytes));
    CHECK(seen_[rank] != nullptr) << "rank " << rank << " has another vector " << place.number;
  }
  if (!all) End(call);
  return all;
}

Status HostExchange::LeaveSharedVectors() {
  Call call;
  call.end = step_;
  End(call);
  return WaitForAll(&Gates::summed, call.end);
}

void HostExchange::SumShared(Range whole, Range own, bool write_to_all) {
  rows_.clear();
  sums_.clear();
  for (int rank = 0; rank < ranks_; ++rank) {
    float* const there = seen_[rank] + (own.begin - whole.begin);
    rows_.push_back(there);
    if (write_to_all || rank == rank_) sums_.push_back(there);
  }
  SumRowsIntoAll(rows_.data(), ranks_, own.size(), sums_.data(), static_cast<int>(sums_.size()));
}

void HostExchange::GatherShared(Range whole, std::span<const Range> ranges) {
  const bool past_caches =
      ranks_ * whole.size() * int64_t{sizeof(float)} >= options_.gather_past_caches_bytes;
  for (int i = 1; i < ranks_; ++i) {
    const int owner = (rank_ + i) % ranks_;
    const int64_t begin = ranges[owner].begin - whole.begin;
    Copy(seen_[rank_] + begin, seen_[owner] + begin, ranges[owner].size(), past_caches);
  }
}

}  // namespace atl
