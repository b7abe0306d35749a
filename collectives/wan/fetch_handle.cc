#include "collectives/wan/fetch_handle.h"

#include <utility>

namespace atl::wan {

bool FetchHandle::Done() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return result_.has_value();
}

Status FetchHandle::Wait() {
  Status status;
  {
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return result_.has_value(); });
    status = *result_;
  }
  std::lock_guard<std::mutex> lock(sink_mutex_);
  return status;
}

void FetchHandle::Cancel() {
  // An engine that has ended has finished its fetches before it closed the queue.
  if (!Done()) commands_->Call([this] { cancel_(this); });
  std::lock_guard<std::mutex> lock(sink_mutex_);
}

FetchProgress FetchHandle::Progress() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return progress_;
}

void FetchHandle::Publish(FetchProgress progress) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!result_.has_value()) progress_ = std::move(progress);
}

void FetchHandle::Finish(Status status, FetchProgress progress) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (result_.has_value()) return;
    result_ = std::move(status);
    progress_ = std::move(progress);
    done_.notify_all();
  }
  if (on_done_) on_done_();
}

Status FetchHandle::Sink(const std::function<Status()>& sink) {
  std::lock_guard<std::mutex> lock(sink_mutex_);
  if (Done()) return absl::CancelledError("the fetch has ended");
  return sink();
}

}  // namespace atl::wan
