#include "collectives/wan/join.h"

#include <algorithm>
#include <chrono>

#include "base/clock.h"

namespace atl::wan {

void JoinProgress::WantDial(const Dial& dial) {
  std::lock_guard<std::mutex> lock(mutex_);
  dials_.push_back(dial);
  changed_.notify_all();
}

void JoinProgress::Finish(const Status& status) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!decided_.has_value()) decided_ = status;
  changed_.notify_all();
}

std::vector<JoinProgress::Dial> JoinProgress::AwaitDials(double deadline) {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    const double now = Clock::Real()->MonotonicSeconds();
    std::vector<Dial> due;
    double wake = deadline;
    for (const Dial& dial : dials_) {
      if (dial.not_before <= now) {
        due.push_back(dial);
      } else {
        wake = std::min(wake, dial.not_before);
      }
    }
    if (!due.empty() || decided_.has_value() || now >= deadline) {
      std::erase_if(dials_, [&](const Dial& dial) { return dial.not_before <= now; });
      return due;
    }
    changed_.wait_for(lock, std::chrono::duration<double>(wake - now));
  }
}

std::optional<Status> JoinProgress::decided() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return decided_;
}

}  // namespace atl::wan
