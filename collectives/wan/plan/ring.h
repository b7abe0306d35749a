// The best cycle through all members: the one whose slowest hop is fastest, and of those the one of
// the least delay.
//
// 1. Up to kExactMembers members all cycles are tried.
// 2. Beyond: from the cycle that always goes on to the best unvisited member (from each member as a
//    start), turning around a piece, or moving one, as long as that makes the cycle better. Each
//    step is the best of O(n^2), so the search ends in a local optimum; steps are bounded.
//
// Pure; any thread.
#pragma once

#include <vector>

#include "collectives/wan/plan/link_matrix.h"
#include "collectives/wan/plan/tree_plan.h"

namespace atl::wan {

inline constexpr int kExactMembers = 8;

// Members in the order of the cycle, from 0. Pairs without a link may be in it if none other was
// found: the caller looks. At least two members.
std::vector<int> BestCycle(const LinkMatrix& links);
// The N paths around a cycle: path r sums up from the member behind r on to r, and goes on from r.
std::vector<Tree> RingTrees(const std::vector<int>& cycle);

}  // namespace atl::wan
