// Memory that the ranks of one host share: an anonymous file (memfd), mapped by all of them.
//
// 1. One rank creates it: sealed in size, all pages taken at once, so that a host without memory
//    says so here and no rank meets SIGBUS later.
// 2. The others open it as /proc/PID/fd/FD and check that it is what they were told of: its size,
//    its seals and the random name in its first bytes. A rank that sees other processes (another
//    container) finds something else or nothing, and gets an error.
// 3. It has no name in any directory: it goes with the last process that maps it, however that
//    ends.
//
// Each rank locks a byte of the file for its lifetime. The kernel drops the lock when the process
// ends, so a rank that waits can ask whether the one it waits for still lives (Holds).
// Thread rule: any thread, one at a time.
#pragma once

#include <cstdint>
#include <memory>

#include "base/status.h"

namespace atl {

// What another process needs to open a segment; sent as bytes.
struct SegmentAddress {
  int64_t pid = 0;
  int64_t fd = -1;
  int64_t bytes = 0;
  uint64_t name[2] = {};  // random
};

class SharedSegment {
 public:
  // The segment's first bytes belong to this class.
  static constexpr int64_t kReserved = 4096;

  // `bytes` of zeros, of which the first kReserved are taken.
  static StatusOr<std::unique_ptr<SharedSegment>> Create(int64_t bytes);
  static StatusOr<std::unique_ptr<SharedSegment>> Open(const SegmentAddress& address);
  ~SharedSegment();
  SharedSegment(const SharedSegment&) = delete;
  SharedSegment& operator=(const SharedSegment&) = delete;

  const SegmentAddress& address() const { return address_; }
  char* data() const { return data_; }

  // Closes the file: nobody opens or holds it any more; what is mapped stays.
  void Close();

  // This process is rank `rank` of the host from now on.
  Status Hold(int rank);
  // Whether another process holds `rank`.
  bool Holds(int rank) const;

 private:
  SharedSegment(int fd, const SegmentAddress& address) : fd_(fd), address_(address) {}
  Status Map();

  int fd_;
  SegmentAddress address_;
  char* data_ = nullptr;
};

}  // namespace atl
