// Gives a region's checkpoints to those who pull them while the job runs
// (checkpoint/transfer/server.h), beside training, which goes first:
//
// 1. It has an engine of its own, with a port and a key of its own: who pulls never touches the
//    links between the regions.
// 2. Its threads have the lowest priority, of the processor and of the disk.
// 3. It sends only what the lines have to spare, and next to nothing while the region is in an
//    all-reduce (`busy`).
// 4. A port that is taken, or a key that cannot be read, is told and tried again every
//    kAgainSeconds; training does not notice.
// 5. Where it listens stands in the file .transfer-address beside the checkpoints.
// Thread rule: a thread of its own; it ends within the time of a look at the directory.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "base/socket.h"
#include "base/status.h"

namespace atl {

class CheckpointGiver {
 public:
  struct Options {
    std::string directory;
    Endpoint listen;
    std::string key_file;        // empty: .transfer-key in the directory
    double rate_cap = 0;         // bytes a second; 0: none
    std::function<bool()> busy;  // any thread; must not block
  };

  explicit CheckpointGiver(Options options);
  ~CheckpointGiver();

 private:
  void Run();
  bool Pause(double seconds);  // false: it ends

  const Options options_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace atl
