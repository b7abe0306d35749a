// Who owns which part of a vector in a direct exchange. Pure functions of their arguments: every
// member computes the same answer.
//
// Shares are cut in proportion to weights on a grid of kShareGrid elements, so that block codecs
// always see whole blocks. Equal weights give equal shares; weights from measured links give each
// member the share that its link can carry, and a weight of 0 a member that owns nothing.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/range.h"

namespace atl::wan {

inline constexpr int64_t kShareGrid = 256;  // elements

// Adjacent ranges from 0 to `elements`, one a weight; some may be empty. Weights are not negative
// and at least one is above 0. Every boundary but the last is a multiple of kShareGrid.
std::vector<Range> CutShares(int64_t elements, std::span<const double> weights);
std::vector<Range> EqualShares(int64_t elements, int members);

// A share is sent in chunks of `chunk_elements`, the last one shorter.
int64_t ChunkCount(const Range& share, int64_t chunk_elements);
Range ChunkAt(const Range& share, int64_t chunk_elements, int64_t index);
// The index of exactly this chunk, or -1 if the share has no such chunk.
int64_t ChunkIndex(const Range& share, int64_t chunk_elements, const Range& chunk);

}  // namespace atl::wan
