// The outer optimizer: gradient descent with (Nesterov) momentum on the averaged pseudo-gradient.
// Source: Douillard et al. 2023 (DiLoCo), algorithm 1; momentum in the form of torch.optim.SGD:
//     momentum = mu momentum + gradient
//     outer   -= rate (nesterov ? gradient + mu momentum : momentum)
// Elementwise fp32 in a fixed order without contraction, so that every region gets the same bits.
#pragma once

#include <span>

#include "proto/job.pb.h"

namespace atl {

// All three spans have the same length. `gradient` is the average over regions of (outer - inner
// parameters).
void OuterStep(const pb::Sync& settings, std::span<float> outer, std::span<float> momentum,
               std::span<const float> gradient);

}  // namespace atl
