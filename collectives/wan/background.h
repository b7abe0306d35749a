// One thread for what may take a while and must not hold up the I/O thread: resolving names,
// solving for plans. Tasks run in the order in which they came. Thread rule: any thread.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace atl::wan {

class Background {
 public:
  Background();
  // Waits for the task that is running; drops the others.
  ~Background();
  void Run(std::function<void()> task);

 private:
  void Loop();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;  // guarded by mutex_
  bool stopping_ = false;                    // guarded by mutex_
  std::thread thread_;
};

}  // namespace atl::wan
