// Private to worker/region.
#pragma once

#include <memory>

#include "worker/region/copy_room.h"
#include "worker/region/heard_results.h"
#include "worker/region/outer_copy.h"
#include "worker/region/region_worker.h"

namespace atl {

// The model as this region holds it. It lives over changes of views, as long as the number of lanes
// stays the same.
struct RegionWorker::Replica {
  std::unique_ptr<Communicator>
      device_tensors;  // NCCL, where the trainer is on a GPU and the region has several workers
  Communicator* tensors = nullptr;
  std::unique_ptr<Lanes> lanes;
  std::unique_ptr<InnerOptimizer> inner;
  std::unique_ptr<Gradients> gradients;
  std::unique_ptr<SyncMethod> method;
  // Of full members, while a view with observers is prepared or holds: what they serve lies here.
  std::shared_ptr<CopyRoom> outer_room, inner_room;
};

// An observer without state (observe.cc).
struct RegionWorker::Following {
  explicit Following(HeardResults results) : heard(std::move(results)) {}
  HeardResults heard;
  // Once the first reduction is over; the inner optimizer's only where it is copied.
  std::unique_ptr<OuterFetch> fetch;
  std::unique_ptr<OuterFetch> inner;
};

}  // namespace atl
