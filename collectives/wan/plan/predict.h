// What a plan costs over given links: the parts of Predict (planner.h) that the search uses too.
//
// Pure; any thread.
#pragma once

#include <string>

#include "collectives/wan/plan/link_matrix.h"
#include "collectives/wan/plan/tree_plan.h"

namespace atl::wan {

struct PlanRate {
  double rate = 0;         // bytes of the vector a second; infinity: nothing limits
  std::string bottleneck;  // "up of 'oslo'", "pair 'johor' -> 'oslo'"; empty: none
};
// By the busiest of ups, downs and pairs. Sums of products only: exact to a few bits.
PlanRate RateOf(const TreePlan& plan, const LinkMatrix& links);

// The longest way of a part up the tree and down again, seconds of delay.
double TreeLatency(const Tree& tree, const LinkMatrix& links);
double PlanLatency(const TreePlan& plan, const LinkMatrix& links);

// Members so that each stands behind its parent: the root first.
std::vector<int> FromTheRoot(const std::vector<int>& parents, int root);

// Sets throughput, latency and chunk_bytes from the trees.
void Complete(const LinkMatrix& links, TreePlan& plan);

}  // namespace atl::wan
