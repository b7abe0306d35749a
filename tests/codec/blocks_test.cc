// The block codecs against a naive reference, their error bounds, what they do with what is no
// number, and golden bytes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "tests/codec/numbers.h"

namespace atl {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr uint32_t kQuietNan = 0x7FC00000u;

struct BlockRules {
  Codec codec;
  size_t block;
  int largest;     // multiple
  double inverse;  // an error is at most the block's largest value over this
};

constexpr BlockRules kInt8 = {Codec::kInt8, 128, 127, 253};
constexpr BlockRules kInt4 = {Codec::kInt4, 64, 7, 13.9};

float LargestOf(std::span<const float> values) {
  float largest = 0;
  for (const float value : values) largest = std::max(largest, std::fabs(value));
  return largest;
}

bool AllFinite(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(),
                     [](float value) { return std::isfinite(value); });
}

// The nearest number of 8 significant bits, ties to even, of a positive number.
float NaiveScale(float exact) {
  int exponent;
  const double part = std::frexp(static_cast<double>(exact), &exponent);
  const double rounded = std::ldexp(std::nearbyint(std::ldexp(part, 8)), exponent - 8);
  return static_cast<float>(std::max(rounded, 0x1p-126));
}

Bytes NaiveBlock(const BlockRules& rules, std::span<const float> values) {
  std::vector<int> multiples(values.size());
  uint32_t scale_bits = kQuietNan;
  if (AllFinite(values)) {
    const float scale = NaiveScale(LargestOf(values) / static_cast<float>(rules.largest));
    scale_bits = std::bit_cast<uint32_t>(scale);
    const float inverse = 1.0f / scale;
    for (size_t i = 0; i < values.size(); ++i) {
      multiples[i] = static_cast<int>(std::nearbyint(static_cast<double>(values[i] * inverse)));
    }
  }
  Bytes bytes = {static_cast<uint8_t>(scale_bits >> 16), static_cast<uint8_t>(scale_bits >> 24)};
  if (rules.codec == Codec::kInt8) {
    bytes.insert(bytes.end(), multiples.begin(), multiples.end());
    return bytes;
  }
  multiples.resize((values.size() + 1) / 2 * 2);
  for (size_t i = 0; i < multiples.size(); i += 2) {
    bytes.push_back(static_cast<uint8_t>((multiples[i] & 15) | (multiples[i + 1] & 15) << 4));
  }
  return bytes;
}

Bytes NaiveEncoded(const BlockRules& rules, std::span<const float> values) {
  Bytes bytes;
  for (size_t begin = 0; begin < values.size(); begin += rules.block) {
    const Bytes block =
        NaiveBlock(rules, values.subspan(begin, std::min(rules.block, values.size() - begin)));
    bytes.insert(bytes.end(), block.begin(), block.end());
  }
  return bytes;
}

class Blocks : public testing::TestWithParam<BlockRules> {};

std::string RulesName(const testing::TestParamInfo<BlockRules>& info) {
  return CodecName(info.param.codec);
}

INSTANTIATE_TEST_SUITE_P(Codecs, Blocks, testing::Values(kInt8, kInt4), RulesName);

TEST(BlockCodec, GoldenBytesOfInt8) {
  EXPECT_EQ(Encoded(Codec::kInt8, std::vector<float>{1.0f, -2.5f, 3.14159274f}),
            (Bytes{0xCB, 0x3C, 0x28, 0x9B, 0x7F}));
  EXPECT_EQ(Encoded(Codec::kInt8, std::vector<float>{127.0f, 0.5f, 1.5f, -2.5f, -0.0f}),
            (Bytes{0x80, 0x3F, 0x7F, 0x00, 0x02, 0xFE, 0x00}));
  EXPECT_EQ(Encoded(Codec::kInt8, std::vector<float>{0.0f, 0.0f}), (Bytes{0x80, 0x00, 0, 0}));
  EXPECT_EQ(Encoded(Codec::kInt8, std::vector<float>{1.0f, kInfinity, 2.0f}),
            (Bytes{0xC0, 0x7F, 0, 0, 0}));
}

