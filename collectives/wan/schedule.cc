#include "collectives/wan/schedule.h"

#include <algorithm>
#include <cmath>

#include "base/log.h"

namespace atl::wan {

std::vector<Range> CutShares(int64_t elements, std::span<const double> weights) {
  double total = 0;
  for (const double weight : weights) {
    CHECK_GE(weight, 0);
    total += weight;
  }
  CHECK_GT(total, 0);
  CHECK_GE(elements, 0);
  const int64_t blocks = (elements + kShareGrid - 1) / kShareGrid;
  std::vector<Range> shares;
  double sum = 0;
  int64_t begin = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    sum += weights[i];
    const int64_t block = std::llround(static_cast<double>(blocks) * sum / total);
    // Multiplied first, then divided: one fixed order of doubles, which every member computes alike
    // (docs/protocols/wan.md). The last weight above 0 brings the end to `elements`.
    const int64_t end = std::clamp(block * kShareGrid, begin, elements);
    shares.push_back({begin, end});
    begin = end;
  }
  CHECK_EQ(begin, elements);
  return shares;
}

std::vector<Range> EqualShares(int64_t elements, int members) {
  return CutShares(elements, std::vector<double>(members, 1.0));
}

int64_t ChunkCount(const Range& share, int64_t chunk_elements) {
  return (share.size() + chunk_elements - 1) / chunk_elements;
}

Range ChunkAt(const Range& share, int64_t chunk_elements, int64_t index) {
  const int64_t begin = share.begin + index * chunk_elements;
  return {begin, std::min(begin + chunk_elements, share.end)};
}

int64_t ChunkIndex(const Range& share, int64_t chunk_elements, const Range& chunk) {
  if (chunk.begin < share.begin || chunk.begin >= share.end) return -1;
  const int64_t index = (chunk.begin - share.begin) / chunk_elements;
  return ChunkAt(share, chunk_elements, index) == chunk ? index : -1;
}

}  // namespace atl::wan
