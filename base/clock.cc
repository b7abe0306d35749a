#include "base/clock.h"

#include <time.h>

#include "absl/time/clock.h"

namespace atl {
namespace {

class RealClock : public Clock {
 public:
  double MonotonicSeconds() const override {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
  }
  absl::Time WallTime() const override { return absl::Now(); }
  void SleepFor(absl::Duration duration) override { absl::SleepFor(duration); }
};

}  // namespace

Clock* Clock::Real() {
  static Clock* const clock = new RealClock;
  return clock;
}

}  // namespace atl
