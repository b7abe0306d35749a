// A cheap arborescence none of whose ways from the root is longer than a radius.
//
// The cheapest one is hard to find (NP-hard); this one is good:
// 1. Prim 1957 from the root: the node whose edge is cheapest comes next, among edges that stay
//    within the radius; an edge far from the root counts as a little dearer, so that those behind
//    it find room (Alpert, Hu, Huang & Kahng 1993).
// 2. Where that leaves somebody out: the tree of the shortest ways.
// 3. As long as it saves, each node moves under the parent that costs the least and keeps it, and
//    all that hangs below it, within the radius.
// Steps: O(n^2) a pass, a few passes.
//
// Pure; any thread.
#pragma once

#include <vector>

namespace atl::wan {

// `cost` (infinity: no edge) and `length` by from * n + to; edges lead away from the root. The
// parent of each node, -1 at the root; empty if some node has no way within `radius`.
std::vector<int> BoundedTree(const std::vector<double>& cost, const std::vector<double>& length,
                             int n, int root, double radius);

}  // namespace atl::wan
