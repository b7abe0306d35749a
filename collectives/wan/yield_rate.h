// What may be sent of what is served to one member, beside traffic that its engine does not see:
// queues stay so short that whoever else uses the line hardly notices (the idea of LEDBAT, RFC
// 6817). Pure.
//
// 1. kSpare: the rate grows while round trips are less than kTargetSeconds above their least, by a
//    sixteenth a round trip at most, and falls above, by as much as a quarter. What they have
//    become longer within the last round trip counts three times, because what is heard is a
//    round trip old. It grows only if it was used.
// 2. From nothing, and up to three quarters of the rate that held before, it doubles each round
//    trip; up to half of that each tick. From there to the first queue it grows by a quarter.
// 3. kHold: others need the line now. The rate is a thirty-second of what it was at once;
//    afterwards it begins anew at a twentieth. For kBlindTrips round trips it then doubles whatever
//    they say: what is sent so rarely is acknowledged late, which looks like a queue.
// 4. Bytes are allowed at that rate, of which at most two ticks' worth may be saved up. What has
//    been allowed is paced by the kernel at little more than the rate, so that it does not wait in
//    queues.
// Thread rule: one thread.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "collectives/wan/transfer.h"

namespace atl::wan {

class YieldRate {
 public:
  // Before anything is sent. True: another rate holds from now on.
  bool Begin(double now, Yield yield) {
    if (yield == yield_) return false;
    if (yield_ == Yield::kSpare) known_ = std::max(rate_, known_);
    yield_ = yield;
    Restart(now);
    return true;
  }
  bool limited() const { return yield_ != Yield::kNothing; }

  // Several times a second. `queue_seconds`: how much longer than the shortest a round trip takes.
  void Tick(double now, double queue_seconds, double rtt_seconds) {
    const double elapsed = std::max(0.0, now - at_);
    if (elapsed > kPauseSeconds) return Restart(now);
    at_ = now;
    if (yield_ == Yield::kSpare) Adapt(now, elapsed, queue_seconds, rtt_seconds);
    pressed_ = false;
    allowance_ = std::min(allowance_ + rate_ * elapsed, kSavedSeconds * rate_);
  }
  // `waits`: there is something to send.
  bool Allows(bool waits) {
    if (!limited() || allowance_ > 0) return true;
    pressed_ = pressed_ || waits;
    return false;
  }
  void Spend(int64_t bytes) {
    if (limited()) allowance_ -= static_cast<double>(bytes);
  }

  double rate() const { return rate_; }    // bytes/s
  double known() const { return known_; }  // that held before; 0: nothing is known
  double pace() const { return kPaceGain * rate_; }

 private:
  void Restart(double now) {
    began_ = at_ = now;
    allowance_ = 0;
    pressed_ = false;
    queue_seen_ = false;
    queue_before_ = 0;
    const double share = yield_ == Yield::kHold ? kHoldShare : kFirstShare;
    rate_ = std::max(yield_ == Yield::kHold ? kLeastRate : kFirstRate, share * known_);
  }
  void Adapt(double now, double elapsed, double queue_seconds, double rtt_seconds) {
    const double trips = std::min(1.0, elapsed / std::max(kTickSeconds, rtt_seconds));
    if (now - began_ < kBlindTrips * rtt_seconds) {
      queue_before_ = queue_seconds;
      if (pressed_ && (known_ == 0 || rate_ < kSafely * known_)) rate_ *= std::exp2(trips);
      return;
    }
    queue_before_ += trips * (queue_seconds - queue_before_);
    const double expected = queue_seconds + kAhead * (queue_seconds - queue_before_);
    const double room = std::clamp(1 - expected / kTargetSeconds, -2.0, 1.0);
    if (room < 0) {
      rate_ *= 1 + kFall * room * trips;
      known_ = std::max(rate_, known_ * (1 - kForgets * trips));
      queue_seen_ = true;
    } else if (pressed_) {
      if (rate_ < kSafely * known_) {
        rate_ *= std::exp2(std::min(1.0, elapsed / kTickSeconds));
      } else if (known_ == 0 || rate_ < kSurely * known_) {
        rate_ *= std::exp2(trips);
      } else {
        rate_ *= 1 + (queue_seen_ ? kGrowth : kFirstGrowth) * room * trips;
      }
    }
    rate_ = std::clamp(rate_, kLeastRate, kMostRate);
  }

  static constexpr double kTargetSeconds = 0.01;
  static constexpr double kAhead = 2;
  static constexpr double kBlindTrips = 2;
  static constexpr double kGrowth = 1.0 / 16;
  static constexpr double kFirstGrowth = 0.25;
  static constexpr double kFall = 0.125;
  static constexpr double kSafely = 0.5;
  static constexpr double kSurely = 0.75;
  static constexpr double kForgets = 1.0 / 16;
  static constexpr double kHoldShare = 1.0 / 32;
  static constexpr double kFirstShare = 0.05;
  static constexpr double kFirstRate = 256e3;
  static constexpr double kLeastRate = 32e3;  // so that nobody takes us for dead
  static constexpr double kMostRate = 1e10;
  static constexpr double kTickSeconds = 0.02;
  static constexpr double kPauseSeconds = 1;
  static constexpr double kSavedSeconds = 0.04;
  static constexpr double kPaceGain = 1.1;

  Yield yield_ = Yield::kNothing;
  double rate_ = 0;
  double known_ = 0;
  double allowance_ = 0;
  double at_ = 0;
  double began_ = 0;  // with this mode, or after a pause
  bool queue_seen_ = false;
  double queue_before_ = 0;  // seconds, about a round trip ago
  bool pressed_ = false;     // something waited for the rate since the last tick
};

}  // namespace atl::wan
