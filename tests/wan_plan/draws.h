// One random number after the other, for the random cases of these tests.
#pragma once

#include <cmath>
#include <cstdint>

#include "base/random.h"

namespace atl::wan {

class Draws {
 public:
  explicit Draws(uint64_t seed) : random_(seed) {}

  double Uniform(double from, double to) { return from + (to - from) * random_.Uniform(at_++); }
  // Evenly over the orders of magnitude.
  double LogUniform(double from, double to) {
    return std::exp(Uniform(std::log(from), std::log(to)));
  }
  // In [0, below).
  int Below(int below) { return static_cast<int>(random_.Bits(at_++) % below); }
  bool Chance(double probability) { return Uniform(0, 1) < probability; }
  double Normal() { return random_.Normal(at_++); }

 private:
  CounterRandom random_;
  uint64_t at_ = 0;
};

}  // namespace atl::wan
