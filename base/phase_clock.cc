#include "base/phase_clock.h"

namespace atl {

std::string PhaseName(Phase phase) {
  static constexpr const char* kNames[kPhaseCount] = {"idle", "compute",    "encode", "wan",
                                                      "wait", "checkpoint", "restart"};
  return kNames[static_cast<int>(phase)];
}

Phase PhaseClock::Switch(Phase phase) {
  MutexLock lock(&mutex_);
  const double now = clock_->MonotonicSeconds();
  seconds_[static_cast<int>(phase_)] += now - since_;
  since_ = now;
  const Phase before = phase_;
  phase_ = phase;
  return before;
}

Phase PhaseClock::present() const {
  MutexLock lock(&mutex_);
  return phase_;
}

std::array<double, kPhaseCount> PhaseClock::Seconds() const {
  MutexLock lock(&mutex_);
  auto seconds = seconds_;
  seconds[static_cast<int>(phase_)] += clock_->MonotonicSeconds() - since_;
  return seconds;
}

}  // namespace atl
