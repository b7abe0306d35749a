// Saves behind training: the caller copies a rank's slices into one of two staging arenas, a thread
// writes them.
//
//   1. Take: an arena, if one is free. With both still being written the save is not made: a third
//      would only wait in memory, and the disk is the bottleneck already.
//   2. The caller copies its slices into it (training stands still for that alone) and Begin()s.
//   3. The thread calls Save() on each, in the order of Begin(), then says how it ended.
//
// All ranks of a region take and begin alike: they agree, through a communicator of theirs, on
// whether all got an arena. The thread has a communicator of its own, which nobody else uses: the
// ranks' agreements inside Save() come at any time, in the middle of training's collectives too.
//
// Memory: at most kArenas times what a save holds. The first arena stays for the next save, the
// second is given back once it is written.
// Thread rule: one thread calls the methods; `ended` is called from the saver's thread.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <thread>

#include "base/mutex.h"
#include "checkpoint/arena.h"
#include "checkpoint/checkpoint.h"

namespace atl::checkpoint {

class BackgroundSaver {
 public:
  static constexpr int kArenas = 2;
  using Ended = std::function<void(const StatusOr<SaveResult>& saved, double seconds)>;

  // `region` outlives it.
  explicit BackgroundSaver(Communicator* region);
  // Waits for the saves under way.
  ~BackgroundSaver();

  // Has the thread make the first arena ready for saves of `elements` floats: the first copy is
  // then as quick as the others. Before the first Take().
  void Prepare(int64_t elements);

  // Memory for `elements` floats, which the next Begin() or GiveBack() takes; null if both arenas
  // are being written. kResourceExhausted: the system has no such memory.
  StatusOr<float*> Take(int64_t elements);
  void GiveBack();

  // Begins a save whose slices lie in the arena that was taken, or, if none was, in memory that
  // stays as it is until the save has ended. Collective, like Save().
  void Begin(SaveOptions options, Ended ended);

  // Until every save that was begun has ended, and was told.
  void Wait();

 private:
  struct Job {
    SaveOptions options;
    Ended ended;
    int arena;  // -1: none
  };

  void Run();

  Communicator* const region_;
  Arena arenas_[kArenas];
  int taken_ = -1;

  Mutex mutex_;
  CondVar changed_;
  std::deque<Job> jobs_ ABSL_GUARDED_BY(mutex_);  // the first one is under way
  int64_t preparing_ ABSL_GUARDED_BY(mutex_) =
      0;  // elements; not 0: the thread has the first arena
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace atl::checkpoint
