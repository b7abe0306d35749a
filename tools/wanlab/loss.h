// Random loss, each segment on its own: which of a direction's segments are lost is a pure function
// of the seed and of their number, however they are grouped into super-packets. Drawn as the gaps
// between losses, so that a packet without loss costs one subtraction.
#pragma once

#include <cstdint>
#include <vector>

#include "base/random.h"

namespace atl {

class LossProcess {
 public:
  explicit LossProcess(uint64_t seed) : random_(seed) {}
  // In [0, 1). The process forgets nothing but the gap it was in.
  void Set(double loss);
  // Which of the next `count` segments are lost: positions in [0, count), ascending. The vector is
  // valid until the next call.
  const std::vector<uint32_t>& Next(uint32_t count);

 private:
  uint64_t Gap();

  CounterRandom random_;
  uint64_t drawn_ = 0;
  double loss_ = 0;
  uint64_t kept_ahead_ = 0;  // segments that pass before the next one is lost
  std::vector<uint32_t> lost_;
};

}  // namespace atl
