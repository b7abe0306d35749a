// Learning rate of an inner step: linear warm-up, then a cosine down to a share of the peak
// (Loshchilov and Hutter 2017).
#pragma once

#include <cstdint>

#include "proto/job.pb.h"

namespace atl {

// Inner steps of the whole job in one region.
int64_t TotalInnerSteps(const pb::Job& job);

// `step` counts from 1.
double LearningRate(const pb::Train& train, int64_t step, int64_t total_steps);

}  // namespace atl
