// When a process that ended is started again: after 1 s, then twice as long each time, up to 30 s;
// at most so many times in a row. What has run for kSteadySeconds has shown that it can: it counts
// anew. Pure; one thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

namespace atl {

class Restarts {
 public:
  static constexpr double kFirstSeconds = 1;
  static constexpr double kLongestSeconds = 30;
  static constexpr double kSteadySeconds = 600;

  explicit Restarts(int64_t most) : most_(most) {}

  void Started(double now) { started_at_ = now; }
  // It ended at `now`: how long to wait before it is started again; nothing: never.
  std::optional<double> Ended(double now) {
    if (now - started_at_ >= kSteadySeconds) in_a_row_ = 0;
    if (in_a_row_ >= most_) return std::nullopt;
    const double seconds =
        kFirstSeconds * static_cast<double>(int64_t{1} << std::min<int64_t>(in_a_row_, 10));
    ++in_a_row_;
    return std::min(seconds, kLongestSeconds);
  }
  int64_t in_a_row() const { return in_a_row_; }
  int64_t most() const { return most_; }

 private:
  int64_t most_;
  int64_t in_a_row_ = 0;
  double started_at_ = 0;
};

}  // namespace atl
