// The optimizer step inside a region, ZeRO-1 (Rajbhandari et al. 2020, stage 1): each worker holds
// the optimizer state of its slices alone, updates them, and the region gathers the parameters.
//
//   1. norm: every worker sums the squares of its slices, one partial sum a (segment, lane); all
//      partial sums are added in the order of (segment, lane), so that the norm has the same bits
//      with any number of workers;
//   2. clip, AdamW on the own slices;
//   3. all-gather of each segment.
// Thread rule: as the trainer.
#pragma once

#include <memory>
#include <vector>

#include "collectives/communicator.h"
#include "collectives/lanes.h"
#include "proto/job.pb.h"
#include "worker/trainer/trainer.h"

namespace atl {

class InnerOptimizer {
 public:
  // Makes the trainer own this worker's slices: optimizer state starts at zero.
  static StatusOr<std::unique_ptr<InnerOptimizer>> Create(Trainer* trainer, Communicator* region,
                                                          const Lanes* lanes,
                                                          const pb::Train& train);

  struct StepResult {
    double gradient_norm = 0;  // before clipping
  };
  // Uses the gradients in this worker's slices, first multiplied by `gradient_scale`.
  StatusOr<StepResult> Step(double learning_rate, double gradient_scale);

  // Updates made with the present optimizer state: AdamW's bias correction counts them. Restored
  // with the state.
  int64_t updates() const { return updates_; }
  void set_updates(int64_t updates) { updates_ = updates; }
  // This worker's slices, ascending: element i of the optimizer vectors belongs to the i-th element
  // of these.
  const std::vector<Range>& owned() const { return owned_; }

  // Brings every worker's slices of the parameters to every worker.
  Status GatherParameters();

 private:
  InnerOptimizer(Trainer* trainer, Communicator* region, const Lanes* lanes,
                 const pb::Train& train);
  StatusOr<double> GradientSquareSum();

  Trainer* const trainer_;
  Communicator* const region_;
  const Lanes* const lanes_;
  const pb::Train train_;
  std::vector<Range> owned_;
  int64_t updates_ = 0;
};

}  // namespace atl
