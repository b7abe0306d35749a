// Files: whole reads with a limit, atomic durable writes, owned descriptors, locks, free space.
// Errors name the path.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"
#include "base/status.h"

namespace atl {

// Owns a file descriptor.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) Reset(std::exchange(other.fd_, -1));
    return *this;
  }
  ~Fd() { Reset(); }
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  void Reset(int fd = -1);

 private:
  int fd_ = -1;
};

StatusOr<Fd> OpenFile(const std::string& path, int flags, mode_t mode = 0644);
StatusOr<int64_t> FileSize(const std::string& path);
// Whole contents; kInvalidArgument if longer than `limit` bytes (nothing is allocated beyond it).
StatusOr<std::string> ReadFile(const std::string& path, int64_t limit = 64 << 20);
// All of `size` bytes at `offset`, or an error (a short file is kDataLoss).
Status ReadAt(const Fd& fd, const std::string& path, void* data, int64_t size, int64_t offset);
Status WriteAt(const Fd& fd, const std::string& path, const void* data, int64_t size,
               int64_t offset);
Status SyncFile(const Fd& fd, const std::string& path);
Status SyncDirectory(const std::string& path);
// Writes to a temporary name beside `path`, fsyncs, renames, fsyncs the directory: afterwards the
// old or the new content is there, never half of one.
Status WriteFileAtomically(const std::string& path, absl::string_view content, mode_t mode = 0644);
// Creates `path` and its parents.
Status MakeDirectories(const std::string& path, mode_t mode = 0755);
// Bytes that an ordinary user may still write on the file system of `path` (its nearest existing
// parent).
StatusOr<int64_t> FreeSpaceBytes(const std::string& path);

// Holds an exclusive lock on a file until destroyed or the process ends, however it ends.
class FileLock {
 public:
  // kFailedPrecondition if another process holds it.
  static StatusOr<FileLock> Acquire(const std::string& path);

 private:
  explicit FileLock(Fd fd) : fd_(std::move(fd)) {}
  Fd fd_;
};

}  // namespace atl
