// Who writes what: before anything is written, every rank checks that each element of each tensor
// has exactly one writer. A shard that nobody writes would otherwise be found when it is needed.
#pragma once

#include <vector>

#include "base/range.h"
#include "base/status.h"
#include "checkpoint/checkpoint.h"

namespace atl::checkpoint {

struct Writer {
  int rank = 0;
  Range elements;
};

// `tensors` as CheckedTensors returns them; `writers` in any order. Padding between tensors may
// have any number of writers. Errors name the tensor and the ranks.
Status CheckCoverage(const std::vector<TensorSpec>& tensors, std::vector<Writer> writers);

}  // namespace atl::checkpoint
