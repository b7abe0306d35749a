#include "collectives/codec/error_feedback.h"

#include <algorithm>
#include <cstdlib>

#include "collectives/codec/scalar.h"

namespace atl {
namespace {

// Elements at a time: whole blocks of every codec, and the scratch stays in the first cache.
constexpr size_t kPiece = 1024;
static_assert(kPiece % 256 == 0);

}  // namespace

void EncodeWithFeedback(Codec codec, std::span<const float> values, std::span<float> residual,
                        uint8_t* out) {
  if (values.size() != residual.size()) std::abort();  // as in Add()
  float sums[kPiece];
  float decoded[kPiece];
  for (size_t begin = 0; begin < values.size(); begin += kPiece) {
    const size_t count = std::min(kPiece, values.size() - begin);
    const float* const value = values.data() + begin;
    float* const left = residual.data() + begin;
    for (size_t i = 0; i < count; ++i) sums[i] = codec::Sum(value[i], left[i]);
    Encode(codec, {sums, count}, out);
    Decode(codec, out, {decoded, count});
    for (size_t i = 0; i < count; ++i) {
      const float error = sums[i] - decoded[i];
      const bool finite = (codec::BitsOf(error) & codec::kInfinityBits) != codec::kInfinityBits;
      left[i] = finite ? error : 0.0f;
    }
    out += EncodedSize(codec, count);
  }
}

}  // namespace atl
