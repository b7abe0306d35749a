// What the thread in Engine::Join waits for: the I/O thread's word that the group stands, or why
// not.
// Thread rule: any thread.
#pragma once

#include <condition_variable>
#include <mutex>
#include <optional>

#include "base/status.h"

namespace atl::wan {

class JoinProgress {
 public:
  // Only the first call counts.
  void Finish(const Status& status);
  // Nothing if nobody has said a word by `deadline` (monotonic seconds).
  std::optional<Status> Await(double deadline);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<Status> decided_;  // guarded by mutex_
};

}  // namespace atl::wan
