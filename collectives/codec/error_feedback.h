// Error feedback: what rounding took from one round's numbers is added to the next round's.
//
// 1. Each value is added to its residual.
// 2. The sums are encoded.
// 3. What the bytes do not say stays as the residual: sum - decoded, which is exact.
//
// So after any number of rounds the total of what was decoded differs from the total of the values
// by the residual alone (and by the rounding of step 1, 2^-24 of each sum). A block codec's
// residual is at most b / (1 - b) of the largest value that its block has held, b being the codec's
// error bound (docs/formats/codecs.md): 1/252 for int8, 1/12.9 for int4. Without feedback errors of
// the same sign add up from round to round. Source: Seide and others, "1-bit stochastic gradient
// descent" (2014); Karimireddy and others, "Error feedback fixes SignSGD" (2019).
//
// Where the decoded number is no finite one, the residual becomes 0: the receivers see the NaN, and
// later rounds are not spoiled by it.
// Thread rule: any thread; the residual is the caller's.
#pragma once

#include <cstdint>
#include <span>

#include "collectives/codec/codec.h"

namespace atl {

// Writes EncodedSize(values.size()) bytes to `out`. `residual` has the size of `values`, is 0
// before the first round, and stands for the same elements in every round: call this once for a
// contribution, never again for a repeated one. `values`, `residual` and `out` do not overlap. The
// same ranges as for Encode.
void EncodeWithFeedback(Codec codec, std::span<const float> values, std::span<float> residual,
                        uint8_t* out);

}  // namespace atl
