#include "collectives/wan/join.h"

#include <chrono>

#include "base/clock.h"

namespace atl::wan {

void JoinProgress::Finish(const Status& status) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!decided_.has_value()) decided_ = status;
  changed_.notify_all();
}

std::optional<Status> JoinProgress::Await(double deadline) {
  std::unique_lock<std::mutex> lock(mutex_);
  while (!decided_.has_value()) {
    const double left = deadline - Clock::Real()->MonotonicSeconds();
    if (left <= 0) break;
    changed_.wait_for(lock, std::chrono::duration<double>(left));
  }
  return decided_;
}

}  // namespace atl::wan
