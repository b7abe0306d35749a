// Runs collectives one after another on a thread of its own, so that they happen behind the
// computation that feeds them. All ranks submit the same operations in the same order. After a
// failure the rest are refused with the same error, until Drain has told it. Thread rule: any
// thread may submit; operations run on the queue's own thread.
#pragma once

#include <deque>
#include <functional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "base/mutex.h"
#include "base/status.h"

namespace atl {

class CollectiveQueue {
 public:
  CollectiveQueue();
  // Waits for the operation that is under way; those behind it are dropped: whoever wants their
  // results has drained.
  ~CollectiveQueue();
  CollectiveQueue(const CollectiveQueue&) = delete;
  CollectiveQueue& operator=(const CollectiveQueue&) = delete;

  void Submit(std::function<Status()> operation);
  // Waits until all that was submitted is done; the first error since the last Drain.
  Status Drain();

 private:
  void Run();

  Mutex mutex_;
  CondVar changed_;
  std::deque<std::function<Status()>> operations_ ABSL_GUARDED_BY(mutex_);
  Status status_ ABSL_GUARDED_BY(mutex_);
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace atl
