// Segments of the flat vector: gradient buckets of whole tensors.
#pragma once

#include <span>
#include <vector>

#include "base/range.h"
#include "worker/trainer/trainer.h"

namespace atl {

struct Buckets {
  std::vector<Range> segments;         // adjacent, ascending, from 0 to `size`
  std::vector<int> segment_of_tensor;  // by tensor index
};

// Groups consecutive tensors (with their padding) until a bucket holds at least `bucket_bytes`. The
// first bucket, whose gradients come last in the backward pass and can hide behind nothing, may be
// smaller.
Buckets MakeBuckets(std::span<const TensorInfo> tensors, int64_t size, int64_t bucket_bytes);

}  // namespace atl
