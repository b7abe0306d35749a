// What summary.json says of a region's lease and of what it costs (docs/formats/summary.md). Pure.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "orchestrator/core/records.h"
#include "proto/job.pb.h"

namespace atl {

struct LeaseCost {
  double so_far = 0;
  double at_end = 0;  // of the lease, or of the job as it looks, whichever comes first
  bool at_end_known = true;
};

// Without `lease.start` a lease counts from when the region was first heard of (`first_heard`, 0:
// not yet), without an end until the region has left. No price: no cost.
LeaseCost CostOf(const pb::Lease& lease, const RegionRecord& region, double first_heard,
                 double now);
// null where nothing is known of a lease.
nlohmann::ordered_json LeaseToJson(const pb::Lease& lease, const RegionRecord& region,
                                   double first_heard, double now);

}  // namespace atl
