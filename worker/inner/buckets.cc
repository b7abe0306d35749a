#include "worker/inner/buckets.h"

#include <algorithm>

namespace atl {

Buckets MakeBuckets(std::span<const TensorInfo> tensors, int64_t size, int64_t bucket_bytes) {
  Buckets buckets;
  buckets.segment_of_tensor.resize(tensors.size());
  int64_t end = size;
  int segment = 0;
  // From the end, the order in which the backward pass finishes; indices are turned round below.
  for (int64_t tensor = static_cast<int64_t>(tensors.size()) - 1; tensor >= 0; --tensor) {
    buckets.segment_of_tensor[tensor] = segment;
    const int64_t begin = tensor == 0 ? 0 : tensors[tensor].elements.begin;
    if (tensor == 0 || (end - begin) * static_cast<int64_t>(sizeof(float)) >= bucket_bytes) {
      buckets.segments.push_back({begin, end});
      end = begin;
      ++segment;
    }
  }
  std::reverse(buckets.segments.begin(), buckets.segments.end());
  for (int& index : buckets.segment_of_tensor) index = segment - 1 - index;
  return buckets;
}

}  // namespace atl
