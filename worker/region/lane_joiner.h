// Connects this worker's lanes to the other regions of a view, in the background.
//
//   1. Threads join the lanes' groups, up to kMostThreads lanes at once, lowest first: dialling,
//      probing and planning of one lane do not wait for another's. An attempt that somebody has
//      missed is made anew: a peer may take much longer, loading a large checkpoint.
//   2. All stand: done. One cannot: failed. Given up: the view is left at once, which ends the
//      attempts under way.
// A dead peer is the orchestrator's to notice, which then makes another view.
// Thread rule: one thread, which may be another one than that of the engine's other users.
#pragma once

#include <cstdint>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "collectives/wan/engine.h"

namespace atl {

class LaneJoiner {
 public:
  // `groups`: of the own lanes, all of one view. `engine` outlives it.
  LaneJoiner(wan::Engine* engine, ViewId view, std::vector<wan::Group> groups);
  // Gives the view up unless it was kept.
  ~LaneJoiner();

  ViewId view() const { return view_; }
  bool joined() const;
  // Not OK: a lane cannot be joined.
  Status failure() const;
  // Until it has joined or failed, `seconds` at most.
  void WaitFor(double seconds);
  // Joined: the view's connections are the caller's now, who leaves them.
  void Keep();

  static constexpr int64_t kMostThreads = 64;

 private:
  void JoinInTurn();
  void GiveUp();

  wan::Engine* const engine_;
  const ViewId view_;
  const std::vector<wan::Group> groups_;
  mutable Mutex mutex_;
  CondVar changed_;
  size_t next_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t running_ ABSL_GUARDED_BY(mutex_) = 0;  // threads
  Status failure_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  bool kept_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace atl
