// The newest checkpoint goes to an object store, behind the rounds: rank 0 of the region that is
// to push (checkpoint.push_to).
//
//   1. Push() names a checkpoint that is on the disk. One that still waits is forgotten: the newest
//      one counts.
//   2. The thread pushes it (checkpoint/s3/push.h): what is there of it already is not sent again,
//      and the manifest goes last. A failure is told once, and the push is tried again after 5 s,
//      10 s, ... 5 min, until it is done, a newer one has come, or the checkpoint is gone.
//   3. Finish() waits for what was named: one attempt, no more tries. Stop() gives it up: an object
//      store keeps the parts that it has, and whoever pushes that round again goes on from them.
// Thread rule: any thread calls; one thread of its own.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "base/status.h"
#include "proto/control.pb.h"

namespace atl {

class Pushing {
 public:
  // What one attempt did: bytes that were sent. It ends soon once `cancelled` is true.
  using Cancelled = std::function<bool()>;
  using Attempt =
      std::function<StatusOr<int64_t>(const std::string& path, const Cancelled& cancelled)>;

  // `place`, for messages, is where `attempt` pushes to. Tests have attempts of their own, and
  // shorter waits.
  Pushing(std::string place, Attempt attempt, double first_wait_seconds = 5);
  ~Pushing();  // stops

  void Push(int64_t round, const std::string& path);
  void Finish();
  // For a region that leaves: it has no time, and others push the next one. Nothing follows.
  void Stop();
  // What has ended since the last call.
  std::vector<pb::CheckpointTended> TakeTended();

 private:
  struct Named {
    int64_t round;
    std::string path;
  };
  void Run();
  bool Stopping();
  // Whether it is done with; `told` is whether a failure of it has been told.
  bool Try(const Named& named, bool* told);
  // Until it is time for another attempt at `named`; false: there is none.
  bool WaitToRetry(double seconds);

  const std::string place_;
  const Attempt attempt_;
  const double first_wait_seconds_;
  Mutex mutex_;
  CondVar changed_;
  std::optional<Named> next_ ABSL_GUARDED_BY(mutex_);
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;  // an attempt, or the wait for another one
  int finishing_ ABSL_GUARDED_BY(mutex_) = 0;  // callers of Finish()
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<pb::CheckpointTended> tended_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

// An attempt that pushes to `place`, "s3://BUCKET/PREFIX". Keys and endpoint are read from the
// environment each time.
Pushing::Attempt PushToPlace(const std::string& place);
// Exit code 2: not such a place.
Status CheckPlace(const std::string& place);

}  // namespace atl
