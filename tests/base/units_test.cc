// Quantities as users write them, and back.
#include "base/units.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/random.h"

namespace atl {
namespace {

TEST(Durations, AreReadInEveryUnitAndCombined) {
  EXPECT_DOUBLE_EQ(*ParseDurationSeconds("250ms"), 0.25);
  EXPECT_DOUBLE_EQ(*ParseDurationSeconds("30s"), 30);
  EXPECT_DOUBLE_EQ(*ParseDurationSeconds("5m"), 300);
  EXPECT_DOUBLE_EQ(*ParseDurationSeconds("2h"), 7200);
  EXPECT_DOUBLE_EQ(*ParseDurationSeconds("1d"), 86400);
  EXPECT_DOUBLE_EQ(*ParseDurationSeconds("1h30m"), 5400);
  EXPECT_DOUBLE_EQ(*ParseDurationSeconds("1h 30m"), 5400);
  EXPECT_DOUBLE_EQ(*ParseDurationSeconds("1.5h"), 5400);
  EXPECT_DOUBLE_EQ(*ParseDurationSeconds(" 7us "), 7e-6);
  EXPECT_EQ(*ParseDurationSeconds("0"), 0);
}

TEST(Durations, NeedAUnitAndNoSign) {
  for (const char* text :
       {"", " ", "30", "s", "-1s", "1x", "1h30", "nan s", "inf", "1e400s", "1s!", "1e12s"}) {
    EXPECT_FALSE(ParseDurationSeconds(text).ok()) << text;
  }
}

TEST(Sizes, KnowBinaryAndDecimalUnits) {
  EXPECT_EQ(*ParseSizeBytes("512"), 512);
  EXPECT_EQ(*ParseSizeBytes("64KiB"), 65536);
  EXPECT_EQ(*ParseSizeBytes("64MiB"), 64 << 20);
  EXPECT_EQ(*ParseSizeBytes("2GiB"), int64_t{2} << 30);
  EXPECT_EQ(*ParseSizeBytes("1TiB"), int64_t{1} << 40);
  EXPECT_EQ(*ParseSizeBytes("10kB"), 10000);
  EXPECT_EQ(*ParseSizeBytes("5MB"), 5000000);
  EXPECT_EQ(*ParseSizeBytes("3GB"), 3000000000);
  EXPECT_EQ(*ParseSizeBytes("1.5KiB"), 1536);
}

TEST(Sizes, AreWholeNumbersOfBytes) {
  for (const char* text : {"", "MiB", "1.5", "0.3KiB", "-4", "4 mib", "9e18", "99999999TiB"}) {
    EXPECT_FALSE(ParseSizeBytes(text).ok()) << text;
  }
}

TEST(Counts, TakeSuffixesExponentsAndSeparators) {
  EXPECT_EQ(*ParseCount("100"), 100);
  EXPECT_EQ(*ParseCount("52.4e9"), 52400000000);
  EXPECT_EQ(*ParseCount("1_000_000"), 1000000);
  EXPECT_EQ(*ParseCount("10k"), 10000);
  EXPECT_EQ(*ParseCount("1.5M"), 1500000);
  EXPECT_EQ(*ParseCount("2B"), 2000000000);
  EXPECT_EQ(*ParseCount("3T"), 3000000000000);
}

TEST(Counts, AreWholeAndNotNegative) {
  for (const char* text : {"", "1.5", "-1", "ten", "1e30", "0x10", "1 2"}) {
    EXPECT_FALSE(ParseCount(text).ok()) << text;
  }
}

TEST(Rates, AreDecimalBitsPerSecondInAnyCase) {
  EXPECT_EQ(*ParseRateBitsPerSecond("500kbit"), 500000);
  EXPECT_EQ(*ParseRateBitsPerSecond("100mbit"), 100000000);
  EXPECT_EQ(*ParseRateBitsPerSecond("1gbit"), 1000000000);
  EXPECT_EQ(*ParseRateBitsPerSecond("2.5Gbit"), 2500000000);
  for (const char* text : {"", "100", "1gb", "1gbit/s"}) {
    EXPECT_FALSE(ParseRateBitsPerSecond(text).ok()) << text;
  }
}

TEST(Units, QuoteTheBadValueInTheMessage) {
  EXPECT_THAT(std::string(ParseDurationSeconds("30").status().message()),
              testing::HasSubstr("'30'"));
  EXPECT_THAT(std::string(ParseCount("1_x").status().message()), testing::HasSubstr("'1_x'"));
}

TEST(Units, SurviveAnyBytes) {
  const CounterRandom random(1);
  constexpr char kAlphabet[] = "0123456789.eE+-_ kMiBGTsmhdbit/xn\xff\x00";
  for (uint64_t i = 0; i < 20000; ++i) {
    std::string text;
    for (uint64_t k = 0; k < i % 12; ++k) {
      text += kAlphabet[random.Bits(i * 16 + k) % (sizeof kAlphabet - 1)];
    }
    if (const auto seconds = ParseDurationSeconds(text); seconds.ok()) {
      EXPECT_GE(*seconds, 0) << text;
      EXPECT_LE(*seconds, 1e11) << text;
    }
    for (const auto& value :
         {ParseSizeBytes(text), ParseCount(text), ParseRateBitsPerSecond(text)}) {
      EXPECT_TRUE(!value.ok() || *value >= 0) << text;
    }
  }
}

TEST(Formats, AreThoseThatUsersRead) {
  EXPECT_EQ(FormatDuration(0.045), "45 ms");
  EXPECT_EQ(FormatDuration(12.34), "12.3 s");
  EXPECT_EQ(FormatDuration(184), "3m 04s");
  EXPECT_EQ(FormatDuration(3720), "1h 02m");
  EXPECT_EQ(FormatDuration(2.5 * 86400), "2d 12h");
  EXPECT_EQ(FormatDuration(-1), "unknown");
  EXPECT_EQ(FormatBytes(512), "512 B");
  EXPECT_EQ(FormatBytes(14.2 * (int64_t{1} << 30)), "14.2 GiB");
  EXPECT_EQ(FormatCount(11.0e6), "11.0 M");
  EXPECT_EQ(FormatCount(182000), "182 k");
  EXPECT_EQ(FormatCount(7), "7");
  EXPECT_EQ(FormatRate(2.1e9), "2.10 Gbit/s");
}

}  // namespace
}  // namespace atl
