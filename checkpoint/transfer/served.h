// What a server reads when it is asked (wan::ByteSource): files, and bytes in memory.
// Thread rule: Read on one thread at a time (the engine's), the rest any thread.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "base/file.h"
#include "checkpoint/transfer/open_files.h"
#include "checkpoint/transfer/wire.h"
#include "collectives/wan/transfer.h"

namespace atl::checkpoint {

// Keeps a checkpoint that is being read from being pruned, by a shared flock on its folder
// (checkpoint/retention.h). At most `most` folders are held by those that share `held`.
class Hold {
 public:
  Hold(std::string path, std::shared_ptr<std::atomic<int>> held, int most)
      : path_(std::move(path)), held_(std::move(held)), most_(most) {}
  ~Hold() { Release(); }
  Hold(const Hold&) = delete;

  // Something is read. Any thread.
  void Touch(double now);
  void ReleaseIfUntouched(double now, double seconds) {
    if (now - touched_ > seconds) Release();
  }

 private:
  void Release();

  const std::string path_;
  const std::shared_ptr<std::atomic<int>> held_;
  const int most_;
  std::atomic<double> touched_ = 0;
  std::mutex mutex_;
  Fd folder_;  // guarded by mutex_
};

// Opened when it is read, which touches `hold`, if there is one.
std::shared_ptr<wan::ByteSource> ServedFile(std::string path, int64_t bytes,
                                            std::shared_ptr<OpenFiles> files,
                                            std::shared_ptr<Hold> hold = nullptr);
std::shared_ptr<wan::ByteSource> ServedBytes(std::string bytes);
// The bitmap in a pull's journal, as it is at that time.
std::shared_ptr<wan::ByteSource> ServedJournal(std::string path, int64_t chunks);

}  // namespace atl::checkpoint
