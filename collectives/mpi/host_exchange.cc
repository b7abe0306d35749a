#include "collectives/mpi/host_exchange.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/log.h"
#include "collectives/mpi/vector_sums.h"
#include "collectives/range_rules.h"

namespace atl {
namespace {

constexpr int64_t kLineBytes = 64;
constexpr int64_t kFloatsInLine = kLineBytes / static_cast<int64_t>(sizeof(float));

constexpr int64_t kPageBytes = 4096;

int64_t RoundUp(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

}  // namespace

HostExchange::Pages HostExchange::AllocatePages(int64_t bytes) {
  auto* const pages =
      static_cast<float*>(std::aligned_alloc(kPageBytes, RoundUp(bytes, kPageBytes)));
  CHECK(pages != nullptr) << "no memory for " << bytes << " bytes";
  return Pages(pages);
}

// The count that is reached later, where counters wrap.
uint32_t HostExchange::Later(uint32_t a, uint32_t b) {
  return static_cast<int32_t>(a - b) > 0 ? a : b;
}

void HostExchange::Copy(float* to, const float* from, int64_t count, bool past_caches) {
  if (past_caches) {
    CopyPastCaches(to, from, count);
  } else {
    std::memcpy(to, from, count * sizeof(float));
  }
}

int64_t HostExchange::ChunkBytes(int ranks, int cores) {
  constexpr int64_t kHalfCache = int64_t{1} << 20;
  const int sharing = (ranks + cores - 1) / std::max(cores, 1);
  const int64_t chunk = kHalfCache / (int64_t{3} * ranks * sharing);
  return std::clamp<int64_t>(chunk / 4096 * 4096, 4096, 256 << 10);
}

int64_t HostExchange::BytesNeeded(int ranks, int64_t chunk_bytes) {
  const int64_t a_rank = sizeof(Gates) + 2 * kShortBytes + 2 * (ranks + 1) * chunk_bytes;
  return ranks * a_rank;
}

HostExchange::HostExchange(char* memory, int rank, int ranks, const HostExchangeOptions& options)
    : rank_(rank),
      ranks_(ranks),
      options_(options),
      chunk_bytes_(options.chunk_bytes),
      gates_(reinterpret_cast<Gates*>(memory)),
      slots_(memory + ranks * sizeof(Gates)),
      shares_(ranks) {
  CHECK(rank >= 0 && rank < ranks);
  CHECK(chunk_bytes_ > 0 && chunk_bytes_ % kLineBytes == 0) << chunk_bytes_;
  CHECK(options_.short_bytes <= kShortBytes);
}

// The memory: gates; then a rank's two short halves; then its two result halves; then, for each
// half, its slots for the owners.
float* HostExchange::ShortSlot(int from, uint32_t step) const {
  return reinterpret_cast<float*>(slots_ + (int64_t{from} * 2 + step % 2) * kShortBytes);
}

float* HostExchange::ResultSlot(int owner, uint32_t step) const {
  char* const results = slots_ + int64_t{ranks_} * 2 * kShortBytes;
  return reinterpret_cast<float*>(results + (int64_t{owner} * 2 + step % 2) * chunk_bytes_);
}

// Slots are as close together as the call's chunk allows: fewer pages, fewer cache conflicts.
float* HostExchange::BringSlot(int from, int owner, uint32_t step, int64_t chunk) const {
  char* const begin = slots_ + int64_t{ranks_} * 2 * (kShortBytes + chunk_bytes_);
  char* const half = begin + (int64_t{from} * 2 + step % 2) * ranks_ * chunk_bytes_;
  return reinterpret_cast<float*>(half) + owner * chunk;
}

Range HostExchange::Call::Chunk(int owner, uint32_t step) const {
  const Range share = ranges[owner];
  const int64_t begin = std::min(share.end, share.begin + int64_t{step - first} * chunk);
  return {begin, std::min(share.end, begin + chunk)};
}

HostExchange::Call HostExchange::Begin(float* data, std::span<const Range> ranges) {
  Call call;
  call.data = data;
  call.ranges = ranges;
  int64_t longest = 0;
  for (const Range& range : ranges) longest = std::max(longest, range.size());
  const int64_t largest = chunk_bytes_ / static_cast<int64_t>(sizeof(float));
  const int64_t steps = (longest + largest - 1) / largest;
  call.chunk = steps == 0 ? 0 : RoundUp((longest + steps - 1) / steps, kFloatsInLine);
  call.first = step_;
  call.end = step_ + static_cast<uint32_t>(steps);
  const int64_t bytes = (ranges.back().end - ranges.front().begin) * int64_t{sizeof(float)};
  call.past_caches = bytes >= options_.past_caches_bytes;
  step_ = call.end;
  return call;
}

// Not every call raises every gate; after it all of them stand at its end.
void HostExchange::End(const Call& call) {
  Gates& own = gates_[rank_];
  for (Gate* gate : {&own.brought, &own.added, &own.summed, &own.taken}) {
    if (!gate->Reached(call.end)) gate->Raise(call.end);
  }
}

Status HostExchange::WaitForOne(int other, Gate Gates::*gate, uint32_t target) {
  Gate& awaited = gates_[other].*gate;
  if (awaited.Reached(target)) return OkStatus();
  return WaitFor(awaited, target, options_.wait, [&](double waited_seconds) {
    return options_.while_waiting ? options_.while_waiting(other, waited_seconds) : OkStatus();
  });
}

Status HostExchange::WaitForAll(Gate Gates::*gate, uint32_t target) {
  for (int i = 1; i < ranks_; ++i) {
    RETURN_IF_ERROR(WaitForOne((rank_ + i) % ranks_, gate, target));
  }
  return OkStatus();
}

Status HostExchange::Bring(const Call& call, uint32_t step, Gate Gates::*read) {
  RETURN_IF_ERROR(WaitForAll(read, Later(call.first, step - 1)));
  for (int i = 1; i < ranks_; ++i) {
    const int owner = (rank_ + i) % ranks_;
    const Range part = call.Chunk(owner, step);
    std::memcpy(BringSlot(rank_, owner, step, call.chunk), call.data + part.begin,
                part.size() * sizeof(float));
  }
  gates_[rank_].brought.Raise(step + 1);
  return OkStatus();
}

Status HostExchange::Sum(const Call& call, uint32_t step) {
  RETURN_IF_ERROR(WaitForAll(&Gates::brought, step + 1));
  float* result = nullptr;
  if (call.results_are_shared) {
    RETURN_IF_ERROR(WaitForAll(&Gates::taken, Later(call.first, step - 1)));
    result = ResultSlot(rank_, step);
  }
  const Range own = call.Chunk(rank_, step);
  rows_.clear();
  for (int from = 0; from < ranks_; ++from) {
    rows_.push_back(from == rank_ ? call.data + own.begin
                                  : BringSlot(from, rank_, step, call.chunk));
  }
  SumRows(rows_.data(), ranks_, own.size(), call.data + own.begin, result);
  gates_[rank_].summed.Raise(step + 1);
  return OkStatus();
}

Status HostExchange::Show(const Call& call, uint32_t step) {
  RETURN_IF_ERROR(WaitForAll(&Gates::taken, Later(call.first, step - 1)));
  const Range own = call.Chunk(rank_, step);
  std::memcpy(ResultSlot(rank_, step), call.data + own.begin, own.size() * sizeof(float));
  gates_[rank_].summed.Raise(step + 1);
  return OkStatus();
}

Status HostExchange::Take(const Call& call, uint32_t step) {
  for (int i = 1; i < ranks_; ++i) {
    const int owner = (rank_ + i) % ranks_;
    RETURN_IF_ERROR(WaitForOne(owner, &Gates::summed, step + 1));
    const Range part = call.Chunk(owner, step);
    Copy(call.data + part.begin, ResultSlot(owner, step), part.size(), call.past_caches);
  }
  gates_[rank_].taken.Raise(step + 1);
  return OkStatus();
}

// Even shares for the first `owners` ranks, in whole cache lines; none for the others.
void HostExchange::Share(Range whole, int owners) {
  const int64_t lines = (whole.size() + kFloatsInLine - 1) / kFloatsInLine;
  const auto bound = [&](int64_t owner) {
    return std::min(whole.end, whole.begin + lines * owner / owners * kFloatsInLine);
  };
  for (int owner = 0; owner < ranks_; ++owner) {
    shares_[owner] = {bound(std::min(owner, owners)), bound(std::min(owner + 1, owners))};
  }
}

Status HostExchange::AllReduce(float* data, int64_t count) {
  const Range whole = {0, count};
  ASSIGN_OR_RETURN(const bool shared, MeetInSharedVectors(data, whole));
  if (shared) {
    Share(whole, ranks_);
    SumShared(whole, shares_[rank_], /*write_to_all=*/true);
    return LeaveSharedVectors();
  }
  if (IsShort(count)) {
    ASSIGN_OR_RETURN(const uint32_t step, ExchangeShort(data, whole));
    SumShort(data, whole, whole, step);
    return OkStatus();
  }
  Share(whole, ranks_);
  if (Reaches(count * int64_t{sizeof(float)} >= kLongSumBytes)) {
    return Reach(data, [&] { return SumFromPeers(data, shares_[rank_], /*write_to_all=*/true); });
  }
  Call call = Begin(data, shares_);
  call.results_are_shared = true;
  RETURN_IF_ERROR(Bring(call, call.first));
  for (uint32_t step = call.first; step != call.end; ++step) {
    RETURN_IF_ERROR(Sum(call, step));
    if (step + 1 != call.end) RETURN_IF_ERROR(Bring(call, step + 1));
    RETURN_IF_ERROR(Take(call, step));
  }
  End(call);
  return OkStatus();
}

Status HostExchange::ReduceScatter(float* data, std::span<const Range> ranges) {
  const Range whole = CheckedUnion(ranges, ranks_);
  if (whole.empty()) return OkStatus();
  ASSIGN_OR_RETURN(const bool shared, MeetInSharedVectors(data, whole));
  if (shared) {
    SumShared(whole, ranges[rank_], /*write_to_all=*/false);
    return LeaveSharedVectors();
  }
  if (IsShort(whole.size())) {
    ASSIGN_OR_RETURN(const uint32_t step, ExchangeShort(data, whole));
    SumShort(data, whole, ranges[rank_], step);
    return OkStatus();
  }
  if (Reaches(/*long_sum=*/false)) {
    return Reach(data, [&] { return SumFromPeers(data, ranges[rank_], /*write_to_all=*/false); });
  }
  const Call call = Begin(data, ranges);
  RETURN_IF_ERROR(Bring(call, call.first));
  for (uint32_t step = call.first; step != call.end; ++step) {
    if (step + 1 != call.end) RETURN_IF_ERROR(Bring(call, step + 1));
    RETURN_IF_ERROR(Sum(call, step));
  }
  End(call);
  return OkStatus();
}

Status HostExchange::AllGather(float* data, std::span<const Range> ranges) {
  const Range whole = CheckedUnion(ranges, ranks_);
  if (whole.empty()) return OkStatus();
  ASSIGN_OR_RETURN(const bool shared, MeetInSharedVectors(data, whole));
  if (shared) {
    GatherShared(whole, ranges);
    return LeaveSharedVectors();
  }
  if (IsShort(whole.size())) {
    ASSIGN_OR_RETURN(const uint32_t step, ExchangeShort(data, ranges[rank_]));
    for (int from = 0; from < ranks_; ++from) {
      if (from == rank_) continue;
      std::memcpy(data + ranges[from].begin, ShortSlot(from, step),
                  ranges[from].size() * sizeof(float));
    }
    return OkStatus();
  }
  if (Reaches(/*long_sum=*/false)) {
    return Reach(data, [&] { return ReadFromOwners(data, ranges); });
  }
  const Call call = Begin(data, ranges);
  RETURN_IF_ERROR(Show(call, call.first));
  for (uint32_t step = call.first; step != call.end; ++step) {
    if (step + 1 != call.end) RETURN_IF_ERROR(Show(call, step + 1));
    RETURN_IF_ERROR(Take(call, step));
  }
  End(call);
  return OkStatus();
}

bool HostExchange::IsShort(int64_t count) const {
  const int64_t bytes = count * static_cast<int64_t>(sizeof(float));
  return bytes <= options_.short_bytes && bytes * (ranks_ - 1) <= 4 * kShortBytes;
}

// Why a half is free at step s: all ranks had brought step s-1 when this rank left it, so they had
// read step s-2.
StatusOr<uint32_t> HostExchange::ExchangeShort(const float* data, Range part) {
  const uint32_t step = short_step_++;
  std::memcpy(ShortSlot(rank_, step), data + part.begin, part.size() * sizeof(float));
  gates_[rank_].shortly.Raise(step + 1);
  RETURN_IF_ERROR(WaitForAll(&Gates::shortly, step + 1));
  return step;
}

void HostExchange::SumShort(float* data, Range whole, Range own, uint32_t step) {
  rows_.clear();
  for (int from = 0; from < ranks_; ++from) {
    rows_.push_back(from == rank_ ? data + own.begin
                                  : ShortSlot(from, step) + (own.begin - whole.begin));
  }
  SumRows(rows_.data(), ranks_, own.size(), data + own.begin, nullptr);
}

// Two ranks have nothing to share a slot with. With more, each part is copied into a slot once and
// read from the cache, where reaching asks the kernel for every pair of ranks; only an all-reduce
// that is long for all caches gains by it (docs/region-collectives.md has the figures).
bool HostExchange::Reaches(bool long_sum) const {
  return options_.peers != nullptr && (ranks_ == 2 || long_sum || options_.always_reach);
}

Status HostExchange::Reach(float* data, absl::FunctionRef<Status()> exchange) {
  Call call;
  call.first = step_;
  call.end = ++step_;
  gates_[rank_].vector.store(reinterpret_cast<uintptr_t>(data), std::memory_order_relaxed);
  gates_[rank_].brought.Raise(call.end);
  RETURN_IF_ERROR(WaitForAll(&Gates::brought, call.end));
  RETURN_IF_ERROR(exchange());
  End(call);
  return WaitForAll(&Gates::summed, call.end);
}

uint64_t HostExchange::AddressOf(int local_rank, int64_t element) const {
  return gates_[local_rank].vector.load(std::memory_order_relaxed) + element * sizeof(float);
}

Status HostExchange::ReadFromOwners(float* data, std::span<const Range> ranges) {
  for (int i = 1; i < ranks_; ++i) {
    const int owner = (rank_ + i) % ranks_;
    const Range range = ranges[owner];
    RETURN_IF_ERROR(options_.peers->Read(owner, AddressOf(owner, range.begin), data + range.begin,
                                         range.size()));
  }
  return OkStatus();
}

Status HostExchange::SumFromPeers(float* data, Range own, bool write_to_all) {
  const int64_t block = options_.block_bytes / static_cast<int64_t>(sizeof(float));
  if (blocks_ == nullptr) blocks_ = AllocatePages(ranks_ * (options_.block_bytes + kPageBytes));
  for (int64_t begin = own.begin; begin < own.end; begin += block) {
    const int64_t count = std::min(block, own.end - begin);
    rows_.assign(ranks_, data + begin);
    for (int i = 1; i < ranks_; ++i) {
      const int from = (rank_ + i) % ranks_;
      // At the same place in its page: the kernel copies page by page.
      const uint64_t address = AddressOf(from, begin);
      float* const read =
          blocks_.get() + (from * (options_.block_bytes + kPageBytes) + address % kPageBytes) / 4;
      RETURN_IF_ERROR(options_.peers->Read(from, address, read, count));
      rows_[from] = read;
    }
    SumRows(rows_.data(), ranks_, count, data + begin, nullptr);
    for (int i = 1; write_to_all && i < ranks_; ++i) {
      const int to = (rank_ + i) % ranks_;
      RETURN_IF_ERROR(options_.peers->Write(to, AddressOf(to, begin), data + begin, count));
    }
  }
  return OkStatus();
}

}  // namespace atl
