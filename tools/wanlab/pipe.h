// A line of a fixed rate with a drop-tail queue before it: the time at which the last bit of each
// packet has left. Pure: times are passed in.
#pragma once

#include <cstdint>

#include "tools/wanlab/packet.h"

namespace atl {

class Pipe {
 public:
  // Rate 0: no cap, everything leaves at once. What is queued keeps the times that it has.
  void Set(int64_t bits_per_second, Nanos queue);
  bool capped() const { return bits_per_second_ > 0; }

  // How many of `count` segments of `segment_bytes` may enter at `now`: the first of them that
  // would wait longer than the queue is long, and all behind it, are dropped. An idle line takes
  // everything.
  uint32_t Room(Nanos now, uint32_t count, int64_t segment_bytes) const;
  // Puts `bytes` on the line; the time at which the last of them has left.
  Nanos Send(Nanos now, int64_t bytes);
  // Segments of that size in one quantum of line time, at least 1: what may travel as one.
  uint32_t InQuantum(int64_t segment_bytes) const;
  Nanos TimeOf(int64_t bytes) const;
  // What waits or is being sent, as time of the line.
  Nanos Backlog(Nanos now) const { return free_at_ > now ? free_at_ - now : 0; }

  static constexpr Nanos kQuantum = 1'000'000;

 private:
  int64_t bits_per_second_ = 0;
  Nanos queue_ = 0;
  Nanos free_at_ = 0;
  int64_t remainder_ = 0;  // bits x 1e9 not yet counted: rates hold exactly over many packets
};

}  // namespace atl
