// What a worker is doing, as status and log show it: an activity, and whom it waits for.
//
//   all-reduce of round 5; waiting for oslo, silent for 4.1 s (since 12:03:11 UTC); lost if still
//   silent at 12:03:41 UTC
//
// Waits are of two kinds: one that the activity itself tells (WaitFor: whom, what happens then),
// and members that the WAN engine calls silent (OnSilence). A silent member is named before
// anything else, until it is heard again or the activity ends.
// Thread rule: any thread; nothing here blocks, so that the engine's I/O thread may call.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/mutex.h"
#include "collectives/wan/engine.h"

namespace atl {

class Activity {
 public:
  // A member that stays silent for `patience_seconds` is lost. `clock` outlives this.
  Activity(const Clock* clock, double patience_seconds)
      : clock_(clock), patience_seconds_(patience_seconds) {}

  // Something else begins: former waits are over.
  void Begin(const std::string& what);
  // Within the activity: it waits for `whom`, and `then` says what ends that. Told again, for
  // others perhaps, the wait goes on since the first time.
  void WaitFor(const std::string& whom, const std::string& then);
  void OnSilence(const wan::Silence& silence);

  // Members that are called silent, and since how many seconds.
  std::map<std::string, double> silent() const;
  std::string what() const;  // without waits
  std::string Text() const;

 private:
  struct Silent {
    std::string name;
    double since = 0;  // monotonic
  };

  std::string TimeOf(double monotonic_seconds) const;

  const Clock* const clock_;
  const double patience_seconds_;
  mutable Mutex mutex_;
  std::string what_ ABSL_GUARDED_BY(mutex_) = "starting";
  std::string whom_ ABSL_GUARDED_BY(mutex_);
  std::string then_ ABSL_GUARDED_BY(mutex_);
  double since_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::pair<int64_t, int>, Silent> silent_ ABSL_GUARDED_BY(mutex_);  // by lane, member
};

// "a", "a and b", "a, b and 7 others".
std::string SomeNames(const std::vector<std::string>& names);

}  // namespace atl
