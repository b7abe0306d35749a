// A digest does not depend on how a vector is cut, and feels every change.
#include "base/digest.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "base/random.h"

namespace atl {
namespace {

constexpr int64_t kBlocks = 24;
constexpr int64_t kCount = kBlocks * kDigestBlock;

std::vector<float> Values() {
  std::vector<float> values(kCount);
  const CounterRandom random(1);
  for (int64_t i = 0; i < kCount; ++i) values[i] = static_cast<float>(random.Normal(i));
  return values;
}

Digest Whole(const std::vector<float>& values, uint64_t domain = 0) {
  return DigestOfSlice(values.data(), 0, static_cast<int64_t>(values.size()), domain);
}

TEST(Digest, IsTheSameHoweverTheVectorIsCutAndInWhateverOrderThePartsAreAdded) {
  const std::vector<float> values = Values();
  for (int64_t parts = 1; parts <= kBlocks; ++parts) {
    Digest sum;
    for (int64_t part = parts - 1; part >= 0; --part) {
      const int64_t begin = kBlocks * part / parts * kDigestBlock;
      const int64_t end = kBlocks * (part + 1) / parts * kDigestBlock;
      sum.Add(DigestOfSlice(values.data() + begin, begin, end - begin, 0));
    }
    EXPECT_EQ(sum, Whole(values)) << parts << " parts";
  }
}

TEST(Digest, SeesEverySingleBit) {
  std::vector<float> values = Values();
  const Digest before = Whole(values);
  for (int64_t i = 0; i < kCount; i += 97) {
    auto* bits = reinterpret_cast<unsigned char*>(&values[i]);
    for (int bit = 0; bit < 32; bit += 5) {
      bits[bit / 8] ^= 1 << bit % 8;
      EXPECT_NE(Whole(values), before) << "element " << i << " bit " << bit;
      bits[bit / 8] ^= 1 << bit % 8;
    }
  }
  EXPECT_EQ(Whole(values), before);
}

TEST(Digest, SeesBlocksThatHaveChangedPlaces) {
  std::vector<float> values = Values();
  const Digest before = Whole(values);
  std::swap_ranges(values.begin(), values.begin() + kDigestBlock, values.begin() + kDigestBlock);
  EXPECT_NE(Whole(values), before);
}

TEST(Digest, TellsEqualBlocksApartByPlaceAndDomain) {
  const std::vector<float> zeros(kCount);
  EXPECT_NE(DigestOfSlice(zeros.data(), 0, kDigestBlock, 0),
            DigestOfSlice(zeros.data(), kDigestBlock, kDigestBlock, 0));
  EXPECT_NE(Whole(zeros, 0), Whole(zeros, 1));
  EXPECT_NE(Whole(zeros), Whole(std::vector<float>(kCount - kDigestBlock)));
}

TEST(Digest, TellsMinusZeroFromZero) {
  const std::vector<float> zeros(kDigestBlock);
  std::vector<float> minus = zeros;
  minus[17] = -0.0f;
  EXPECT_NE(Whole(zeros), Whole(minus));
}

// Digests are kept in checkpoints and compared between versions: the value is part of the format.
TEST(Digest, OfKnownValuesIsKnown) {
  std::vector<float> values(2 * kDigestBlock);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) * 0.25f;
  EXPECT_EQ(Whole(values, 1).Hex(), "062e390e623f10f22dceaaaa0449465f");
  EXPECT_EQ(Digest().Hex(), std::string(32, '0'));
}

TEST(Digest, GoesToHexAndBack) {
  const Digest digest = Whole(Values());
  EXPECT_EQ(*Digest::FromHex(digest.Hex()), digest);
  for (const char* text :
       {"", "12", "0123456789abcdef0123456789abcde", "0123456789abcdef0123456789abcdeg",
        "0123456789abcdef0123456789abcdef0"}) {
    EXPECT_FALSE(Digest::FromHex(text).ok()) << text;
  }
}

}  // namespace
}  // namespace atl
