// `atoll status` on run directories as they are in the field: running, done, killed, half there.
#include "cli/status.h"

#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace atl {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class StatusTest : public testing::Test {
 protected:
  StatusTest() {
    std::string name = absl::StrCat(testing::TempDir(), "/status-XXXXXX");
    directory_ = mkdtemp(name.data());
  }
  ~StatusTest() override { std::filesystem::remove_all(directory_); }

  void Write(const std::string& name, const std::string& text) {
    std::ofstream(directory_ + "/" + name) << text;
  }
  void WriteJob(const std::string& state, const std::string& reason) {
    const nlohmann::json summary = {
        {"job", "kjv"},
        {"state", state},
        {"reason", reason},
        {"rounds_committed", 7},
        {"rounds_total", 40},
        {"tokens", 11000},
        {"train_loss_first", 5.5},
        {"train_loss_last", 2.5},
        {"validation_loss", nullptr},
        {"last_checkpoint", 5},
        {"cost", {{"so_far", 12.5}, {"at_end", nullptr}, {"currency", "USD"}}},
        {"updated", "2026-05-04T12:00:00.000Z"},
        {"regions",
         {{{"name", "oslo"},
           {"state", "training"},
           {"workers", 2},
           {"tokens", 11000},
           {"round", 7},
           {"why", ""},
           {"doing", "train step 3/30"},
           {"lease", {{"start", nullptr}, {"end", "2999-01-01T00:00:00.000Z"}, {"last_round", 31}}},
           {"links",
            {{{"region", "johor"},
              {"connections", 8},
              {"bytes_sent", 3 << 20},
              {"up_bytes_per_second", 2.5e7},
              {"rtt_seconds", 0.08},
              {"retransmitted", 0.002},
              {"silent_seconds", 0.1}},
             {{"region", "batam"}, {"rtt_seconds", nullptr}, {"silent_seconds", 4.5}},
             "nonsense"}}}}}};
    Write("summary.json", summary.dump());
    Write("rounds.jsonl",
          R"({"round":7,"train_loss":2.5,"tokens":1000,"seconds":2,"wan_seconds":0.5})"
          "\n{\"round\":8,\"tr");
    Write("events.jsonl",
          R"({"number":3,"time":"2026-05-04T12:00:00.000Z","kind":"view","text":"view 1 begins"})"
          "\n");
  }
  void WriteOrchestrator(pid_t pid) {
    const nlohmann::json json = {{"address", "tcp://127.0.0.1:40001"}, {"pid", pid}};
    Write("orchestrator.json", json.dump());
  }
  StatusOr<std::string> Run(bool json) {
    const Verb verb = StatusVerb();
    std::vector<std::string> words = {directory_ + "/"};
    if (json) words.push_back("--json");
    const auto flags = ParseFlags(verb.command, words);
    EXPECT_TRUE(flags.ok()) << flags.status();
    Output output(json);
    testing::internal::CaptureStdout();
    const auto code = verb.run(*flags, output);
    const std::string text = testing::internal::GetCapturedStdout();
    if (!code.ok()) return code.status();
    EXPECT_EQ(*code, ExitCode::kDone);
    return text;
  }

  std::string directory_;
};

TEST_F(StatusTest, AJobThatIsOverSaysSo) {
  WriteJob("done", "all rounds are committed");
  const auto text = Run(false);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_THAT(*text,
              AllOf(HasSubstr("job kjv  DONE  round 7/40  tokens 11.0 k"),
                    HasSubstr("all rounds are committed"), HasSubstr("train 2.5 (first 5.5)"),
                    HasSubstr("wan 25%"), HasSubstr("oslo"), HasSubstr("round 5, complete"),
                    HasSubstr("view 1 begins")));
}

TEST_F(StatusTest, ANewestCheckpointThatDiffersIsNamedWithItsRegions) {
  Write("summary.json", R"({"job":"kjv","state":"done","last_checkpoint":5,)"
                        R"("last_checkpoint_differs_in":["johor","oslo",7]})");
  const auto text = Run(false);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_THAT(*text, HasSubstr("round 5, complete in every region, but not the same in johor, "
                               "oslo (events checkpoint_differs and later)"));
}

TEST_F(StatusTest, EachLinkHasALine) {
  WriteJob("done", "all rounds are committed");
  const auto text = Run(false);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_THAT(*text,
              testing::ContainsRegex("oslo -> johor +200 Mbit/s +80 ms +0.200% +3.00 MiB +8 *\n"));
  EXPECT_THAT(*text, testing::ContainsRegex("oslo -> batam +- +- .*silent for 4.5 s\n"));
  const auto json = Run(true);
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ(nlohmann::json::parse(*json)["regions"][0]["links"][0]["rtt_seconds"], 0.08);
}

TEST_F(StatusTest, ALeaseSaysHowLongItLastsAndWhatIsPlanned) {
  WriteJob("training", "");
  const auto text = Run(false);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_THAT(*text, testing::ContainsRegex("LEASE +WHY"));
  EXPECT_THAT(*text, testing::ContainsRegex("oslo .* [0-9]+d [0-9]+h, to round 31 +train step"));
  EXPECT_THAT(*text, HasSubstr(" cost        12.50 USD so far\n"));
}

TEST_F(StatusTest, AJobWhoseOrchestratorIsGoneIsInterrupted) {
  WriteJob("training", "");
  const pid_t gone = fork();
  if (gone == 0) _exit(0);
  waitpid(gone, nullptr, 0);
  WriteOrchestrator(gone);
  const auto text = Run(true);
  ASSERT_TRUE(text.ok()) << text.status();
  const nlohmann::json json = nlohmann::json::parse(*text);
  EXPECT_EQ(json["state"], "interrupted");
  EXPECT_EQ(json["recorded_state"], "training");
  EXPECT_EQ(json["orchestrator"]["alive"], false);
  EXPECT_EQ(json["rounds_committed"], 7);
  EXPECT_EQ(json["last_round"]["round"], 7);
  EXPECT_EQ(json["last_event"]["kind"], "view");
  EXPECT_THAT(json["why"].get<std::string>(), HasSubstr("killed"));
  EXPECT_GT(json["age_seconds"].get<double>(), 0);
}

TEST_F(StatusTest, AnotherProgramWithTheOldNumberIsNotTheOrchestrator) {
  WriteJob("training", "");
  WriteOrchestrator(getpid());
  const auto text = Run(true);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(nlohmann::json::parse(*text)["state"], "interrupted");
}

TEST_F(StatusTest, ADirectoryThatIsNoRunDirectoryIsAUsageError) {
  const auto text = Run(false);
  EXPECT_EQ(ExitCodeOf(text.status()), ExitCode::kUsage);
  EXPECT_THAT(std::string(text.status().message()),
              AllOf(HasSubstr(directory_), HasSubstr("no run directory")));
  std::filesystem::remove_all(directory_);
  EXPECT_EQ(ExitCodeOf(Run(false).status()), ExitCode::kUsage);
}

TEST_F(StatusTest, FilesOfOddTypesAreNoCrash) {
  for (const char* summary :
       {"{", "[]", "{\"state\":5,\"regions\":{},\"rounds_total\":\"x\"}",
        "{\"regions\":[1,null,{\"name\":3,\"tokens\":1e400}],\"tokens\":-1,\"updated\":\"x\"}"}) {
    Write("summary.json", summary);
    WriteOrchestrator(getpid());
    EXPECT_TRUE(Run(false).ok()) << summary;
    EXPECT_TRUE(Run(true).ok()) << summary;
  }
}

}  // namespace
}  // namespace atl
