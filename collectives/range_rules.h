// The rule for the `ranges` of ReduceScatter and AllGather, asked by every backend.
#pragma once

#include <span>

#include "base/range.h"

namespace atl {

// CHECKs that `ranges` has one range a rank, ascending and adjacent (each begins where the one
// before ends), from an element >= 0; empty ones are allowed. Returns the union.
Range CheckedUnion(std::span<const Range> ranges, int ranks);

}  // namespace atl
