// Phases of a process sum to its wall time.
#include "base/clock.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>
#include <string>

#include "base/phase_clock.h"

namespace atl {
namespace {

double Sum(const std::array<double, kPhaseCount>& seconds) {
  return std::accumulate(seconds.begin(), seconds.end(), 0.0);
}
double Of(const PhaseClock& clock, Phase phase) { return clock.Seconds()[static_cast<int>(phase)]; }

TEST(FakeClock, MovesOnlyWhenTold) {
  FakeClock clock;
  const double start = clock.MonotonicSeconds();
  EXPECT_EQ(clock.MonotonicSeconds(), start);
  clock.Advance(2.5);
  clock.SleepFor(absl::Milliseconds(500));
  EXPECT_DOUBLE_EQ(clock.MonotonicSeconds() - start, 3.0);
  EXPECT_EQ(clock.WallTime(), absl::UnixEpoch() + absl::Seconds(start + 3.0));
}

TEST(RealClock, NeverGoesBack) {
  Clock* clock = Clock::Real();
  double last = clock->MonotonicSeconds();
  for (int i = 0; i < 10000; ++i) {
    const double now = clock->MonotonicSeconds();
    ASSERT_GE(now, last);
    last = now;
  }
}

TEST(PhaseClock, GivesEverySecondToExactlyOnePhase) {
  FakeClock time;
  PhaseClock phases(&time);
  time.Advance(1);  // idle until told otherwise
  EXPECT_EQ(phases.Switch(Phase::kCompute), Phase::kIdle);
  time.Advance(10);
  EXPECT_EQ(phases.Switch(Phase::kWan), Phase::kCompute);
  time.Advance(3);
  phases.Switch(Phase::kCompute);
  time.Advance(5);
  EXPECT_DOUBLE_EQ(Of(phases, Phase::kIdle), 1);
  EXPECT_DOUBLE_EQ(Of(phases, Phase::kCompute), 15);  // the present phase counts up to now
  EXPECT_DOUBLE_EQ(Of(phases, Phase::kWan), 3);
  EXPECT_DOUBLE_EQ(Of(phases, Phase::kCheckpoint), 0);
}

TEST(PhaseClock, SumsToWallTimeAfterAnySequence) {
  FakeClock time;
  PhaseClock phases(&time);
  const double start = time.MonotonicSeconds();
  for (int i = 0; i < 5000; ++i) {
    phases.Switch(static_cast<Phase>(i * 31 % kPhaseCount));
    time.Advance(0.001 * (i % 17));
    ASSERT_NEAR(Sum(phases.Seconds()), time.MonotonicSeconds() - start, 1e-9);
  }
}

TEST(PhaseClock, GoesBackToThePhaseBeforeWhenAScopeEnds) {
  FakeClock time;
  PhaseClock phases(&time);
  phases.Switch(Phase::kCompute);
  {
    const ScopedPhase wan(&phases, Phase::kWan);
    time.Advance(2);
    {
      const ScopedPhase encode(&phases, Phase::kEncode);
      time.Advance(1);
    }
    time.Advance(2);
  }
  time.Advance(7);
  EXPECT_DOUBLE_EQ(Of(phases, Phase::kWan), 4);
  EXPECT_DOUBLE_EQ(Of(phases, Phase::kEncode), 1);
  EXPECT_DOUBLE_EQ(Of(phases, Phase::kCompute), 7);
}

TEST(PhaseClock, NamesEveryPhaseDifferently) {
  std::set<std::string> names;
  for (int phase = 0; phase < kPhaseCount; ++phase) {
    names.insert(PhaseName(static_cast<Phase>(phase)));
  }
  EXPECT_EQ(names.size(), static_cast<size_t>(kPhaseCount));
  EXPECT_TRUE(names.count("wan") && names.count("idle") && names.count("checkpoint"));
}

}  // namespace
}  // namespace atl
