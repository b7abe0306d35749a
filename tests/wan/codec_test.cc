// The codecs against a naive reference in integer arithmetic, and golden bytes.
#include "collectives/codec/codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/random.h"

namespace atl {
namespace {

using testing::ElementsAre;

float FromBits(uint32_t bits) { return std::bit_cast<float>(bits); }

// The nearest of the two bf16 values around a finite number, by distance, ties to the even one.
uint16_t NaiveBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t below = bits & 0xFFFF0000u;  // towards zero
  const uint32_t above = below + 0x10000u;    // away from zero; infinity past the largest
  const double exact = std::fabs(static_cast<double>(value));
  const double low = std::fabs(static_cast<double>(FromBits(below)));
  // Past the largest finite value stands what would be the next one, not infinity.
  const double high = std::isinf(FromBits(above)) ? std::ldexp(1.0, 128)
                                                  : std::fabs(static_cast<double>(FromBits(above)));
  if (exact - low != high - exact) return (exact - low < high - exact ? below : above) >> 16;
  return ((below >> 16) & 1) == 0 ? below >> 16 : above >> 16;
}

uint16_t EncodeOne(float value) {
  uint16_t bits;
  Encode(Codec::kBf16, std::span<const float>(&value, 1), reinterpret_cast<uint8_t*>(&bits));
  return bits;
}

TEST(Codec, GoldenBytesOfFp32AndBf16) {
  const std::vector<float> values = {1.0f, -2.5f, 3.14159274f,
                                     0.0f, -0.0f, std::numeric_limits<float>::infinity()};
  std::vector<uint8_t> fp32(EncodedSize(Codec::kFp32, values.size()));
  Encode(Codec::kFp32, values, fp32.data());
  EXPECT_THAT(fp32,
              ElementsAre(0x00, 0x00, 0x80, 0x3F, 0x00, 0x00, 0x20, 0xC0, 0xDB, 0x0F, 0x49, 0x40,
                          0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x80, 0x00, 0x00, 0x80, 0x7F));
  std::vector<uint8_t> bf16(EncodedSize(Codec::kBf16, values.size()));
  Encode(Codec::kBf16, values, bf16.data());
  EXPECT_THAT(bf16,
              ElementsAre(0x80, 0x3F, 0x20, 0xC0, 0x49, 0x40, 0x00, 0x00, 0x00, 0x80, 0x80, 0x7F));
}

TEST(Codec, Bf16RoundsToNearestEvenForEveryUpperHalfAndTheTellingLowerHalves) {
  for (uint32_t upper = 0; upper < 0x10000; ++upper) {
    for (const uint32_t lower : {0x0000u, 0x0001u, 0x7FFFu, 0x8000u, 0x8001u, 0xFFFFu}) {
      const float value = FromBits(upper << 16 | lower);
      if (std::isnan(value)) {
        ASSERT_TRUE(std::isnan(FromBits(static_cast<uint32_t>(EncodeOne(value)) << 16)));
      } else if (std::isinf(value)) {
        ASSERT_EQ(EncodeOne(value), upper);
      } else {
        ASSERT_EQ(EncodeOne(value), NaiveBf16(value)) << std::hex << upper << " " << lower;
      }
    }
  }
}

TEST(Codec, Bf16RoundsRandomBitsLikeTheReference) {
  const CounterRandom random(7);
  for (uint64_t i = 0; i < 300000; ++i) {
    const float value = FromBits(static_cast<uint32_t>(random.Bits(i)));
    if (!std::isfinite(value)) continue;
    ASSERT_EQ(EncodeOne(value), NaiveBf16(value));
  }
}

TEST(Codec, EveryBf16PatternComesBackAsItWas) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const uint8_t in[2] = {static_cast<uint8_t>(bits), static_cast<uint8_t>(bits >> 8)};
    float value;
    Decode(Codec::kBf16, in, std::span<float>(&value, 1));
    // A signalling NaN becomes quiet; everything else is exact.
    const uint32_t expected = std::isnan(value) ? bits | 0x40 : bits;
    ASSERT_EQ(EncodeOne(value), expected);
  }
}

TEST(Codec, InfinityStaysAndTheLargestFiniteValueRoundsToIt) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(EncodeOne(infinity), 0x7F80);
  EXPECT_EQ(EncodeOne(-infinity), 0xFF80);
  EXPECT_EQ(EncodeOne(std::numeric_limits<float>::max()), 0x7F80);
}

TEST(Codec, UnalignedBytesOfAnyLengthDecodeAndAdd) {
  const CounterRandom random(11);
  for (const Codec codec : {Codec::kFp32, Codec::kBf16}) {
    for (const size_t count : {0, 1, 3, 8, 31, 100, 1027}) {
      std::vector<float> values(count), sums(count), decoded(count);
      for (size_t i = 0; i < count; ++i) {
        values[i] = static_cast<float>(random.Normal(i));
        sums[i] = static_cast<float>(random.Normal(i + 5000));
      }
      for (size_t offset = 0; offset < 4; ++offset) {
        std::vector<uint8_t> bytes(EncodedSize(codec, count) + offset);
        Encode(codec, values, bytes.data() + offset);
        Decode(codec, bytes.data() + offset, decoded);
        std::vector<float> added = sums;
        DecodeAdd(codec, bytes.data() + offset, added);
        for (size_t i = 0; i < count; ++i) {
          const float expected = codec == Codec::kFp32
                                     ? values[i]
                                     : FromBits(static_cast<uint32_t>(NaiveBf16(values[i])) << 16);
          ASSERT_EQ(decoded[i], expected);
          ASSERT_EQ(added[i], sums[i] + expected);
        }
      }
    }
  }
}

TEST(Codec, KnowsItsOwnNumbersOnly) {
  EXPECT_TRUE(IsKnownCodec(1));
  EXPECT_TRUE(IsKnownCodec(2));
  EXPECT_FALSE(IsKnownCodec(0));
  EXPECT_FALSE(IsKnownCodec(3));
  EXPECT_STREQ(CodecName(Codec::kBf16), "bf16");
}

}  // namespace
}  // namespace atl
