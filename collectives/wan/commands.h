// What other threads ask of the I/O thread: closures in a queue, and an eventfd that wakes its
// epoll. Thread rule: any thread posts, the I/O thread takes.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "base/file.h"
#include "base/status.h"

namespace atl::wan {

class CommandQueue {
 public:
  static StatusOr<std::shared_ptr<CommandQueue>> Create();

  // False after Close(): the command will not run.
  bool Post(std::function<void()> command);
  // Posts and waits until it has run. Not from the I/O thread.
  bool Call(const std::function<void()>& command);

  // Readable while commands wait.
  const Fd& event() const { return event_; }
  std::vector<std::function<void()>> TakeAll();
  // Runs what is still there; later commands are refused.
  void Close();

 private:
  explicit CommandQueue(Fd event) : event_(std::move(event)) {}

  const Fd event_;
  std::mutex mutex_;
  std::vector<std::function<void()>> commands_;  // guarded by mutex_
  bool closed_ = false;                          // guarded by mutex_
};

}  // namespace atl::wan
