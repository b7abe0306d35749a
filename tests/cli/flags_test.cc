// Command-line flags, and the names that are suggested for misspelled ones.
#include "base/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_split.h"
#include "base/exit_code.h"
#include "base/suggest.h"

namespace atl {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

CommandSpec Spec() {
  return {
      .command = "atoll test",
      .arguments = "FILE",
      .summary = "does nothing",
      .details = "",
      .flags =
          {{.name = "run_dir",
            .kind = FlagKind::kText,
            .placeholder = "DIR",
            .help = "where",
            .default_value = "runs"},
           {.name = "regions",
            .kind = FlagKind::kCount,
            .placeholder = "N",
            .help = "how many",
            .default_value = "1",
            .min = 1,
            .max = 100},
           {.name = "grace",
            .kind = FlagKind::kDuration,
            .placeholder = "TIME",
            .help = "how long",
            .default_value = "30s"},
           {.name = "set", .kind = FlagKind::kList, .placeholder = "KEY=VALUE", .help = "override"},
           {.name = "input", .kind = FlagKind::kFiles, .placeholder = "FILE", .help = "files"},
           {.name = "json", .kind = FlagKind::kSwitch, .placeholder = "", .help = "as JSON"}},
      .min_positional = 0,
      .max_positional = 1};
}

ParsedFlags Parse(const std::vector<std::string>& arguments) {
  auto flags = ParseFlags(Spec(), arguments);
  EXPECT_TRUE(flags.ok()) << flags.status();
  return flags.ok() ? *flags : ParsedFlags();
}

std::string Refusal(const std::vector<std::string>& arguments, const CommandSpec& spec = Spec()) {
  const auto flags = ParseFlags(spec, arguments);
  EXPECT_EQ(ExitCodeOf(flags.status()), ExitCode::kUsage) << flags.status();
  return std::string(flags.status().message());
}

TEST(Flags, HaveTheirDefaultsUntilTheyAreGiven) {
  const ParsedFlags flags = Parse({});
  EXPECT_EQ(flags.Text("run_dir"), "runs");
  EXPECT_EQ(flags.Count("regions"), 1);
  EXPECT_EQ(flags.Seconds("grace"), 30);
  EXPECT_FALSE(flags.Switch("json"));
  EXPECT_TRUE(flags.List("set").empty());
  EXPECT_FALSE(flags.Has("run_dir"));
  EXPECT_TRUE(Parse({"--run_dir=runs"}).Has("run_dir"));
}

TEST(Flags, TakeTheirValueBehindAnEqualsSignOrAsTheNextArgument) {
  const ParsedFlags flags = Parse({"--run_dir=a=b", "job.yaml", "--regions", "3", "--json"});
  EXPECT_EQ(flags.Text("run_dir"), "a=b");
  EXPECT_EQ(flags.Count("regions"), 3);
  EXPECT_TRUE(flags.Switch("json"));
  EXPECT_THAT(flags.positional(), ElementsAre("job.yaml"));
  EXPECT_EQ(Parse({"--run_dir="}).Text("run_dir"), "");
}

TEST(Flags, MayBeWrittenWithDashes) { EXPECT_EQ(Parse({"--run-dir=x"}).Text("run_dir"), "x"); }

TEST(Flags, GivenTwiceTheLastCountsAndListsCollect) {
  const ParsedFlags flags =
      Parse({"--regions=2", "--set", "a=1", "--regions=3", "--set=b=2", "--json", "--json=false"});
  EXPECT_EQ(flags.Count("regions"), 3);
  EXPECT_THAT(flags.List("set"), ElementsAre("a=1", "b=2"));
  EXPECT_FALSE(flags.Switch("json"));
}

TEST(Flags, FilesAreAllArgumentsUpToTheNextFlag) {
  const ParsedFlags flags = Parse({"--input", "a", "b", "--json", "--input=c", "rest"});
  EXPECT_THAT(flags.List("input"), ElementsAre("a", "b", "c"));
  EXPECT_THAT(flags.positional(), ElementsAre("rest"));
}

TEST(Flags, EndAtTwoDashes) {
  const ParsedFlags flags = Parse({"--json", "--", "--help"});
  EXPECT_THAT(flags.positional(), ElementsAre("--help"));
  EXPECT_FALSE(flags.help());
}

TEST(Flags, HelpAndVersionWinOverWhatIsMissingOrWrongBehindThem) {
  EXPECT_TRUE(Parse({"--help", "--nonsense"}).help());
  EXPECT_TRUE(Parse({"a", "-h"}).help());
  EXPECT_TRUE(Parse({"--version"}).version());
}

TEST(Flags, AnUnknownOneIsRefusedWithTheNearest) {
  EXPECT_EQ(Refusal({"--run_dri=x"}), "unknown flag '--run_dri'; did you mean '--run_dir'?");
  EXPECT_EQ(Refusal({"--region=3"}), "unknown flag '--region'; did you mean '--regions'?");
  EXPECT_EQ(Refusal({"--zzzz"}), "unknown flag '--zzzz' (see `atoll test --help`)");
  EXPECT_EQ(Refusal({"-j"}), "unknown flag '-j' (see `atoll test --help`)");
}

TEST(Flags, AWrongOrMissingValueIsRefused) {
  EXPECT_EQ(Refusal({"--regions=0"}), "--regions: 0 is too small; the smallest is 1");
  EXPECT_EQ(Refusal({"--regions", "-2"}), "--regions: -2 is too small; the smallest is 1");
  EXPECT_EQ(Refusal({"--regions=101"}), "--regions: 101 is too large; the largest is 100");
  EXPECT_THAT(Refusal({"--regions=three"}), HasSubstr("--regions: 'three' is not a whole number"));
  EXPECT_THAT(Refusal({"--grace=5"}), HasSubstr("--grace: '5' is not a duration"));
  EXPECT_EQ(Refusal({"--json=maybe"}), "--json: 'maybe' is neither true nor false");
  EXPECT_EQ(Refusal({"--run_dir"}),
            "--run_dir needs a value: --run_dir=DIR (see `atoll test --help`)");
  EXPECT_EQ(Refusal({"--run_dir", "--json"}),
            "--run_dir needs a value: --run_dir=DIR (see `atoll test --help`)");
  EXPECT_EQ(Refusal({"a", "b"}), "unexpected argument 'b' (see `atoll test --help`)");
}

TEST(Flags, WhatIsRequiredMustBeThere) {
  CommandSpec spec = Spec();
  spec.min_positional = 1;
  EXPECT_EQ(Refusal({}, spec),
            "missing argument; usage: atoll test FILE (see `atoll test --help`)");
  spec.flags[0].required = true;
  spec.flags[0].default_value = "";
  EXPECT_EQ(Refusal({"a"}, spec), "--run_dir is required: --run_dir=DIR (where)");
}

TEST(Flags, HelpNamesEveryFlagWithinAHundredColumns) {
  CommandSpec spec = Spec();
  for (int i = 0; i < 40; ++i) spec.details += "many words ";
  const std::string help = FlagsHelp(spec);
  for (const char* name : {"--run_dir=DIR", "--regions=N", "--set=KEY=VALUE", "--input FILE...",
                           "--json", "--help", "--version", "usage: atoll test FILE [flags]"}) {
    EXPECT_THAT(help, HasSubstr(name));
  }
  for (const absl::string_view line : absl::StrSplit(help, '\n')) EXPECT_LE(line.size(), 100u);
}

TEST(Suggest, CountsInsertionsDeletionsChangesAndSwaps) {
  EXPECT_EQ(EditDistance("", ""), 0);
  EXPECT_EQ(EditDistance("abc", ""), 3);
  EXPECT_EQ(EditDistance("rounds", "round"), 1);
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3);
  EXPECT_EQ(EditDistance("trian", "train"), 1);
  EXPECT_EQ(EditDistance("abcd", "badc"), 2);
}

TEST(Suggest, NamesOnlyWhatIsNear) {
  const std::vector<std::string> names = {"check", "train", "status", "checkpoint"};
  EXPECT_EQ(Nearest("chekc", names), "check");
  EXPECT_EQ(Nearest("STATUS", names), "status");
  EXPECT_EQ(Nearest("stat", names), "status");
  EXPECT_EQ(Nearest("checkpoints", names), "checkpoint");
  EXPECT_EQ(Nearest("wibble", names), "");
  EXPECT_EQ(Nearest("", names), "");
  EXPECT_EQ(Nearest("x", names), "");
  EXPECT_EQ(Nearest(std::string(1 << 20, 'x'), names), "");
}

}  // namespace
}  // namespace atl
