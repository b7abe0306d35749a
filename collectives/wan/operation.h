// The caller's handle on one all-reduce: a promise that the I/O thread keeps.
// Thread rule: any thread; Finish and SetElementsDone only the I/O thread.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "collectives/wan/commands.h"
#include "collectives/wan/engine.h"

namespace atl::wan {

class OperationHandle : public Operation {
 public:
  // `cancel` runs on the I/O thread and finishes this operation unless it is done.
  OperationHandle(std::shared_ptr<CommandQueue> commands,
                  std::function<void(OperationHandle*)> cancel)
      : commands_(std::move(commands)), cancel_(std::move(cancel)) {}

  bool Done() const override;
  StatusOr<AllReduceResult> Wait() override;
  bool WaitFor(double seconds) override;
  void Cancel() override;
  int64_t elements_done() const override { return elements_done_.load(std::memory_order_relaxed); }

  // The engine no longer touches the buffer. Only the first call counts.
  void Finish(StatusOr<AllReduceResult> result);
  void SetElementsDone(int64_t elements) {
    elements_done_.store(elements, std::memory_order_relaxed);
  }

 private:
  const std::shared_ptr<CommandQueue> commands_;
  const std::function<void(OperationHandle*)> cancel_;
  std::atomic<int64_t> elements_done_{0};
  mutable std::mutex mutex_;
  std::condition_variable done_;
  std::optional<StatusOr<AllReduceResult>> result_;  // guarded by mutex_
};

}  // namespace atl::wan
