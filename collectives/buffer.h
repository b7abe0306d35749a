// Memory for a vector, as a communicator gives it (Communicator::Allocate).
//
// Owns it, and gives it back when it goes. May outlive the communicator that gave it.
// Thread rule: as a pointer.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <limits>
#include <string>
#include <utility>

#include "base/status.h"

namespace atl {

class Buffer {
 public:
  // Begins at a page, as shared memory does.
  static constexpr int64_t kAlignment = 4096;

  Buffer() = default;
  // `release` is called once, at the end.
  Buffer(float* data, int64_t count, bool shared, std::function<void()> release)
      : data_(data), count_(count), shared_(shared), release_(std::move(release)) {}
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    if (this == &other) return *this;
    Release();
    data_ = std::exchange(other.data_, nullptr);
    count_ = std::exchange(other.count_, 0);
    shared_ = std::exchange(other.shared_, false);
    release_ = std::exchange(other.release_, nullptr);
    return *this;
  }
  ~Buffer() { Release(); }

  // Zeros in the process's own memory. kResourceExhausted if there is not enough.
  static StatusOr<Buffer> Ordinary(int64_t count, bool shared = false) {
    constexpr int64_t kFloatsInPage = kAlignment / int64_t{sizeof(float)};
    const int64_t pages = std::max<int64_t>(count, 1) / kFloatsInPage + 1;
    float* data = nullptr;
    if (pages <= std::numeric_limits<int64_t>::max() / kAlignment) {
      data = static_cast<float*>(std::aligned_alloc(kAlignment, pages * kAlignment));
    }
    if (data == nullptr) {
      return absl::ResourceExhaustedError("no memory for a vector of " + std::to_string(count) +
                                          " floats");
    }
    std::fill_n(data, count, 0.0f);
    return Buffer(data, count, shared, [data] { std::free(data); });
  }

  float* data() const { return data_; }
  int64_t count() const { return count_; }
  // Whether the other ranks of the region see it too.
  bool shared() const { return shared_; }

 private:
  void Release() {
    if (release_) release_();
    release_ = nullptr;
  }

  float* data_ = nullptr;
  int64_t count_ = 0;
  bool shared_ = false;
  std::function<void()> release_;
};

}  // namespace atl
