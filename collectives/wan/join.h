// What the thread in Engine::Join and the I/O thread tell each other. The I/O thread says which
// connections are wanted; the joining thread makes them, because resolving a name may block.
// Thread rule: any thread.
#pragma once

#include <condition_variable>
#include <mutex>
#include <optional>
#include <vector>

#include "base/status.h"

namespace atl::wan {

class JoinProgress {
 public:
  struct Dial {
    int member = 0;
    int stream = 0;
    double not_before = 0;  // monotonic seconds
  };

  void WantDial(const Dial& dial);
  // The group stands, or cannot. Only the first call counts.
  void Finish(const Status& status);

  // Waits until a dial is due, the group is decided, or `deadline`; takes the dials that are due.
  std::vector<Dial> AwaitDials(double deadline);
  std::optional<Status> decided() const;

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Dial> dials_;        // guarded by mutex_
  std::optional<Status> decided_;  // guarded by mutex_
};

}  // namespace atl::wan
