#include "tools/wanlab/loss.h"

#include <cmath>

#include "base/log.h"

namespace atl {

void LossProcess::Set(double loss) {
  CHECK(loss >= 0 && loss < 1);
  if (loss == loss_) return;
  loss_ = loss;
  if (loss_ > 0) kept_ahead_ = Gap();
}

// Geometric: the number of segments kept before one is lost.
uint64_t LossProcess::Gap() {
  const double u = 1.0 - random_.Uniform(drawn_++);  // (0, 1]
  const double gap = std::floor(std::log(u) / std::log1p(-loss_));
  return gap < 1e18 ? static_cast<uint64_t>(gap) : uint64_t{1} << 60;
}

const std::vector<uint32_t>& LossProcess::Next(uint32_t count) {
  lost_.clear();
  if (loss_ <= 0) return lost_;
  uint64_t at = kept_ahead_;
  while (at < count) {
    lost_.push_back(static_cast<uint32_t>(at));
    at += 1 + Gap();
  }
  kept_ahead_ = at - count;
  return lost_;
}

}  // namespace atl
