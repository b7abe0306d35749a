// A lane's slices of one of the trainer's vectors, back to back in host memory: what travels over
// the sea.
#pragma once

#include <span>
#include <vector>

#include "base/digest.h"
#include "collectives/lanes.h"
#include "worker/trainer/trainer.h"

namespace atl {

// Copies the lane's slices of `vector` (parameters or gradients) into `buffer`, which gets LaneSize
// elements.
Status ReadLane(Trainer& trainer, Vector vector, const Lanes& lanes, int lane,
                std::vector<float>* buffer);
Status ReadLane(Trainer& trainer, Vector vector, const Lanes& lanes, int lane,
                std::span<float> buffer);
Status WriteLane(Trainer& trainer, Vector vector, const Lanes& lanes, int lane,
                 const std::vector<float>& buffer);

// The lane's slices of the inner optimizer's first and second moments, back to back: 2 x LaneSize.
// `owned`: this worker's (InnerOptimizer::owned), which the lane is part of.
Status ReadMoments(Trainer& trainer, const std::vector<Range>& owned, const Lanes& lanes, int lane,
                   std::span<float> moments);
Status WriteMoments(Trainer& trainer, const std::vector<Range>& owned, const Lanes& lanes, int lane,
                    std::span<const float> moments);

// Digest of a lane buffer as part of flat vector number `domain`.
Digest DigestOfLane(const Lanes& lanes, int lane, const std::vector<float>& buffer,
                    uint64_t domain);

// Digest domains of the outer state.
inline constexpr uint64_t kParametersDomain = 0;
inline constexpr uint64_t kMomentumDomain = 1;

}  // namespace atl
