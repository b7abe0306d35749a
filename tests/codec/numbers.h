// Numbers that codecs must cope with, and bits instead of == for floats, shared by the tests.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "base/random.h"
#include "collectives/codec/codec.h"

namespace atl {

inline float FromBits(uint32_t bits) { return std::bit_cast<float>(bits); }

inline std::vector<uint8_t> Encoded(Codec codec, std::span<const float> values) {
  std::vector<uint8_t> bytes(EncodedSize(codec, values.size()));
  Encode(codec, values, bytes.data());
  return bytes;
}

inline std::vector<float> Decoded(Codec codec, const std::vector<uint8_t>& bytes, size_t count) {
  std::vector<float> values(count);
  Decode(codec, bytes.data(), values);
  return values;
}

inline bool SameBits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0);
}

// Zeros, the ends of every range that a codec knows, and what is no number.
inline const std::vector<float>& SpecialNumbers() {
  using Limits = std::numeric_limits<float>;
  static const auto* const numbers = new std::vector<float>{0.0f,
                                                            -0.0f,
                                                            Limits::denorm_min(),
                                                            -Limits::denorm_min(),
                                                            0x1.fffp-127f,
                                                            0x1p-126f,
                                                            -0x1p-126f,
                                                            0x1p-127f,
                                                            1.0f,
                                                            -1.0f,
                                                            0x1p-14f,
                                                            0x1.ff8p-15f,
                                                            0x1p-24f,
                                                            0x1p-25f,
                                                            0x1.8p-25f,
                                                            65504.0f,
                                                            65519.9f,
                                                            65520.0f,
                                                            -65536.0f,
                                                            Limits::max(),
                                                            Limits::min(),
                                                            Limits::lowest(),
                                                            Limits::infinity(),
                                                            -Limits::infinity(),
                                                            Limits::quiet_NaN(),
                                                            FromBits(0xFFC12345u),
                                                            FromBits(0x7F800001u),
                                                            FromBits(0xFFBFFFFFu)};
  return *numbers;
}

// How the numbers of a test are spread.
enum class Spread { kNormal, kAnyBits, kFiniteBits, kHugeRange, kDenormal, kTies, kEqual };

inline constexpr Spread kAllSpreads[] = {Spread::kNormal,    Spread::kAnyBits,  Spread::kFiniteBits,
                                         Spread::kHugeRange, Spread::kDenormal, Spread::kTies,
                                         Spread::kEqual};

inline std::vector<float> Numbers(Spread spread, size_t count, uint64_t seed) {
  const CounterRandom random(seed);
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) {
    const uint32_t bits = static_cast<uint32_t>(random.Bits(i));
    const float normal = static_cast<float>(random.Normal(i));
    switch (spread) {
      case Spread::kNormal:
        values[i] = normal;
        break;
      case Spread::kAnyBits:
        values[i] = FromBits(bits);
        break;
      case Spread::kFiniteBits:
        values[i] = std::isfinite(FromBits(bits)) ? FromBits(bits) : 1.0f;
        break;
      case Spread::kHugeRange:
        values[i] = std::ldexp(normal, static_cast<int>(bits % 240) - 120);
        break;
      case Spread::kDenormal:
        values[i] = FromBits(bits & 0x80FFFFFFu);  // up to 2^-125
        break;
      case Spread::kTies:  // halves of whole numbers up to 127: ties where the scale is 1
        values[i] = i % 64 == 0 ? 127.0f : static_cast<float>(bits % 507) / 2 - 126.5f;
        break;
      case Spread::kEqual:
        values[i] = static_cast<float>(random.Normal(count));
        break;
    }
  }
  return values;
}

}  // namespace atl
