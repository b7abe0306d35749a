// Time ledger of one process: every second from Start() belongs to exactly one phase, so that the
// phases sum to wall time. One thread switches phases; any thread may read.
#pragma once

#include <array>
#include <string>

#include "base/clock.h"
#include "base/mutex.h"

namespace atl {

enum class Phase : int { kIdle = 0, kCompute, kEncode, kWan, kWait, kCheckpoint, kRestart };
inline constexpr int kPhaseCount = 7;
std::string PhaseName(Phase phase);

class PhaseClock {
 public:
  explicit PhaseClock(Clock* clock) : clock_(clock), since_(clock->MonotonicSeconds()) {}

  // Ends the present phase now and begins `phase`; returns the phase that was.
  Phase Switch(Phase phase);
  Phase present() const;
  // Seconds per phase so far, the present one counted up to now.
  std::array<double, kPhaseCount> Seconds() const;

 private:
  Clock* const clock_;
  mutable Mutex mutex_;
  Phase phase_ ABSL_GUARDED_BY(mutex_) = Phase::kIdle;
  double since_ ABSL_GUARDED_BY(mutex_);
  std::array<double, kPhaseCount> seconds_ ABSL_GUARDED_BY(mutex_) = {};
};

// Switches to `phase` for the life of the object, then back.
class ScopedPhase {
 public:
  ScopedPhase(PhaseClock* clock, Phase phase) : clock_(clock), before_(clock->Switch(phase)) {}
  ~ScopedPhase() { clock_->Switch(before_); }
  ScopedPhase(const ScopedPhase&) = delete;
  ScopedPhase& operator=(const ScopedPhase&) = delete;

 private:
  PhaseClock* const clock_;
  const Phase before_;
};

}  // namespace atl