TEST(BlockCodec, GoldenBytesOfInt4) {
  EXPECT_EQ(Encoded(Codec::kInt4, std::vector<float>{1.0f, -2.5f, 3.14159274f}),
            (Bytes{0xE6, 0x3E, 0xA2, 0x07}));
  EXPECT_EQ(Encoded(Codec::kInt4, std::vector<float>{7.0f, 0.5f, 1.5f, -2.5f, -7.0f}),
            (Bytes{0x80, 0x3F, 0x07, 0xE2, 0x09}));
  EXPECT_EQ(Encoded(Codec::kInt4, std::vector<float>{0.0f, 0.0f}), (Bytes{0x80, 0x00, 0}));
  EXPECT_EQ(Encoded(Codec::kInt4, std::vector<float>{1.0f, kInfinity, 2.0f}),
            (Bytes{0xC0, 0x7F, 0, 0}));
}

TEST(BlockCodec, SizesCountAScaleForEachBlockEvenAShortOne) {
  EXPECT_EQ(EncodedSize(Codec::kInt8, 0), 0);
  EXPECT_EQ(EncodedSize(Codec::kInt8, 1), 3);
  EXPECT_EQ(EncodedSize(Codec::kInt8, 128), 130);
  EXPECT_EQ(EncodedSize(Codec::kInt8, 129), 133);
  EXPECT_EQ(EncodedSize(Codec::kInt8, 256), 260);
  EXPECT_EQ(EncodedSize(Codec::kInt4, 0), 0);
  EXPECT_EQ(EncodedSize(Codec::kInt4, 1), 3);
  EXPECT_EQ(EncodedSize(Codec::kInt4, 2), 3);
  EXPECT_EQ(EncodedSize(Codec::kInt4, 64), 34);
  EXPECT_EQ(EncodedSize(Codec::kInt4, 67), 38);
  EXPECT_EQ(EncodedSize(Codec::kInt4, 256), 136);
}

TEST_P(Blocks, EncodeLikeTheReferenceWhateverTheNumbersAndTheLength) {
  const BlockRules& rules = GetParam();
  for (const Spread spread : kAllSpreads) {
    for (const size_t count : {1, 2, 3, 63, 64, 65, 127, 128, 129, 300, 4096}) {
      for (uint64_t seed = 0; seed < 20; ++seed) {
        const std::vector<float> values = Numbers(spread, count, seed);
        ASSERT_EQ(Encoded(rules.codec, values), NaiveEncoded(rules, values))
            << "spread " << static_cast<int>(spread) << " count " << count << " seed " << seed;
      }
    }
  }
}

TEST_P(Blocks, EveryErrorIsWithinTheBound) {
  const BlockRules& rules = GetParam();
  double worst = 0;
  for (const Spread spread : kAllSpreads) {
    for (uint64_t seed = 0; seed < 200; ++seed) {
      const std::vector<float> values = Numbers(spread, 1000, seed);
      const std::vector<float> decoded =
          Decoded(rules.codec, Encoded(rules.codec, values), values.size());
      for (size_t begin = 0; begin < values.size(); begin += rules.block) {
        const size_t count = std::min(rules.block, values.size() - begin);
        const std::span<const float> block(values.data() + begin, count);
        if (!AllFinite(block)) continue;
        const double largest = LargestOf(block);
        for (size_t i = 0; i < count; ++i) {
          ASSERT_TRUE(std::isfinite(decoded[begin + i]));
          const double error =
              std::fabs(static_cast<double>(decoded[begin + i]) - static_cast<double>(block[i]));
          ASSERT_LE(error, std::max(largest / rules.inverse, 0x1p-127));
          if (largest > 0x1p-100) worst = std::max(worst, error / largest * rules.inverse);
        }
      }
    }
  }
  EXPECT_GT(worst, 0.9) << "the bound says much less than it could";
}

