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
#include <limits>
#include <map>

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

// What everybody together may send, at a rate that may change at any time. Pure.
//
// 1. Bytes are allowed at that rate, of which at most two ticks' worth may be saved up; a frame may
//    overdraw it.
// 2. Nobody gets ahead, by more than a turn's worth, of another one who has asked lately.
// Thread rule: one thread.
class RateCap {
 public:
  // Bytes a second; 0: no bound.
  void Set(double rate) {
    rate_ = rate;
    allowance_ = std::min(0.0, allowance_);
  }
  // `who`: any number that tells those apart who share it.
  bool Allows(double now, uintptr_t who) {
    if (rate_ <= 0) return true;
    allowance_ = std::min(allowance_ + rate_ * std::max(0.0, now - at_), kSavedSeconds * rate_);
    at_ = now;
    std::erase_if(those_, [now](const auto& one) { return now - one.second.asked > kLately; });
    double least = std::numeric_limits<double>::infinity();
    for (const auto& [other, one] : those_) least = std::min(least, one.sent);
    const auto [at, fresh] = those_.try_emplace(who);
    if (fresh) at->second.sent = those_.size() > 1 ? least : 0;
    at->second.asked = now;
    least = std::min(least, at->second.sent);
    return allowance_ > 0 && at->second.sent <= least + kTurnSeconds * rate_;
  }
  void Spend(int64_t bytes, uintptr_t who) {
    if (rate_ <= 0) return;
    allowance_ -= static_cast<double>(bytes);
    those_[who].sent += static_cast<double>(bytes);
  }

 private:
  struct One {
    double asked = 0;  // when, the last time
    double sent = 0;   // bytes, beside the others
  };
  static constexpr double kSavedSeconds = 0.04;
  static constexpr double kTurnSeconds = 0.01;
  static constexpr double kLately = 0.06;  // seconds

  double rate_ = 0;
  double allowance_ = 0;
  double at_ = 0;
  std::map<uintptr_t, One> those_;  // who asked lately
};

}  // namespace atl::wan
