#include "tools/wanlab/pipe.h"

#include <algorithm>

namespace atl {
namespace {
constexpr int64_t kNanosPerSecond = 1'000'000'000;
}  // namespace

void Pipe::Set(int64_t bits_per_second, Nanos queue) {
  bits_per_second_ = bits_per_second;
  queue_ = queue;
  remainder_ = 0;
}

Nanos Pipe::TimeOf(int64_t bytes) const {
  // At most 2^31 bits x 1e9, which fits.
  return capped() ? bytes * 8 * kNanosPerSecond / bits_per_second_ : 0;
}

uint32_t Pipe::Room(Nanos now, uint32_t count, int64_t segment_bytes) const {
  const Nanos backlog = Backlog(now);
  if (!capped() || backlog == 0) return count;
  const Nanos room = queue_ - backlog;
  if (room < 0) return 0;
  const Nanos each = TimeOf(segment_bytes);
  if (each == 0) return count;
  // The k-th segment begins after the backlog and k - 1 others.
  return static_cast<uint32_t>(std::min<int64_t>(count, room / each + 1));
}

Nanos Pipe::Send(Nanos now, int64_t bytes) {
  if (!capped()) return std::max(now, free_at_);  // behind what waits since there was a cap
  if (free_at_ <= now) {
    free_at_ = now;
    remainder_ = 0;
  }
  const int64_t work = bytes * 8 * kNanosPerSecond + remainder_;
  free_at_ += work / bits_per_second_;
  remainder_ = work % bits_per_second_;
  return free_at_;
}

uint32_t Pipe::InQuantum(int64_t segment_bytes) const {
  const Nanos each = TimeOf(segment_bytes);
  if (each == 0) return UINT32_MAX;
  return static_cast<uint32_t>(std::max<int64_t>(1, kQuantum / each));
}

}  // namespace atl
