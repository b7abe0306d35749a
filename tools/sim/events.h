// Made-up time: what happens, in the order of when. Equal times go in the order in which they were
// asked for, so a run repeats exactly. One thread.
#pragma once

#include <cstdint>
#include <functional>
#include <queue>
#include <vector>

#include "base/random.h"

namespace atl::sim {

class EventQueue {
 public:
  double now() const { return now_; }
  int64_t count() const { return count_; }
  void In(double seconds, std::function<void()> what) {
    queue_.push({now_ + (seconds > 0 ? seconds : 0), next_++, std::move(what)});
  }
  // False: nothing is left.
  bool RunOne() {
    if (queue_.empty()) return false;
    // The queue's own element is not used again.
    Event event = std::move(const_cast<Event&>(queue_.top()));
    queue_.pop();
    now_ = event.time;
    ++count_;
    event.what();
    return true;
  }

 private:
  struct Event {
    double time;
    uint64_t number;
    std::function<void()> what;
    bool operator<(const Event& other) const {
      return time != other.time ? time > other.time : number > other.number;
    }
  };
  std::priority_queue<Event> queue_;
  double now_ = 1000;
  uint64_t next_ = 0;
  int64_t count_ = 0;
};

class Dice {
 public:
  explicit Dice(uint64_t seed) : random_(seed) {}
  double Uniform(double low, double high) { return low + (high - low) * random_.Uniform(at_++); }
  bool Chance(double probability) { return random_.Uniform(at_++) < probability; }
  int64_t Below(int64_t limit) {
    return static_cast<int64_t>(random_.Bits(at_++) % static_cast<uint64_t>(limit));
  }
  int64_t Between(int64_t low, int64_t high) { return low + Below(high - low + 1); }

 private:
  CounterRandom random_;
  uint64_t at_ = 0;
};

}  // namespace atl::sim
