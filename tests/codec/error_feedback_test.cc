// Error feedback keeps the total of what was decoded near the total of the values, for ever;
// without it the totals part.
#include "collectives/codec/error_feedback.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "tests/codec/numbers.h"

namespace atl {
namespace {

constexpr int kRounds = 1000;
constexpr size_t kElements = 512 + 37;

// A steady drift, as of a weight that is learned, and noise around it.
std::vector<float> ValuesOfRound(int round) {
  const CounterRandom drift(1);
  const CounterRandom noise(2);
  std::vector<float> values(kElements);
  for (size_t i = 0; i < kElements; ++i) {
    values[i] = static_cast<float>(
        drift.Normal(i) + 0.01 * noise.Normal(static_cast<uint64_t>(round) * kElements + i));
  }
  return values;
}

struct Totals {
  double worst = 0;    // the largest difference of an element's totals, after any round
  double largest = 0;  // value of any round
};

Totals TotalsOf(Codec codec, bool feedback) {
  std::vector<float> residual(kElements, 0.0f);
  std::vector<double> difference(kElements, 0.0);
  std::vector<uint8_t> bytes(EncodedSize(codec, kElements));
  Totals totals;
  for (int round = 0; round < kRounds; ++round) {
    const std::vector<float> values = ValuesOfRound(round);
    if (feedback) {
      EncodeWithFeedback(codec, values, residual, bytes.data());
    } else {
      Encode(codec, values, bytes.data());
    }
    const std::vector<float> decoded = Decoded(codec, bytes, kElements);
    for (size_t i = 0; i < kElements; ++i) {
      difference[i] += static_cast<double>(decoded[i]) - static_cast<double>(values[i]);
      totals.worst = std::max(totals.worst, std::fabs(difference[i]));
      totals.largest = std::max(totals.largest, static_cast<double>(std::fabs(values[i])));
    }
  }
  return totals;
}

// Of the residual over the largest value that a block has held (error_feedback.h), and what the
// rounding of value + residual adds.
double Bound(double inverse, double largest) {
  return largest / inverse + kRounds * 0x1p-24 * 1.1 * largest;
}

TEST(ErrorFeedback, TotalsOfAThousandRoundsStayWithinTheBoundInInt8AndInt4) {
  const Totals int8 = TotalsOf(Codec::kInt8, true);
  EXPECT_LE(int8.worst, Bound(252, int8.largest));
  const Totals int4 = TotalsOf(Codec::kInt4, true);
  EXPECT_LE(int4.worst, Bound(12.9, int4.largest));
}

TEST(ErrorFeedback, WithoutItTheTotalsOfInt4PartAHundredTimesFurther) {
  const Totals without = TotalsOf(Codec::kInt4, false);
  EXPECT_GT(without.worst, 100 * Bound(12.9, without.largest));
}

TEST(ErrorFeedback, BytesAreThoseOfTheSumAndTheResidualIsExactlyWhatTheyLack) {
  for (const Codec codec : kAllCodecs) {
    const std::vector<float> values = Numbers(Spread::kNormal, 3000, 4);
    const std::vector<float> before = Numbers(Spread::kNormal, 3000, 5);
    std::vector<float> sums(values.size());
    for (size_t i = 0; i < values.size(); ++i) sums[i] = values[i] + before[i];
    std::vector<float> residual = before;
    std::vector<uint8_t> bytes(EncodedSize(codec, values.size()));
    EncodeWithFeedback(codec, values, residual, bytes.data());
    EXPECT_EQ(bytes, Encoded(codec, sums)) << CodecName(codec);
    const std::vector<float> decoded = Decoded(codec, bytes, values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(static_cast<double>(decoded[i]) + static_cast<double>(residual[i]),
                static_cast<double>(sums[i]))
          << CodecName(codec) << " " << i;
    }
  }
}

TEST(ErrorFeedback, APartThatBeginsOnTheGridIsAsGoodAsTheWhole) {
  for (const Codec codec : kAllCodecs) {
    const std::vector<float> values = Numbers(Spread::kNormal, 5000, 6);
    std::vector<float> whole(values.size()), parts(values.size());
    std::vector<uint8_t> bytes(EncodedSize(codec, values.size()));
    EncodeWithFeedback(codec, values, whole, bytes.data());
    for (size_t begin = 0; begin < values.size(); begin += 768) {
      const size_t count = std::min<size_t>(768, values.size() - begin);
      EncodeWithFeedback(codec, {values.data() + begin, count}, {parts.data() + begin, count},
                         bytes.data());
    }
    EXPECT_TRUE(SameBits(whole, parts)) << CodecName(codec);
  }
}

TEST(ErrorFeedback, WhatIsNoNumberGoesOutOnceAndLeavesNoResidual) {
  for (const Codec codec : kAllCodecs) {
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
      std::vector<float> residual(100, 0.25f);
      std::vector<float> values = Numbers(Spread::kNormal, 100, 7);
      values[3] = bad;
      std::vector<uint8_t> bytes(EncodedSize(codec, values.size()));
      EncodeWithFeedback(codec, values, residual, bytes.data());
      EXPECT_FALSE(std::isfinite(Decoded(codec, bytes, values.size())[3]));
      EXPECT_EQ(residual[3], 0.0f);
      for (const float left : residual) EXPECT_TRUE(std::isfinite(left));
      values[3] = 1.0f;
      EncodeWithFeedback(codec, values, residual, bytes.data());
      for (const float value : Decoded(codec, bytes, values.size())) {
        EXPECT_TRUE(std::isfinite(value));
      }
    }
  }
}

}  // namespace
}  // namespace atl
