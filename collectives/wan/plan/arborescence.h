// The cheapest arborescence: of all ways to give every node but the root a parent so that all ways
// lead to the root, the one whose edges cost least.
//
// Chu & Liu 1965, Edmonds 1967, in the form of Gabow, Galil, Spencer & Tarjan 1986, for dense
// graphs:
// 1. From a node that is not done, walk backwards over each node's cheapest edge in, until
//    something is met.
// 2. What is met is done (leads from the root): so is the whole walk; back to 1.
// 3. It lies on the walk: the cycle becomes one node. An edge into a node x of it now costs what it
//    saves against x's own cheapest: cost minus that. The walk goes on from the new node.
// 4. At the end cycles are opened from the outermost in: the edge that enters one replaces the
//    cheapest edge of the node that it enters.
// Steps: O(n^2), every node and every contraction scanned once.
//
// Pure; any thread.
#pragma once

#include <vector>

namespace atl::wan {

// `cost` by from * n + to, infinity: no edge. Returns the parent of each node, -1 at the root;
// empty if some node cannot be reached from the root. Edges lead from the parent to the child.
std::vector<int> CheapestArborescence(const std::vector<double>& cost, int n, int root);

}  // namespace atl::wan
