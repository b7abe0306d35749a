// Time as an interface: the pure cores get a time passed in, drivers ask a Clock, tests move a
// FakeClock.
#pragma once

#include "absl/time/time.h"

namespace atl {

class Clock {
 public:
  virtual ~Clock() = default;
  // Never goes back; its origin means nothing. For deadlines and durations.
  virtual double MonotonicSeconds() const = 0;
  // Calendar time, for what users read. May jump.
  virtual absl::Time WallTime() const = 0;
  virtual void SleepFor(absl::Duration duration) = 0;

  // The machine's clock; lives for ever, any thread.
  static Clock* Real();
};

class FakeClock : public Clock {
 public:
  double MonotonicSeconds() const override { return seconds_; }
  absl::Time WallTime() const override { return absl::UnixEpoch() + absl::Seconds(seconds_); }
  void SleepFor(absl::Duration duration) override { Advance(absl::ToDoubleSeconds(duration)); }
  void Advance(double seconds) { seconds_ += seconds; }

 private:
  double seconds_ = 1000;
};

}  // namespace atl
