// What a job will take, from its shape alone: tokens, work, memory, checkpoint and sea traffic.
//
// P parameters, W workers a region, N regions, fp32 state. Pure; any thread.
//   tokens a round   global_batch x sequence_length x steps (inner_steps, or 1 in every_step)
//   memory a worker  parameters 4P, gradients 4P; a W-th (its lanes) of the inner moments 8P and,
//                    in diloco, of the outer parameters and momentum 8P; what is sent and received
//                    of its lanes over the sea, 2 x 4P/W; activations of one micro batch
//   activations      a layer keeps for each token about 8 hidden + 3 key/value + 4 intermediate
//                    numbers and 2 x heads x sequence scores; the head 3 x vocabulary. With
//                    activation checkpointing one layer is whole, the others keep `hidden` numbers
//   checkpoint       parameters 4P, inner moments 8P, in diloco the outer momentum 4P
//   sea a round      a region sends 2 (N-1)/N x encoded P: its part of the others' chunks, and the
//                    results of its own chunks to the others
#pragma once

#include <cstdint>

#include "proto/job.pb.h"

namespace atl {

struct JobEstimate {
  int64_t parameters = 0;
  int64_t steps_per_round = 0;
  double tokens_per_round = 0;
  double tokens_total = 0;
  double flops_total = 0;
  // Bytes of one worker.
  double parameter_bytes = 0;
  double gradient_bytes = 0;
  double optimizer_bytes = 0;
  double outer_bytes = 0;
  double exchange_bytes = 0;
  double activation_bytes = 0;
  double memory_bytes = 0;  // the sum
  // Bytes of one region.
  double checkpoint_bytes = 0;
  double wan_bytes_sent_per_round = 0;
};

// `model` is resolved (proto/model_presets.h); `regions` and `workers` (a region) are at least 1.
JobEstimate EstimateJob(const pb::Job& job, const pb::Model& model, int regions, int workers);

}  // namespace atl
