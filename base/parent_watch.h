// Ends this process when its parent is gone: a worker must not outlive the mpirun that started it,
// however that ended.
#pragma once

#include <thread>

#include "base/mutex.h"

namespace atl {

class ParentWatch {
 public:
  // Looks twice a second. When the parent has changed, logs it and ends the process at once with
  // SIGKILL's exit code, without unwinding: other threads may be stuck in a collective.
  ParentWatch();
  ~ParentWatch();

 private:
  void Run();

  const int parent_;
  Mutex mutex_;
  CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace atl