TEST_P(Blocks, TheLargestNumberGetsTheLargestMultipleForEveryScale) {
  // So no multiple is ever cut off, and the block that was decoded gets the same scale again.
  const BlockRules& rules = GetParam();
  for (uint32_t upper = 0x0800; upper < 0x7F80; ++upper) {
    for (const uint32_t lower : {0x0000u, 0x5555u, 0x8000u, 0xFFFFu}) {
      const std::vector<float> values = {FromBits(upper << 16 | lower)};
      const Bytes bytes = Encoded(rules.codec, values);
      ASSERT_EQ(bytes[2], rules.largest) << std::hex << upper << " " << lower;
      const std::vector<float> decoded = Decoded(rules.codec, bytes, 1);
      ASSERT_TRUE(std::isfinite(decoded[0]));
      ASSERT_EQ(Encoded(rules.codec, decoded), bytes) << std::hex << upper << " " << lower;
    }
  }
}

TEST_P(Blocks, OneThatIsNoNumberMakesItsBlockNanAndNoOther) {
  const BlockRules& rules = GetParam();
  for (const float bad : {kInfinity, -kInfinity, FromBits(0x7F800001u), FromBits(0xFFC00000u)}) {
    for (size_t place = 0; place < 3 * rules.block; place += 7) {
      std::vector<float> values = Numbers(Spread::kNormal, 3 * rules.block + 5, place);
      values[place] = bad;
      const std::vector<float> decoded =
          Decoded(rules.codec, Encoded(rules.codec, values), values.size());
      for (size_t i = 0; i < values.size(); ++i) {
        if (i / rules.block == place / rules.block) {
          ASSERT_EQ(std::bit_cast<uint32_t>(decoded[i]), kQuietNan);
        } else {
          ASSERT_TRUE(std::isfinite(decoded[i]));
        }
      }
    }
  }
}

TEST_P(Blocks, ZerosAndWhatIsSmallerThanHalfTheSmallestScaleBecomeZero) {
  const BlockRules& rules = GetParam();
  const std::vector<float> values = {0.0f, -0.0f, 0x1p-127f, -0x1p-128f, 0x1p-149f};
  for (const float value : Decoded(rules.codec, Encoded(rules.codec, values), values.size())) {
    EXPECT_EQ(std::bit_cast<uint32_t>(value), 0u);
  }
}

TEST_P(Blocks, RangesThatBeginOnTheGridGiveTheSameBytesOnTheirOwn) {
  const BlockRules& rules = GetParam();
  const std::vector<float> values = Numbers(Spread::kHugeRange, 2000, 3);
  const Bytes whole = Encoded(rules.codec, values);
  for (size_t begin = 0; begin < values.size(); begin += 256) {
    const std::span<const float> rest(values.data() + begin, values.size() - begin);
    const Bytes part = Encoded(rules.codec, rest);
    ASSERT_EQ(part, Bytes(whole.begin() + EncodedSize(rules.codec, begin), whole.end()));
  }
}

TEST_P(Blocks, HostileScalesDecodeToSomethingWithoutHarm) {
  const BlockRules& rules = GetParam();
  for (uint32_t scale = 0; scale < 0x10000; ++scale) {
    Bytes bytes(EncodedSize(rules.codec, rules.block), 0x81);
    bytes[0] = static_cast<uint8_t>(scale);
    bytes[1] = static_cast<uint8_t>(scale >> 8);
    const std::vector<float> decoded = Decoded(rules.codec, bytes, rules.block);
    const bool finite = (scale & 0x7F80) != 0x7F80;
    ASSERT_EQ(std::bit_cast<uint32_t>(decoded[0]) == kQuietNan, !finite) << scale;
  }
}

}  // namespace
}  // namespace atl
