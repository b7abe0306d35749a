// Random links of several kinds, by seed: for the tests of the planner and its bench.
#pragma once

#include <vector>

#include "collectives/wan/plan/link_matrix.h"

namespace atl::wan {

enum class LinksKind {
  kLines,         // up as fast as down, 10 to 1000 Mbit/s; pairs have no limit
  kUnevenLines,   // up and down drawn apart
  kPairs,         // pairs limit, as fast back as forth; lines do not
  kUnevenPairs,   // each direction of a pair drawn apart
  kLinesAndPairs  // lines, and two pairs in three limit as well
};
inline constexpr LinksKind kAllLinksKinds[] = {LinksKind::kLines, LinksKind::kUnevenLines,
                                               LinksKind::kPairs, LinksKind::kUnevenPairs,
                                               LinksKind::kLinesAndPairs};
const char* KindName(LinksKind kind);

// Delays are drawn per pair, 5 to 125 ms one way, the same back.
LinkMatrix RandomLinks(LinksKind kind, int members, uint64_t seed);

// 1 Mbit/s of payload.
inline constexpr double kMbit = 1e6 / 8;

}  // namespace atl::wan
