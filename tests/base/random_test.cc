// Counter-based numbers: golden values and moments.
#include "base/random.h"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <set>
#include <vector>

namespace atl {
namespace {

// Seeds are in job files and samples in ledgers: these numbers may never change.
TEST(CounterRandom, GivesTheNumbersOfSplitMix64) {
  // The first outputs of the published generator for seed 1234567.
  const CounterRandom random(1234567);
  EXPECT_EQ(random.Bits(0), 6457827717110365317u);
  EXPECT_EQ(random.Bits(1), 3203168211198807973u);
  EXPECT_EQ(random.Bits(2), 9817491932198370423u);
  EXPECT_EQ(random.Bits(3), 4593380528125082431u);
  EXPECT_EQ(random.Bits(4), 16408922859458223821u);
}

TEST(CounterRandom, HasGoldenSeedsUniformsAndNormals) {
  EXPECT_EQ(DeriveSeed(1, "init"), 5120076920629951593u);
  EXPECT_EQ(DeriveSeed(1, "init:model.norm.weight"), 5085644756499123710u);
  EXPECT_EQ(DeriveSeed(0, ""), 9464877524578443653u);
  const CounterRandom random(42);
  EXPECT_EQ(random.Uniform(0), 0x1.7bae644c5fd6dp-1);
  EXPECT_NEAR(random.Normal(0), 0.88224890622226881, 1e-15);
}

TEST(CounterRandom, IsAPureFunctionOfSeedAndIndex) {
  const CounterRandom random(5);
  const uint64_t late = random.Bits(1000000);
  random.Bits(3);
  EXPECT_EQ(random.Bits(1000000), late);
  EXPECT_EQ(CounterRandom(5).Bits(1000000), late);
  EXPECT_NE(CounterRandom(6).Bits(1000000), late);
}

TEST(CounterRandom, UniformFillsTheUnitIntervalEvenly) {
  constexpr int kSamples = 200000, kBins = 16;
  const CounterRandom random(3);
  std::array<int, kBins> bins = {};
  double sum = 0;
  for (int i = 0; i < kSamples; ++i) {
    const double value = random.Uniform(i);
    ASSERT_GE(value, 0);
    ASSERT_LT(value, 1);
    ++bins[static_cast<int>(value * kBins)];
    sum += value;
  }
  EXPECT_NEAR(sum / kSamples, 0.5, 0.003);
  for (const int count : bins)
    EXPECT_NEAR(count, kSamples / kBins, 5 * std::sqrt(kSamples / kBins));
}

TEST(CounterRandom, NormalHasTheMomentsOfANormal) {
  constexpr int kSamples = 400000;
  const CounterRandom random(4);
  double m1 = 0, m2 = 0, m3 = 0, m4 = 0, neighbours = 0, last = 0;
  for (int i = 0; i < kSamples; ++i) {
    const double x = random.Normal(i);
    ASSERT_TRUE(std::isfinite(x));
    m1 += x, m2 += x * x, m3 += x * x * x, m4 += x * x * x * x;
    neighbours += x * last;
    last = x;
  }
  EXPECT_NEAR(m1 / kSamples, 0, 0.008);
  EXPECT_NEAR(m2 / kSamples, 1, 0.012);
  EXPECT_NEAR(m3 / kSamples, 0, 0.03);
  EXPECT_NEAR(m4 / kSamples, 3, 0.08);
  EXPECT_NEAR(neighbours / kSamples, 0, 0.008);
}

TEST(Mix64, ChangesHalfOfTheBitsWhenOneChanges) {
  double flipped = 0;
  int cases = 0;
  for (uint64_t x = 1; x < 2000; x += 37) {
    for (int bit = 0; bit < 64; ++bit) {
      flipped += std::popcount(Mix64(x) ^ Mix64(x ^ (uint64_t{1} << bit)));
      ++cases;
    }
  }
  EXPECT_NEAR(flipped / cases, 32, 0.3);
}

TEST(DeriveSeed, DiffersByPurposeAndSeed) {
  std::set<uint64_t> seeds;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    for (const char* purpose : {"", "a", "b", "ab", "ba", "data:epoch:1", "data:epoch:2"}) {
      seeds.insert(DeriveSeed(seed, purpose));
    }
  }
  EXPECT_EQ(seeds.size(), 50u * 7);
}

TEST(SystemRandom, FillsAllBytesAndDoesNotRepeat) {
  std::array<unsigned char, 64> first = {}, second = {};
  FillWithSystemRandom(first.data(), first.size());
  FillWithSystemRandom(second.data(), second.size());
  EXPECT_NE(first, second);
  EXPECT_GT(std::set<unsigned char>(first.begin(), first.end()).size(), 16u);
}

}  // namespace
}  // namespace atl
