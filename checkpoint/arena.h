// A staging arena: memory that holds one save's bytes between the copy and the disk, or a state
// that is served to a region that joins.
//
// Its own pages from the system, asked for as huge ones: the first copy touches all of it while
// training waits, and 4 KiB pages would cost that copy twice its time.
#pragma once

#include <cstdint>

#include "base/status.h"

namespace atl::checkpoint {

class Arena {
 public:
  Arena() = default;
  ~Arena() { Free(); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // At least `elements` floats, and never nothing; what was there is kept if it is large enough.
  // kResourceExhausted if the system has no such memory.
  Status Fit(int64_t elements);
  void Free();
  // Has the system give all of it now: a first copy would otherwise wait for every page.
  void Touch() { Touch(0, bytes_); }
  void Touch(int64_t begin, int64_t end);  // bytes

  float* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  float* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace atl::checkpoint
