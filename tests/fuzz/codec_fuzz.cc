// Fuzz entry: the codecs' bytes. Whatever comes decodes, to the same bits at every level of
// instructions, and what was encoded once comes out again. The first byte chooses the codec.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <vector>

#include "collectives/codec/codec.h"

namespace {

using atl::Codec;

void Require(bool condition) {
  if (!condition) std::abort();
}

// The elements that `size` bytes hold, with no byte too many for the codec to read.
size_t CountIn(Codec codec, size_t size) {
  size_t count = 2 * size;
  while (atl::EncodedSize(codec, count) > size) --count;
  return count;
}

bool Same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.empty() || std::memcmp(a.data(), b.data(), 4 * a.size()) == 0;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0 || size > 1 << 16) return 0;
  const Codec codec = atl::kAllCodecs[data[0] % std::size(atl::kAllCodecs)];
  const size_t count = CountIn(codec, size - 1);
  const size_t bytes = atl::EncodedSize(codec, count);
  std::vector<float> decoded(count), added(count, 1.0f);
  std::vector<uint8_t> encoded(bytes), again(bytes);
  atl::ForceSimd(atl::Simd::kPlain);
  atl::Decode(codec, data + 1, decoded);
  atl::DecodeAdd(codec, data + 1, added);
  atl::Encode(codec, decoded, encoded.data());
  for (const atl::Simd level : atl::kAllSimd) {
    if (!atl::ForceSimd(level)) continue;
    std::vector<float> values(count), sums(count, 1.0f);
    atl::Decode(codec, data + 1, values);
    atl::DecodeAdd(codec, data + 1, sums);
    Require(Same(values, decoded) && Same(sums, added));
    atl::Encode(codec, values, again.data());
    Require(again == encoded);
    atl::Decode(codec, encoded.data(), values);
    atl::Encode(codec, values, again.data());
    Require(again == encoded);
  }
  return 0;
}
