// Finds the trees and their weights that reduce a vector fastest over given links, predicts how
// long a plan takes, and the bound that no plan beats.
//
// Fast means: throughput first (a linear program: as much weight on trees as the links carry),
// then latency (fewer hops where throughput is the same), for the given number of bytes.
// - Stars: one variable an owner. Where only lines with up as fast as down limit, the optimum meets
//   the bound ("water-filled" shares: a slow region may own nothing).
// - Trees: packing of spanning arborescences by column generation: the dual prices of the links
//   give each edge a cost, the cheapest arborescence (Chu-Liu/Edmonds) enters as a new column
//   until none pays (Gabow & Manu 1998 for the packing; Gilmore & Gomory 1961 for the columns).
// The linear programs are GLPK's. Pure functions; any thread (GLPK keeps its environment a thread).
#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "collectives/wan/plan/link_matrix.h"
#include "collectives/wan/plan/tree_plan.h"

namespace atl::wan {

// Views of more members get the equal plan.
inline constexpr int kMostPlanned = 64;

struct PlanRequest {
  double bytes = 64 << 20;                  // encoded size of the vector
  ScheduleKind kind = ScheduleKind::kAuto;  // a kind: that one, with the best weights
  // kAuto chooses among order-stable plans only (tree_plan.h).
  bool order_stable = false;
  // The links are not well known yet: MakeSoundPlan takes an order-stable plan if there is one.
  bool early = false;
};

// kInvalidArgument: a matrix that cannot be (negative rates, a member that nobody reaches: named).
// kFailedPrecondition: the kind that was asked for is impossible over these links (a star where no
// member has a link to all others), with the reason. A plan whose throughput is 0 met no limit.
StatusOr<TreePlan> MakePlan(const LinkMatrix& links, const PlanRequest& request);

struct Prediction {
  double seconds = 0;
  std::string bottleneck;  // in words: "up of 'oslo'", "pair johor -> oslo", "latency"
};
// predict.cc tells how. A plan of rate 0 takes for ever: infinity.
Prediction Predict(const TreePlan& plan, const LinkMatrix& links, double bytes);

struct Bound {
  double seconds = 0;
  std::string reason;  // which of the terms it is, in words
};
// The largest of S/up, S/down of any region; 2(N-1)S over the sum of ups, and of downs; where pairs
// have rates 2(k-1)S over the rates between the parts, both ways, over all partitions into k parts
// (bound.h: for any N, by cuts), and S over the rate one way between two parts; plus the longest
// delay of a link. Throughput and delay of no plan are better; where a way through a third member
// is quicker than the longest link, a small vector may arrive a little before the sum of the two.
// Of payload: a caller with rates on the wire scales them first.
Bound LowerBound(const LinkMatrix& links, double bytes);

}  // namespace atl::wan
