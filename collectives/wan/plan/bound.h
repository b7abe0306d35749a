// What no plan beats: the throughput part of LowerBound (planner.h), with its reason.
//
// Terms, as bytes of the vector a second:
// 1. up and down of any region: everybody's numbers leave once, everybody's result arrives once.
// 2. The sum of ups over 2(N-1), and of downs: each but one member's numbers are sent at least
//    once, and each but one receive the result.
// 3. The rates between the parts of any partition into k parts, both ways, over 2(k-1): term 2 with
//    parts in the place of members (min_cut.h). Between two parts each way on its own.
// Pure; any thread.
#pragma once

#include <string>

#include "collectives/wan/plan/link_matrix.h"

namespace atl::wan {

struct ThroughputBound {
  double rate = 0;  // bytes/s; infinity: nothing limits
  std::string reason;
};
ThroughputBound BoundThroughput(const LinkMatrix& links);

}  // namespace atl::wan
