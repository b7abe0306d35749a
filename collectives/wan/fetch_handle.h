// The caller's handle on one fetch, and the gate before its sink.
// Thread rule: any thread; Publish and Finish only the I/O thread, Sink only the background thread.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "collectives/wan/commands.h"
#include "collectives/wan/transfer.h"

namespace atl::wan {

class FetchHandle : public Transfer {
 public:
  // `cancel` runs on the I/O thread and finishes this fetch unless it is done.
  FetchHandle(std::shared_ptr<CommandQueue> commands, std::function<void(FetchHandle*)> cancel,
              std::function<void()> done)
      : commands_(std::move(commands)), cancel_(std::move(cancel)), on_done_(std::move(done)) {}

  bool Done() const override;
  Status Wait() override;
  void Cancel() override;
  FetchProgress Progress() const override;

  void Publish(FetchProgress progress);
  // The engine no longer touches the buffer and calls the sink no more. Only the first call counts.
  void Finish(Status status, FetchProgress progress);
  // Calls `sink`, unless the fetch has ended.
  Status Sink(const std::function<Status()>& sink);

 private:
  const std::shared_ptr<CommandQueue> commands_;
  const std::function<void(FetchHandle*)> cancel_;
  const std::function<void()> on_done_;
  std::mutex sink_mutex_;  // held while the sink runs
  mutable std::mutex mutex_;
  std::condition_variable done_;
  std::optional<Status> result_;  // guarded by mutex_
  FetchProgress progress_;        // guarded by mutex_
};

}  // namespace atl::wan
