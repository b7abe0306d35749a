// `atoll plan links` over the labs that are shipped: its JSON adds up, its text names what matters.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "cli/plan.h"

namespace atl {

// cli/verbs.cc has that of the program, and all other verbs with it.
FlagSpec JsonFlag() {
  FlagSpec flag;
  flag.name = "json";
  flag.kind = FlagKind::kSwitch;
  return flag;
}

namespace {

using ::testing::HasSubstr;

StatusOr<std::string> RunVerbOn(std::vector<std::string> arguments, bool json) {
  if (json) arguments.push_back("--json");
  const Verb verb = PlanLinksVerb();
  ASSIGN_OR_RETURN(const ParsedFlags flags, ParseFlags(verb.command, arguments));
  ::testing::internal::CaptureStdout();
  Output output(json);
  const StatusOr<ExitCode> code = verb.run(flags, output);
  const std::string text = ::testing::internal::GetCapturedStdout();
  RETURN_IF_ERROR(code.status());
  EXPECT_EQ(*code, ExitCode::kDone);
  return text;
}

std::string LabFile(const std::string& name) {
  return absl::StrCat(ATOLL_SOURCE_DIRECTORY, "/configs/lab/", name, ".yaml");
}

TEST(PlanLinks, ItsJsonAddsUp) {
  for (const char* name : {"two-500mbit-80ms", "four-unequal-80ms", "four-equal-150ms",
                           "three-slow-pair", "eight-random"}) {
    const StatusOr<std::string> text = RunVerbOn({"--matrix", LabFile(name)}, true);
    ASSERT_TRUE(text.ok()) << text.status();
    const nlohmann::json answer = nlohmann::json::parse(*text);
    double shares = 0;
    for (const auto& [region, share] : answer["shares"].items()) shares += share.get<double>();
    EXPECT_NEAR(shares, 1, 1e-6) << name;
    EXPECT_NEAR(answer["fraction_of_bound"].get<double>(),
                answer["bound_seconds"].get<double>() / answer["predicted_seconds"].get<double>(),
                1e-9);
    EXPECT_GT(answer["fraction_of_bound"].get<double>(), 0.9) << name;
    for (const auto& [schedule, entry] : answer["schedules"].items()) {
      EXPECT_GE(entry["predicted_seconds"].get<double>(),
                answer["predicted_seconds"].get<double>() * 0.989)
          << name << ", " << schedule;
    }
  }
}

TEST(PlanLinks, TheBoundCountsHeadersOnce) {
  const StatusOr<std::string> text = RunVerbOn({"--matrix", LabFile("two-500mbit-80ms")}, true);
  ASSERT_TRUE(text.ok()) << text.status();
  const double bytes = 64 << 20;
  EXPECT_NEAR(nlohmann::json::parse(*text)["bound_seconds"].get<double>(),
              bytes * 8 / 500e6 * 1500 / 1448 + 0.040, 1e-9);
}

TEST(PlanLinks, ItsTextNamesLimitsSharesAndTheOtherSchedules) {
  const StatusOr<std::string> text =
      RunVerbOn({"--matrix", LabFile("four-unequal-80ms"), "--bytes", "16MiB"}, false);
  ASSERT_TRUE(text.ok()) << text.status();
  for (const char* words : {"for 16.0 MiB; limit: up of '", "bound", "owns",
                            "share   tree:", "equal ", "ring ", "trees "}) {
    EXPECT_THAT(*text, HasSubstr(words));
  }
}

TEST(PlanLinks, SaysWhatIsWrong) {
  EXPECT_THAT(std::string(RunVerbOn({"--matrix", LabFile("none")}, false).status().message()),
              HasSubstr("none.yaml"));
  EXPECT_THAT(
      std::string(RunVerbOn({"--matrix", LabFile("eight-random"), "--schedule", "star"}, false)
                      .status()
                      .message()),
      HasSubstr("--schedule: unknown schedule 'star'"));
  EXPECT_FALSE(RunVerbOn({"--matrix", LabFile("eight-random"), "--bytes", "much"}, false).ok());
  EXPECT_FALSE(RunVerbOn({}, false).ok());
}

}  // namespace
}  // namespace atl
