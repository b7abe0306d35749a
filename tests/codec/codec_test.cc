// fp32, bf16 and fp16 against naive references, golden bytes, and what holds for every codec. The
// block codecs have blocks_test.cc.
#include "collectives/codec/codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/random.h"
#include "tests/codec/numbers.h"

namespace atl {
namespace {

using testing::ElementsAre;

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

// Counts the number in steps of its exponent's last place, then writes exponent and count together.
uint16_t NaiveFp16(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double size = std::fabs(static_cast<double>(value));
  if (size >= 65520) return sign | 0x7C00;
  const int exponent = size < 0x1p-14 ? -14 : std::ilogb(size);
  const int steps = static_cast<int>(std::nearbyint(std::ldexp(size, 10 - exponent)));
  return static_cast<uint16_t>(sign | ((exponent + 15) * 1024 + steps - 1024));
}

uint16_t EncodeOne(float value, Codec codec = Codec::kBf16) {
  uint16_t bits;
  Encode(codec, std::span<const float>(&value, 1), reinterpret_cast<uint8_t*>(&bits));
  return bits;
}

float DecodeOne(uint16_t bits, Codec codec) {
  float value;
  Decode(codec, reinterpret_cast<const uint8_t*>(&bits), std::span<float>(&value, 1));
  return value;
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

TEST(Codec, GoldenBytesOfFp16) {
  const std::vector<float> values = {1.0f, -2.5f, 3.14159274f, 0.0f, -0.0f, 65504, 65520, 0x1p-24f};
  EXPECT_THAT(Encoded(Codec::kFp16, values),
              ElementsAre(0x00, 0x3C, 0x00, 0xC1, 0x48, 0x42, 0x00, 0x00, 0x00, 0x80, 0xFF, 0x7B,
                          0x00, 0x7C, 0x01, 0x00));
}

TEST(Codec, Fp16RoundsLikeTheReferenceForEveryUpperHalfAndTheTellingLowerHalves) {
  for (uint32_t upper = 0; upper < 0x10000; ++upper) {
    for (const uint32_t lower :
         {0x0000u, 0x0001u, 0x0FFFu, 0x1000u, 0x1001u, 0x3000u, 0x8000u, 0xF000u, 0xFFFFu}) {
      const float value = FromBits(upper << 16 | lower);
      if (std::isnan(value)) {
        const uint16_t nan = EncodeOne(value, Codec::kFp16);
        ASSERT_EQ(nan, (upper & 0x8000) | 0x7E00 | (std::bit_cast<uint32_t>(value) >> 13 & 0x3FF));
      } else {
        ASSERT_EQ(EncodeOne(value, Codec::kFp16), NaiveFp16(value)) << std::hexfloat << value;
      }
    }
  }
}

TEST(Codec, EveryFp16PatternComesBackAsItWas) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = DecodeOne(static_cast<uint16_t>(bits), Codec::kFp16);
    const uint32_t expected = std::isnan(value) ? bits | 0x200 : bits;
    ASSERT_EQ(EncodeOne(value, Codec::kFp16), expected);
    const double steps = (bits & 0x3FF) + ((bits & 0x7C00) == 0 ? 0 : 1024);
    const int exponent = std::max<int>(1, bits >> 10 & 31) - 25;
    if ((bits & 0x7C00) != 0x7C00) {
      const double size = std::ldexp(steps, exponent);
      ASSERT_EQ(static_cast<double>(value), bits < 0x8000 ? size : -size) << bits;
    }
  }
}

TEST(Codec, BytesComeOutAgainWhenWhatTheyDecodeToIsEncoded) {
  for (const Codec codec : kAllCodecs) {
    ASSERT_TRUE(IsIdempotent(codec));
    for (const Spread spread : kAllSpreads) {
      for (uint64_t seed = 0; seed < 50; ++seed) {
        std::vector<float> values = Numbers(spread, 777, seed);
        if (seed % 2 == 1) values[seed] = SpecialNumbers()[seed % SpecialNumbers().size()];
        const std::vector<uint8_t> bytes = Encoded(codec, values);
        ASSERT_EQ(Encoded(codec, Decoded(codec, bytes, values.size())), bytes)
            << CodecName(codec) << " spread " << static_cast<int>(spread) << " seed " << seed;
      }
    }
  }
}

TEST(Codec, ASumThatIsNoNumberIsTheSameQuietNanEverywhere) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> in = {infinity, FromBits(0xFFC12345u), 1.0f, FromBits(0x7F800001u)};
  std::vector<float> out = {-infinity, 1.0f, FromBits(0xFFC00001u), FromBits(0xFFFFFFFFu)};
  std::vector<float> decoded = out;
  Add(in, out);
  DecodeAdd(Codec::kFp32, Encoded(Codec::kFp32, in).data(), decoded);
  for (size_t i = 0; i < in.size(); ++i) {
    EXPECT_EQ(std::bit_cast<uint32_t>(out[i]), 0x7FC00000u) << i;
    EXPECT_EQ(std::bit_cast<uint32_t>(decoded[i]), 0x7FC00000u) << i;
  }
}

TEST(Codec, KnowsItsOwnNumbersAndNamesOnly) {
  for (const Codec codec : kAllCodecs) {
    EXPECT_TRUE(IsKnownCodec(static_cast<uint8_t>(codec)));
    EXPECT_EQ(CodecNamed(CodecName(codec)), codec);
    EXPECT_EQ(256 % BlockElements(codec), 0);
  }
  EXPECT_FALSE(IsKnownCodec(0));
  EXPECT_FALSE(IsKnownCodec(6));
  EXPECT_FALSE(CodecNamed("int5").has_value());
  EXPECT_STREQ(CodecName(Codec::kBf16), "bf16");
}

}  // namespace
}  // namespace atl
