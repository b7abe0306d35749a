// The codecs as plain loops over single elements, which the compiler turns into vectors.
//
// Bytes are read and written through memcpy, so that the wire side may have any alignment.
// Invariant: Encode(Decode(bytes)) gives the same bytes for every codec, so that a result that was
// rounded once may be encoded again for each receiver. Thread rule: pure functions.
#include "collectives/codec/codec.h"

#include <bit>
#include <cstring>

namespace atl {
namespace {

static_assert(std::endian::native == std::endian::little,
              "wire bytes are little-endian and copied as they are");

constexpr uint32_t kSignMask = 0x80000000u;
constexpr uint32_t kInfinity = 0x7F800000u;
constexpr uint16_t kQuietBit = 0x0040u;

// Round to nearest, ties to even: adding half of the dropped part (less one where the kept part is
// even) carries into the kept part exactly where it must; infinity comes out right by itself. A NaN
// could be carried or cut into an infinity: it keeps its upper bits and becomes quiet.
inline uint16_t ToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t quiet = (bits >> 16) | kQuietBit;
  return static_cast<uint16_t>((bits & ~kSignMask) > kInfinity ? quiet : rounded);
}

inline float FromBf16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

inline uint16_t LoadBf16(const uint8_t* in, size_t i) {
  uint16_t bits;
  std::memcpy(&bits, in + 2 * i, sizeof bits);
  return bits;
}

inline float LoadFp32(const uint8_t* in, size_t i) {
  float value;
  std::memcpy(&value, in + 4 * i, sizeof value);
  return value;
}

}  // namespace

bool IsKnownCodec(uint8_t value) {
  return value == static_cast<uint8_t>(Codec::kFp32) || value == static_cast<uint8_t>(Codec::kBf16);
}

const char* CodecName(Codec codec) {
  switch (codec) {
    case Codec::kFp32:
      return "fp32";
    case Codec::kBf16:
      return "bf16";
  }
  return "unknown";
}

size_t EncodedSize(Codec codec, size_t count) {
  return codec == Codec::kBf16 ? 2 * count : 4 * count;
}

void Encode(Codec codec, std::span<const float> in, uint8_t* out) {
  if (in.empty()) return;
  if (codec == Codec::kFp32) {
    std::memcpy(out, in.data(), in.size_bytes());
    return;
  }
  const float* values = in.data();
  const size_t count = in.size();
  for (size_t i = 0; i < count; ++i) {
    const uint16_t bits = ToBf16(values[i]);
    std::memcpy(out + 2 * i, &bits, sizeof bits);
  }
}

void Decode(Codec codec, const uint8_t* in, std::span<float> out) {
  if (out.empty()) return;
  if (codec == Codec::kFp32) {
    std::memcpy(out.data(), in, out.size_bytes());
    return;
  }
  float* values = out.data();
  const size_t count = out.size();
  for (size_t i = 0; i < count; ++i) values[i] = FromBf16(LoadBf16(in, i));
}

void DecodeAdd(Codec codec, const uint8_t* in, std::span<float> out) {
  float* values = out.data();
  const size_t count = out.size();
  if (codec == Codec::kFp32) {
    for (size_t i = 0; i < count; ++i) values[i] += LoadFp32(in, i);
  } else {
    for (size_t i = 0; i < count; ++i) values[i] += FromBf16(LoadBf16(in, i));
  }
}

}  // namespace atl
