// Every level of instructions against the plain one, bit by bit.
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "tests/codec/numbers.h"

namespace atl {
namespace {

using Bytes = std::vector<uint8_t>;

// Puts back the level that was there.
class Forced {
 public:
  explicit Forced(Simd level) : before_(ActiveSimd()) { EXPECT_TRUE(ForceSimd(level)); }
  ~Forced() { ForceSimd(before_); }
  Forced(const Forced&) = delete;
  Forced& operator=(const Forced&) = delete;

 private:
  const Simd before_;
};

template <class Result>
Result With(Simd level, const std::function<Result()>& work) {
  const Forced forced(level);
  return work();
}

std::vector<size_t> Lengths() {
  std::vector<size_t> lengths;
  for (size_t count = 0; count <= 260; ++count) lengths.push_back(count);
  for (const size_t count : {384, 1000, 4096 + 37}) lengths.push_back(count);
  return lengths;
}

class Level : public testing::TestWithParam<Simd> {
 protected:
  void SetUp() override {
    if (!SimdUsable(GetParam())) GTEST_SKIP() << "this processor lacks " << SimdName(GetParam());
  }

  void ExpectSameEncoding(Codec codec, const std::vector<float>& values, size_t offset) {
    const auto encode = [&] {
      Bytes bytes(EncodedSize(codec, values.size()) + offset + 8, 0xEE);
      Encode(codec, values, bytes.data() + offset);
      return bytes;  // with its margins: nothing is written beyond the end
    };
    ASSERT_EQ(With<Bytes>(GetParam(), encode), With<Bytes>(Simd::kPlain, encode))
        << CodecName(codec) << ", " << values.size() << " elements";
  }

  void ExpectSameDecoding(Codec codec, const Bytes& bytes, size_t count, size_t offset,
                          const std::vector<float>& sums) {
    const auto decode = [&] {
      std::vector<float> out(count + 2, 77.0f);
      Decode(codec, bytes.data() + offset, std::span<float>(out.data(), count));
      return out;
    };
    const auto add = [&] {
      std::vector<float> out = sums;
      out.resize(count + 2, 77.0f);
      DecodeAdd(codec, bytes.data() + offset, std::span<float>(out.data(), count));
      return out;
    };
    using Floats = std::vector<float>;
    ASSERT_TRUE(SameBits(With<Floats>(GetParam(), decode), With<Floats>(Simd::kPlain, decode)))
        << CodecName(codec) << ", " << count << " elements";
    ASSERT_TRUE(SameBits(With<Floats>(GetParam(), add), With<Floats>(Simd::kPlain, add)))
        << CodecName(codec) << ", " << count << " elements, added";
  }
};

std::string LevelName(const testing::TestParamInfo<Simd>& info) { return SimdName(info.param); }

INSTANTIATE_TEST_SUITE_P(Codecs, Level, testing::Values(Simd::kAvx2, Simd::kAvx512, Simd::kNeon),
                         LevelName);

TEST_P(Level, EncodesLikePlainWhateverTheNumbersAndTheLength) {
  for (const Codec codec : kAllCodecs) {
    for (const Spread spread : kAllSpreads) {
      for (const size_t count : Lengths()) {
        ExpectSameEncoding(codec, Numbers(spread, count, count), count % 4);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(Level, EncodesLikePlainWithASpecialNumberInEveryPlace) {
  for (const Codec codec : kAllCodecs) {
    for (const float special : SpecialNumbers()) {
      for (size_t place = 0; place < 128; ++place) {
        std::vector<float> values = Numbers(Spread::kNormal, 128, place);
        values[place] = special;
        ExpectSameEncoding(codec, values, 0);
        if (HasFatalFailure()) return;
      }
      ExpectSameEncoding(codec, std::vector<float>(130, special), 1);
    }
  }
}

TEST_P(Level, EncodesLikePlainForEveryUpperHalf) {
  std::vector<float> values(0x10000);
  for (const uint32_t lower : {0x0000u, 0x0001u, 0x0FFFu, 0x1000u, 0x1001u, 0x3000u, 0x7FFFu,
                               0x8000u, 0x8001u, 0xEFFFu, 0xF000u, 0xFFFFu}) {
    for (uint32_t upper = 0; upper < 0x10000; ++upper)
      values[upper] = FromBits(upper << 16 | lower);
    for (const Codec codec : kAllCodecs) ExpectSameEncoding(codec, values, 0);
  }
}

TEST_P(Level, DecodesAndAddsAnyBytesLikePlain) {
  for (const Codec codec : kAllCodecs) {
    for (const size_t count : Lengths()) {
      const CounterRandom random(count);
      const size_t offset = count % 4;
      Bytes any(EncodedSize(codec, count) + offset);
      for (size_t i = 0; i < any.size(); ++i) any[i] = static_cast<uint8_t>(random.Bits(i));
      for (const Spread spread : {Spread::kNormal, Spread::kAnyBits}) {
        const std::vector<float> sums = Numbers(spread, count, count + 1);
        ExpectSameDecoding(codec, any, count, offset, sums);
        const std::vector<float> values = Numbers(Spread::kHugeRange, count, count + 2);
        ExpectSameDecoding(codec, Encoded(codec, values), count, 0, sums);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(Level, DecodesEveryHalfLikePlain) {
  Bytes bytes(2 * 0x10000);
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    bytes[2 * bits] = static_cast<uint8_t>(bits);
    bytes[2 * bits + 1] = static_cast<uint8_t>(bits >> 8);
  }
  const std::vector<float> sums = Numbers(Spread::kHugeRange, 0x10000, 5);
  for (const Codec codec : {Codec::kBf16, Codec::kFp16}) {
    ExpectSameDecoding(codec, bytes, 0x10000, 0, sums);
  }
}

TEST_P(Level, AddsLikePlainWhereSumsAreNoNumbers) {
  for (const size_t count : Lengths()) {
    const std::vector<float> values = Numbers(Spread::kAnyBits, count, count);
    std::vector<float> opposite = values;  // infinities cancel
    for (float& value : opposite) value = -value;
    for (const std::vector<float>& sums : {Numbers(Spread::kAnyBits, count, 9), opposite}) {
      const auto add = [&] {
        std::vector<float> out = sums;
        Add(values, out);
        return out;
      };
      ASSERT_TRUE(SameBits(With<std::vector<float>>(GetParam(), add),
                           With<std::vector<float>>(Simd::kPlain, add)));
    }
  }
}

TEST(Simd, PlainIsAlwaysThereAndForcingWhatIsNotChangesNothing) {
  EXPECT_TRUE(SimdUsable(Simd::kPlain));
  const Simd before = ActiveSimd();
  for (const Simd level : kAllSimd) {
    if (SimdUsable(level)) continue;
    EXPECT_FALSE(ForceSimd(level));
    EXPECT_EQ(ActiveSimd(), before);
  }
  const Forced forced(Simd::kPlain);
  EXPECT_EQ(ActiveSimd(), Simd::kPlain);
}

}  // namespace
}  // namespace atl
