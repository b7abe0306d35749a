// Private to worker/region: what lives as long as a view.
#pragma once

#include <memory>

#include "worker/region/region_worker.h"

namespace atl {

struct RegionWorker::ViewState {
  pb::View view;
  int member = -1;
  std::unique_ptr<Communicator>
      device_tensors;  // NCCL, where the trainer is on a GPU and the region has several workers
  Communicator* tensors = nullptr;
  std::unique_ptr<Lanes> lanes;
  std::unique_ptr<InnerOptimizer> inner;
  std::unique_ptr<Gradients> gradients;
  std::unique_ptr<SyncMethod> method;
};

}  // namespace atl
