// Waiting without burning a core.
#include "collectives/backoff.h"

#include <gtest/gtest.h>

namespace atl {
namespace {

// Time passes only where somebody sleeps, or a little at each look at the clock.
class CountingClock : public FakeClock {
 public:
  double MonotonicSeconds() const override {
    looks_ += 1e-6;
    return FakeClock::MonotonicSeconds() + looks_;
  }
  void SleepFor(absl::Duration duration) override {
    ++sleeps;
    longest = std::max(longest, absl::ToDoubleSeconds(duration));
    FakeClock::SleepFor(duration);
  }
  int sleeps = 0;
  double longest = 0;

 private:
  mutable double looks_ = 0;
};

TEST(Backoff, DoesNotSleepDuringTheFirstMoments) {
  CountingClock clock;
  Backoff backoff(&clock);
  for (int i = 0; i < 90; ++i) backoff.Pause();
  EXPECT_EQ(clock.sleeps, 0);
}

TEST(Backoff, SleepsLongerTheLongerItWaitsUpToAMillisecond) {
  CountingClock clock;
  Backoff backoff(&clock);
  const double start = clock.MonotonicSeconds();
  while (clock.MonotonicSeconds() - start < 1e-3) backoff.Pause();
  EXPECT_GT(clock.sleeps, 5);
  EXPECT_LT(clock.longest, 1e-3 / 10);
  while (clock.MonotonicSeconds() - start < 10) backoff.Pause();
  EXPECT_NEAR(clock.longest, Backoff::kLongestSleepSeconds, 1e-9);
  // A wait of ten seconds: about a poll a millisecond.
  EXPECT_LT(clock.sleeps, 11000);
}

}  // namespace
}  // namespace atl
