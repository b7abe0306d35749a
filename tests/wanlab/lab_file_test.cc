// The lab file: what a sound one means, and how a mistake in one is answered.
#include "proto/lab_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "proto/lab.pb.h"
#include "proto/yaml_to_message.h"

namespace atl {
namespace {

using testing::HasSubstr;

const std::string& SourceDirectory() {
  static const std::string* const directory = new std::string(ATOLL_SOURCE_DIRECTORY);
  return *directory;
}

Lab Parsed(const std::string& text) {
  auto lab = ParseLab(text, "lab.yaml");
  EXPECT_TRUE(lab.ok()) << lab.status();
  return lab.ok() ? *std::move(lab) : Lab();
}

std::string Refusal(const std::string& text) {
  const auto lab = ParseLab(text, "lab.yaml");
  EXPECT_FALSE(lab.ok()) << text;
  EXPECT_EQ(ExitCodeOf(lab.status()), ExitCode::kUsage) << lab.status();
  return std::string(lab.status().message());
}

TEST(LabFile, APairTakesFromTheDefaultWhatItLeavesAway) {
  const Lab lab = Parsed(
      "seed: 9\n"
      "regions: [{name: a, up: 1000mbit, down: 500mbit}, b, c]\n"
      "links:\n"
      "  default: {rate: 80mbit, delay: 40ms, jitter: 1ms, loss: 0.01, queue: 50ms}\n"
      "  pairs: [{between: [c, a], rate: 150mbit, loss: 0}]\n");
  ASSERT_EQ(lab.size(), 3);
  EXPECT_EQ(lab.seed, 9u);
  EXPECT_EQ(lab.regions[0].up_bits_per_second, 1000000000);
  EXPECT_EQ(lab.regions[0].down_bits_per_second, 500000000);
  EXPECT_EQ(lab.regions[1].up_bits_per_second, 0);
  EXPECT_DOUBLE_EQ(lab.region_queue_seconds, 0.05);
  for (const auto& [from, to] : {std::pair(0, 2), std::pair(2, 0)}) {
    EXPECT_EQ(lab.link(from, to).rate_bits_per_second, 150000000);
    EXPECT_DOUBLE_EQ(lab.link(from, to).delay_seconds, 0.04);
    EXPECT_DOUBLE_EQ(lab.link(from, to).jitter_seconds, 0.001);
    EXPECT_DOUBLE_EQ(lab.link(from, to).loss, 0);
    EXPECT_DOUBLE_EQ(lab.link(from, to).queue_seconds, 0.05);
  }
  EXPECT_EQ(lab.link(0, 1).rate_bits_per_second, 80000000);
  EXPECT_DOUBLE_EQ(lab.link(0, 1).loss, 0.01);
  EXPECT_EQ(lab.Find("c"), 2);
  EXPECT_EQ(lab.Find("d"), std::nullopt);
}

TEST(LabFile, RegionsAloneAreALabWithoutDelaysOrCaps) {
  const Lab lab = Parsed("regions: [a, b]\n");
  EXPECT_EQ(lab.seed, 1u);
  EXPECT_EQ(lab.link(0, 1).rate_bits_per_second, 0);
  EXPECT_DOUBLE_EQ(lab.link(0, 1).delay_seconds, 0);
  EXPECT_DOUBLE_EQ(lab.link(0, 1).queue_seconds, 0.1);
}

TEST(LabFile, KernelSettingsAreOfTheNetworkOnly) {
  const Lab lab =
      Parsed("regions: [a]\nsysctl: [{key: net.ipv4.tcp_wmem, value: \"4096 16384 99\"}]\n");
  ASSERT_EQ(lab.sysctl.size(), 1u);
  EXPECT_EQ(lab.sysctl[0].value, "4096 16384 99");
  for (const char* key : {"kernel.panic", "net.", "net.ipv4/../x", "net..ipv4", "net"}) {
    EXPECT_THAT(Refusal(absl::StrCat("regions: [a]\nsysctl: [{key: ", key, ", value: 1}]\n")),
                HasSubstr("lab.yaml:2:16: sysctl[0].key: expected a setting of the network"));
  }
  EXPECT_THAT(Refusal("regions: [a]\nsysctl: [{key: net.ipv4.tcp_sack}]\n"),
              HasSubstr("sysctl[0].value: missing"));
}

TEST(LabFile, AMistakeHasItsPlaceAndTheNearestRightName) {
  EXPECT_EQ(Refusal("regions: [{name: a, upp: 1mbit}]\n"),
            "lab.yaml:1:21: unknown key 'regions[0].upp'; did you mean 'regions[0].up'?");
  EXPECT_EQ(Refusal("regions: [johor, oslo]\nlinks:\n  pairs: [{between: [johor, olso]}]\n"),
            "lab.yaml:3:29: links.pairs[0].between[1].name: no region is called 'olso'; did you "
            "mean 'oslo'?");
  EXPECT_THAT(Refusal("regions: [{name: a, up: 500}]\n"), HasSubstr("lab.yaml:1:"));
  EXPECT_THAT(Refusal("regions: [a]\nlinks: {default: {delay: 40}}\n"),
              HasSubstr("lab.yaml:2:26: links.default.delay: '40' is not a duration"));
  EXPECT_THAT(Refusal("regions: [{name: a, up: 0mbit}]\n"), HasSubstr("the smallest is 10kbit"));
}

TEST(LabFile, NamesAreWellFormedAndUnique) {
  EXPECT_THAT(Refusal("links: {}\n"), HasSubstr("regions: missing"));
  EXPECT_THAT(Refusal("regions: [a, b, a]\n"),
              HasSubstr("lab.yaml:1:17: regions[2].name: 'a' is there twice"));
  EXPECT_THAT(Refusal("regions: ['a:b']\n"), HasSubstr("regions[0].name: not well-formed"));
  EXPECT_THAT(Refusal("regions: [{up: 5mbit}]\n"), HasSubstr("regions[0].name: missing"));
  std::string many = "regions: [";
  for (int i = 0; i < 65; ++i) absl::StrAppend(&many, "r", i, ", ");
  EXPECT_THAT(Refusal(many + "]\n"), HasSubstr("65 are too many; 64 regions at most"));
}

TEST(LabFile, APairIsTwoRegionsAndThereOnce) {
  const std::string regions = "regions: [a, b, c]\nlinks: {pairs: [";
  EXPECT_THAT(Refusal(regions + "{between: [a, b]}, {between: [b, a]}]}\n"),
              HasSubstr("links.pairs[1].between: this pair is there twice"));
  EXPECT_THAT(Refusal(regions + "{between: [a, b, c]}]}\n"), HasSubstr("found 3"));
  EXPECT_THAT(Refusal(regions + "{rate: 5mbit}]}\n"), HasSubstr("found 0"));
  EXPECT_THAT(Refusal(regions + "{between: [a, a]}]}\n"),
              HasSubstr("a region has no link to itself"));
}

TEST(LabFile, LossIsBelowOne) {
  EXPECT_THAT(Refusal("regions: [a]\nlinks: {default: {loss: 1}}\n"),
              HasSubstr("lab.yaml:2:25: links.default.loss: 1 would lose everything"));
  EXPECT_THAT(Refusal("regions: [a]\nlinks: {default: {loss: 1.5}}\n"), HasSubstr("too large"));
  EXPECT_THAT(Refusal("regions: [a]\nlinks: {default: {loss: -0.1}}\n"), HasSubstr("too small"));
  EXPECT_THAT(Refusal("regions: [a, b]\nlinks: {pairs: [{between: [a, b], loss: 1}]}\n"),
              HasSubstr("links.pairs[0].loss"));
}

TEST(LabFile, EveryShippedLabIsSound) {
  int count = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(SourceDirectory() + "/configs/lab")) {
    const auto lab = LoadLabFile(entry.path().string());
    EXPECT_TRUE(lab.ok()) << lab.status();
    ++count;
  }
  EXPECT_GE(count, 7);
  const auto slow_pair = LoadLabFile(SourceDirectory() + "/configs/lab/three-slow-pair.yaml");
  ASSERT_TRUE(slow_pair.ok());
  EXPECT_EQ(slow_pair->link(1, 0).rate_bits_per_second, 30000000);
  EXPECT_EQ(slow_pair->link(0, 2).rate_bits_per_second, 300000000);
}

TEST(LabFile, AFileThatCannotBeReadIsNamed) {
  EXPECT_THAT(std::string(LoadLabFile("/nowhere/lab.yaml").status().message()),
              HasSubstr("/nowhere/lab.yaml"));
  EXPECT_THAT(std::string(LoadLabFile("/tmp").status().message()), HasSubstr("is a directory"));
}

TEST(LabFile, EveryKeyIsOnItsPage) {
  const auto page = ReadFile(SourceDirectory() + "/docs/formats/lab.md");
  ASSERT_TRUE(page.ok());
  for (const std::string& path : AllPaths(*pb::Lab::descriptor())) {
    EXPECT_TRUE(absl::StrContains(*page, absl::StrCat("`", path, "`"))) << path;
  }
}

}  // namespace
}  // namespace atl
