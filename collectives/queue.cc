#include "collectives/queue.h"

#include <utility>

namespace atl {

CollectiveQueue::CollectiveQueue() : thread_([this] { Run(); }) {}

CollectiveQueue::~CollectiveQueue() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  thread_.join();
}

void CollectiveQueue::Submit(std::function<Status()> operation) {
  MutexLock lock(&mutex_);
  if (!status_.ok()) return;
  operations_.push_back(std::move(operation));
  changed_.NotifyAll();
}

Status CollectiveQueue::Drain() {
  MutexLock lock(&mutex_);
  while (busy_ || !operations_.empty()) changed_.Wait(&mutex_);
  return std::exchange(status_, OkStatus());
}

void CollectiveQueue::Run() {
  for (;;) {
    std::function<Status()> operation;
    {
      MutexLock lock(&mutex_);
      while (operations_.empty() && !stopping_) changed_.Wait(&mutex_);
      if (stopping_) return;
      operation = std::move(operations_.front());
      operations_.pop_front();
      busy_ = true;
    }
    Status status = operation();
    operation = nullptr;  // what it holds is let go before Drain returns
    MutexLock lock(&mutex_);
    busy_ = false;
    if (!status.ok() && status_.ok()) {
      status_ = std::move(status);
      operations_.clear();
    }
    changed_.NotifyAll();
  }
}

}  // namespace atl
