// Finds trees for a packing.
//
// Explore() finds good ones soon:
// 1. Every row has a price that grows exponentially with how full it is against the fullest (the
//    multiplicative weights of Plotkin, Shmoys & Tardos 1991, Garg & Koenemann 1998).
// 2. The cheapest tree within the latency asked for (arborescence.h, bounded_tree.h) gets one unit
//    of weight and becomes a column; back to 1. Full links are dear, so the next tree avoids them.
//
// Generate() finds the best, by column generation:
// 1. Solve over the columns there are. The rows' prices say what a byte on each link costs.
// 2. For each root the cheapest reduce arborescence and the cheapest broadcast arborescence. Trees
//    that cost less than they gain become columns.
// 3. Prices divided by the cheapest tree's cost prove an upper bound of the optimum. Until it is
//    within `gap`, or no tree pays, or turns are up: back to 1.
// It takes long where many pairs bind at once: for small views.
//
// Thread rule: one thread.
#pragma once

#include "base/status.h"
#include "collectives/wan/plan/packing.h"

namespace atl::wan {

// `turns` trees of at most that latency (infinity: any). Uses chance nowhere: repeats.
void Explore(Packing& packing, double latency, int turns);

struct Proof {
  double value = 0;  // of the columns' best weights, in units of the packing's `most`
  double bound = 0;  // of any trees' best weights
};
StatusOr<Proof> Generate(Packing& packing, double gap, int turns);

}  // namespace atl::wan
