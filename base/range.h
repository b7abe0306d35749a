// A half-open range [begin, end) of elements, samples or bytes.
#pragma once

#include <cstdint>

namespace atl {

struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
  bool empty() const { return end <= begin; }
  friend bool operator==(const Range&, const Range&) = default;
};

}  // namespace atl
