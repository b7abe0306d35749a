#include "collectives/wan/operation.h"

#include <chrono>
#include <utility>

namespace atl::wan {

bool OperationHandle::Done() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return result_.has_value();
}

StatusOr<AllReduceResult> OperationHandle::Wait() {
  std::unique_lock<std::mutex> lock(mutex_);
  done_.wait(lock, [this] { return result_.has_value(); });
  return *result_;
}

bool OperationHandle::WaitFor(double seconds) {
  std::unique_lock<std::mutex> lock(mutex_);
  return done_.wait_for(lock, std::chrono::duration<double>(seconds),
                        [this] { return result_.has_value(); });
}

void OperationHandle::Cancel() {
  if (Done()) return;
  // An engine that has ended has finished its operations before it closed the queue.
  commands_->Call([this] { cancel_(this); });
}

void OperationHandle::Finish(StatusOr<AllReduceResult> result) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (result_.has_value()) return;
  result_ = std::move(result);
  done_.notify_all();
}

}  // namespace atl::wan
