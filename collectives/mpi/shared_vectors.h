// Which vectors lie in memory that all ranks of a host see, and where each rank's is mapped here.
// Internal to collectives/mpi.
//
// Every rank adds the same vectors in the same order, so their numbers agree: "byte 4096 of my
// vector 3" is understood by all. A rank removes one when it needs it no more, whatever the others
// do: what they have mapped stays theirs.
// Thread rule: any.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "base/mutex.h"

namespace atl {

class SharedVectors {
 public:
  struct Vector {
    uint64_t number = 0;        // from 1
    std::vector<char*> starts;  // by rank
    std::vector<int64_t> bytes;
  };
  // A place in this rank's part of a vector.
  struct Place {
    uint64_t number = 0;  // 0: nowhere
    int64_t offset = 0;   // bytes
  };

  explicit SharedVectors(int rank) : rank_(rank) {}

  // The memory stays until the vector is removed. Returns its number.
  uint64_t Add(std::vector<char*> starts, std::vector<int64_t> bytes);
  void Remove(uint64_t number);
  // Whether there has ever been one: the same on all ranks between their calls.
  bool ever() const { return ever_.load(std::memory_order_relaxed); }

  // Where [begin, begin + bytes) of this rank lies.
  Place Find(const void* begin, int64_t bytes) const;
  // The same place of rank `rank`, of which `bytes` are asked for; null if it is not there.
  char* At(int rank, Place place, int64_t bytes) const;

 private:
  const int rank_;
  std::atomic<bool> ever_{false};
  mutable Mutex mutex_;
  uint64_t last_number_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<Vector> vectors_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace atl
