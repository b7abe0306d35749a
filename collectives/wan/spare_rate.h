// What a transfer may send to one member while an all-reduce runs: what the links have to spare,
// as their queues tell (the idea of LEDBAT, RFC 6817). Pure.
//
// 1. While bytes stand in no queue, the rate grows by an eighth a round trip; when they do, it
//    falls by a quarter a round trip, down to a hundredth of what the links are known to carry.
// 2. Bytes are allowed at that rate, of which at most two ticks' worth may be saved up.
// Thread rule: one thread.
#pragma once

#include <algorithm>
#include <cstdint>

namespace atl::wan {

class SpareRate {
 public:
  // No all-reduce runs: all is spare.
  void Open() { limited_ = false; }
  // `line`: what the links are known to carry, bytes/s; 0: not known.
  void Limit(double now, double queue_seconds, double rtt_seconds, double line) {
    const double least = std::max(kLeastRate, kLeastShare * line);
    if (!limited_) {
      limited_ = true;
      rate_ = std::max(least, kFirstShare * line);
      allowance_ = 0;
      at_ = now;
      return;
    }
    const double elapsed = std::max(0.0, now - at_);
    at_ = now;
    const double trips = std::min(1.0, elapsed / std::max(kLeastTrip, rtt_seconds));
    const bool queue = queue_seconds > std::max(kQueueSeconds, kQueueRoundTrips * rtt_seconds);
    rate_ *= 1 + trips * (queue ? -0.25 : 0.125);
    rate_ = std::clamp(rate_, least, std::max(least, line > 0 ? line : kMostRate));
    allowance_ = std::min(allowance_ + rate_ * elapsed, kSavedSeconds * rate_);
  }
  bool Allows() const { return !limited_ || allowance_ > 0; }
  void Spend(int64_t bytes) {
    if (limited_) allowance_ -= static_cast<double>(bytes);
  }

 private:
  static constexpr double kLeastRate = 32e3;  // so that nobody takes us for dead
  static constexpr double kLeastShare = 0.01;
  static constexpr double kFirstShare = 0.05;
  static constexpr double kMostRate = 1e10;
  static constexpr double kLeastTrip = 0.02;
  static constexpr double kQueueSeconds = 4e-3;
  static constexpr double kQueueRoundTrips = 0.05;
  static constexpr double kSavedSeconds = 0.04;

  bool limited_ = false;
  double rate_ = 0;
  double allowance_ = 0;
  double at_ = 0;
};

}  // namespace atl::wan
