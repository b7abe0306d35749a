// Gradients of one inner step, summed over the region's workers behind the backward pass.
//
//   1. the worker takes its part of the step's samples and runs it in micro-batches, gradients
//      adding up in the flat vector;
//   2. in the last micro-batch, as soon as the gradients of a segment and of all segments after it
//      are final, the segment's reduce-scatter is queued (always from the last segment to the
//      first, so that every rank queues in the same order, also one that has no sample);
//   3. Step() returns when the last reduce-scatter is through: the worker's slices of the gradient
//      vector hold the region's sum.
// Thread rule: one thread, which also runs the trainer.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "collectives/communicator.h"
#include "collectives/lanes.h"
#include "collectives/queue.h"
#include "worker/data/dataset.h"
#include "worker/inner/buckets.h"
#include "worker/trainer/trainer.h"

namespace atl {

class Gradients {
 public:
  Gradients(Trainer* trainer, Communicator* region, const Lanes* lanes, const Dataset* dataset,
            std::vector<int> segment_of_tensor, int64_t micro_batch);

  // `samples`: of the job's stream, the whole region's for this step. Gradients are those of scale
  // x the sum of cross entropies. Returns this worker's own sum of cross entropies in nats,
  // unscaled.
  StatusOr<double> Step(std::span<const int64_t> samples, double scale);

  // A worker's part of the region's samples (places in their list): contiguous, by rank, the first
  // ones larger by one where they do not divide.
  static Range WorkerSamples(Range samples, int rank, int workers);

 private:
  void TensorReady(int64_t tensor);
  void QueueReadySegments();

  Trainer* const trainer_;
  Communicator* const region_;
  const Lanes* const lanes_;
  const Dataset* const dataset_;
  const std::vector<int> segment_of_tensor_;
  const int64_t micro_batch_;
  std::vector<std::vector<Range>> slices_;  // by segment: every worker's
  std::vector<int> tensors_in_segment_;
  std::vector<int> missing_;                // by segment: tensors whose gradient is not final
  int next_segment_ = -1;                   // the one to be queued next
  std::unique_ptr<CollectiveQueue> queue_;  // null in a region of one
};

}  // namespace atl
