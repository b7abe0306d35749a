// Waiting for something that can only be polled: prompt for short waits, cheap for long ones.
//
// 1. For the first kSpin the caller polls and gives up its time slice between polls.
// 2. After that it sleeps a twelfth of the time waited so far, from 20 us to kLongestSleep: what it
//    waits for is seen at most 8% (or a millisecond) late, and a wait of seconds costs next to no
//    CPU. Matters where ranks outnumber cores: a waiting rank would take the core that the others
//    need to finish.
#pragma once

#include <algorithm>
#include <thread>

#include "base/clock.h"

namespace atl {

class Backoff {
 public:
  static constexpr double kSpinSeconds = 100e-6;
  static constexpr double kShortestSleepSeconds = 20e-6;
  static constexpr double kLongestSleepSeconds = 1e-3;

  explicit Backoff(Clock* clock) : clock_(clock), start_(clock->MonotonicSeconds()) {}

  // Call between two polls.
  void Pause() {
    const double waited = clock_->MonotonicSeconds() - start_;
    if (waited < kSpinSeconds) {
      std::this_thread::yield();
    } else {
      clock_->SleepFor(
          absl::Seconds(std::clamp(waited / 12, kShortestSleepSeconds, kLongestSleepSeconds)));
    }
  }

 private:
  Clock* const clock_;
  const double start_;
};

}  // namespace atl
