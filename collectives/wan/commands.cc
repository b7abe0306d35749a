#include "collectives/wan/commands.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <cstdint>
#include <utility>

namespace atl::wan {

StatusOr<std::shared_ptr<CommandQueue>> CommandQueue::Create() {
  Fd event(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!event.valid()) return ErrnoError(errno, "cannot make an eventfd");
  return std::shared_ptr<CommandQueue>(new CommandQueue(std::move(event)));
}

bool CommandQueue::Post(std::function<void()> command) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (closed_) return false;
  commands_.push_back(std::move(command));
  const uint64_t one = 1;
  (void)!write(event_.get(), &one, sizeof one);  // full means that it is readable already
  return true;
}

bool CommandQueue::Call(const std::function<void()>& command) {
  // Shared, because the poster may wake and go before the runner has let go of it.
  struct Latch {
    std::mutex mutex;
    std::condition_variable condition;
    bool done = false;
  };
  const auto latch = std::make_shared<Latch>();
  const bool posted = Post([&command, latch] {
    command();
    std::lock_guard<std::mutex> lock(latch->mutex);
    latch->done = true;
    latch->condition.notify_all();
  });
  if (!posted) return false;
  std::unique_lock<std::mutex> lock(latch->mutex);
  latch->condition.wait(lock, [&] { return latch->done; });
  return true;
}

std::vector<std::function<void()>> CommandQueue::TakeAll() {
  uint64_t count = 0;
  (void)!read(event_.get(), &count, sizeof count);
  std::lock_guard<std::mutex> lock(mutex_);
  return std::exchange(commands_, {});
}

void CommandQueue::Close() {
  std::vector<std::function<void()>> rest;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
    rest = std::exchange(commands_, {});
  }
  for (const auto& command : rest) command();
}

}  // namespace atl::wan
