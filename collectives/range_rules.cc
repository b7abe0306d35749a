#include "collectives/range_rules.h"

#include "base/log.h"

namespace atl {

Range CheckedUnion(std::span<const Range> ranges, int ranks) {
  CHECK_EQ(ranges.size(), static_cast<size_t>(ranks)) << "one range a rank";
  CHECK_GE(ranges.front().begin, 0);
  int64_t end = ranges.front().begin;
  for (const Range& range : ranges) {
    CHECK_EQ(range.begin, end) << "each range begins where the one before ends";
    CHECK_GE(range.end, range.begin);
    end = range.end;
  }
  return {ranges.front().begin, end};
}

}  // namespace atl
