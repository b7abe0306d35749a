#include "collectives/mpi/shared_vectors.h"

#include <utility>

#include "base/log.h"

namespace atl {

uint64_t SharedVectors::Add(std::vector<char*> starts, std::vector<int64_t> bytes) {
  CHECK_EQ(starts.size(), bytes.size());
  MutexLock lock(&mutex_);
  vectors_.push_back({++last_number_, std::move(starts), std::move(bytes)});
  ever_.store(true, std::memory_order_relaxed);
  return last_number_;
}

void SharedVectors::Remove(uint64_t number) {
  MutexLock lock(&mutex_);
  std::erase_if(vectors_, [&](const Vector& vector) { return vector.number == number; });
}

SharedVectors::Place SharedVectors::Find(const void* begin, int64_t bytes) const {
  const auto at = reinterpret_cast<uintptr_t>(begin);
  MutexLock lock(&mutex_);
  for (const Vector& vector : vectors_) {
    const auto start = reinterpret_cast<uintptr_t>(vector.starts[rank_]);
    const int64_t offset = static_cast<int64_t>(at - start);
    if (at >= start && bytes <= vector.bytes[rank_] && offset <= vector.bytes[rank_] - bytes) {
      return {vector.number, offset};
    }
  }
  return {};
}

char* SharedVectors::At(int rank, Place place, int64_t bytes) const {
  MutexLock lock(&mutex_);
  for (const Vector& vector : vectors_) {
    if (vector.number != place.number) continue;
    const int64_t there = vector.bytes[rank];
    if (place.offset < 0 || bytes > there || place.offset > there - bytes) return nullptr;
    return vector.starts[rank] + place.offset;
  }
  return nullptr;
}

}  // namespace atl
