// A made-up sea: flows that share ups, downs and pairs fairly, each capped by its pacing, and what
// their senders would report.
//
// Max-min fairness (progressive filling): all flows grow alike until one meets its pacing or a full
// resource; those stop, the others go on. When a flow has sent its bytes the rest is shared anew.
#pragma once

#include <utility>
#include <vector>

#include "collectives/wan/plan/link_matrix.h"
#include "collectives/wan/plan/link_model.h"
#include "collectives/wan/plan/tree_plan.h"
#include "tests/wan_plan/draws.h"

namespace atl::wan {

struct FluidFlow {
  int from = 0;
  int to = 0;
  double bytes = 0;
  double paced = 0;  // bytes/s; 0: not paced
  // Answers.
  double seconds = 0;
};

// Until every flow has sent its bytes, or `most_seconds` are over (bytes then says what was sent).
void RunFluid(const LinkMatrix& truth, double most_seconds, std::vector<FluidFlow>& flows);

// One all-reduce by the plan, paced at the plan's throughput times the senders' gains (by from x
// members + to; they learn from it): its seconds, and reports whose rates are off by `noise` (a
// standard deviation, as a share).
double RunOperation(const LinkMatrix& truth, const TreePlan& plan, double bytes, double noise,
                    Draws& draws, std::vector<PaceGain>* gains, std::vector<LinkReport>* reports);
// These send, (from, to), as fast as it goes, for a second.
void RunProbe(const LinkMatrix& truth, const std::vector<std::pair<int, int>>& pairs, double noise,
              Draws& draws, std::vector<LinkReport>* reports);

}  // namespace atl::wan
