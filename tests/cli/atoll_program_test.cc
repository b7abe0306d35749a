// The program `atoll` itself, run as a user runs it: what is on stdout, what on stderr, which exit
// code.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/env.h"
#include "base/file.h"

namespace atl {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::StartsWith;

struct Result {
  int exit_code = -1;
  std::string out;
  std::string err;
};

class AtollProgram : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(GetEnv("ATOLL_PROGRAM").has_value()) << "run me with ctest";
    std::string pattern = testing::TempDir() + "atoll_program_XXXXXX";
    directory_ = mkdtemp(pattern.data());
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::string Path(const std::string& name) const { return directory_ + "/" + name; }
  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(Path(name)) << text;
  }

  // `arguments` as a shell reads them; `environment` like "NO_COLOR=1".
  Result Run(const std::string& arguments, const std::string& environment = "") const {
    const std::string command =
        absl::StrCat("cd ", directory_, " && env ", environment, " ", *GetEnv("ATOLL_PROGRAM"), " ",
                     arguments, " >out 2>err </dev/null");
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, ReadFile(Path("out")).value_or("?"),
            ReadFile(Path("err")).value_or("?")};
  }

  // A text of 20,000 bytes as tokens, and a job on it.
  void MakeJob() const {
    std::string text;
    while (text.size() < 20000) text += "In the beginning God created the heaven and the earth.\n";
    Write("text.txt", text);
    ASSERT_EQ(Run("data tokenize --input text.txt --tokenizer bytes --output tokens.bin").exit_code,
              0);
    Write("job.yaml",
          "name: try\ndata: {tokens: tokens.bin, sequence_length: 32}\n"
          "train:\n  rounds: 4\n  inner_steps: 3\n  global_batch: 6\nregions: [johor, oslo]\n");
  }

 private:
  std::string directory_;
};

constexpr const char* kVerbs[] = {"check",
                                  "train",
                                  "status",
                                  "data tokenize",
                                  "data info",
                                  "config schema",
                                  "config presets",
                                  "env",
                                  "checkpoint ls",
                                  "checkpoint show",
                                  "checkpoint verify",
                                  "checkpoint repair",
                                  "checkpoint prune",
                                  "version"};

TEST_F(AtollProgram, HelpIsOnStdoutAndEndsWithZero) {
  for (const char* words : {"", "help", "--help", "-h"}) {
    const Result result = Run(words);
    EXPECT_EQ(result.exit_code, 0) << words;
    EXPECT_THAT(result.err, IsEmpty());
    for (const char* verb : kVerbs) EXPECT_THAT(result.out, HasSubstr(verb));
  }
}

TEST_F(AtollProgram, EveryVerbHasHelpInAHundredColumns) {
  for (const std::string verb : kVerbs) {
    for (const std::string& words : {"help " + verb, verb + " --help", verb + " x y -h --zz"}) {
      const Result result = Run(words);
      EXPECT_EQ(result.exit_code, 0) << words;
      EXPECT_THAT(result.out, StartsWith("usage: atoll " + verb)) << words;
      EXPECT_THAT(result.err, IsEmpty()) << words;
      for (const absl::string_view line : absl::StrSplit(result.out, '\n')) {
        EXPECT_LE(line.size(), 100u) << line;
      }
    }
  }
  EXPECT_THAT(Run("data --help").out, HasSubstr("data tokenize"));
  EXPECT_THAT(Run("help data").out, HasSubstr("data info"));
}

TEST_F(AtollProgram, AWrongVerbOrFlagEndsWithTwoAndASuggestion) {
  const auto expect = [this](const std::string& words, const std::string& message) {
    const Result result = Run(words);
    EXPECT_EQ(result.exit_code, 2) << words;
    EXPECT_THAT(result.out, IsEmpty()) << words;
    EXPECT_EQ(result.err, "atoll: error: " + message + "\n");
  };
  expect("chekc", "unknown verb 'chekc'; did you mean 'check'?");
  expect("help stats", "unknown verb 'stats'; did you mean 'status'?");
  expect("data tokenise", "unknown verb 'data tokenise'; did you mean 'data tokenize'?");
  expect("data", "'atoll data' needs one more word: data tokenize, data info");
  expect("check --jsno", "unknown flag '--jsno'; did you mean '--json'?");
  expect("check", "missing argument; usage: atoll check JOB.yaml (see `atoll check --help`)");
  expect("version now", "unexpected argument 'now' (see `atoll version --help`)");
  EXPECT_THAT(Run("--json check").err, HasSubstr("expected a verb before '--json'"));
  EXPECT_THAT(Run("xyzzy").err, HasSubstr("unknown verb 'xyzzy'; there are: "));
}

TEST_F(AtollProgram, ErrorsAreJsonToo) {
  for (const char* words : {"chekc --json", "check --json", "check none.yaml --json",
                            "data info none.bin --json", "check --json --jsno"}) {
    const Result result = Run(words);
    EXPECT_EQ(result.exit_code, 2) << words;
    const json answer = json::parse(result.out);
    EXPECT_EQ(answer["error"]["exit_code"], 2) << words;
    EXPECT_THAT(result.err,
                HasSubstr("atoll: error: " + answer["error"]["message"].get<std::string>()));
  }
}

TEST_F(AtollProgram, TokenizesAndSaysWhatATokenFileHolds) {
  MakeJob();
  const Result info = Run("data info tokens.bin --json");
  EXPECT_EQ(info.exit_code, 0) << info.err;
  const json answer = json::parse(info.out);
  EXPECT_EQ(answer["tokens"], std::filesystem::file_size(Path("text.txt")));
  EXPECT_EQ(answer["tokenizer"], "bytes");
  EXPECT_EQ(answer["vocab_size"], 256);
  EXPECT_THAT(Run("data info tokens.bin").out, HasSubstr("tokenizer    bytes\n"));
  EXPECT_EQ(Run("data tokenize --input none.txt --output x.bin").exit_code, 2);
  EXPECT_EQ(Run("data tokenize --output x.bin").exit_code, 2);
}

TEST_F(AtollProgram, CheckPrintsWhatAJobTakes) {
  MakeJob();
  const Result text = Run("check job.yaml");
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_THAT(text.out, StartsWith("job.yaml: ok\n"));
  EXPECT_THAT(text.out, HasSubstr("test-1m: 1.00 M parameters"));
  EXPECT_THAT(text.out, HasSubstr("diloco, 4 rounds x 3 steps x 6 samples x 32 tokens"));
  EXPECT_THAT(text.out, HasSubstr("2: johor, oslo; 1 worker each"));
  const Result result = Run("check job.yaml --json --regions=3 --workers 2 --set train.rounds=5");
  EXPECT_EQ(result.exit_code, 0) << result.err;
  const json answer = json::parse(result.out);
  EXPECT_EQ(answer["ok"], true);
  EXPECT_EQ(answer["rounds"], 5);
  EXPECT_EQ(answer["tokens_per_round"], 6 * 32 * 3);
  EXPECT_EQ(answer["regions"], json({"johor", "oslo", "region-3"}));
  EXPECT_EQ(answer["workers_per_region"], 2);
  const json& memory = answer["memory_bytes_per_worker"];
  EXPECT_EQ(memory["parameters"], 4 * answer["model"]["parameters"].get<int64_t>());
  EXPECT_GT(memory["total"], memory["parameters"]);
}

TEST_F(AtollProgram, CheckFindsEachMistakeAndEndsWithTwo) {
  MakeJob();
  Write("typo.yaml", "data: {tokens: tokens.bin}\ntrain:\n  inner_step: 3\n");
  Result result = Run("check typo.yaml");
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(result.err,
            "atoll: error: typo.yaml:3:3: unknown key 'train.inner_step'; did you mean "
            "'train.inner_steps'?\n");
  result = Run("check job.yaml --set train.round=3");
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("--set train.round=3: unknown key 'train.round'; did you mean "
                                    "'train.rounds'?"));
  result = Run("check job.yaml --set data.tokens=none.bin");
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr(Path("none.bin") + " does not exist; make it with `atoll data "
                                                       "tokenize"));
  result = Run("check job.yaml --set model.preset=test-2m");
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("test-1m"));
  result = Run("check job.yaml --set train.global_batch=2 --regions=3");
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("train.global_batch: 2 samples are too few for 3 regions"));
  result = Run("check job.yaml --set data.sequence_length=30000");
  EXPECT_EQ(result.exit_code, 2) << result.err;
  EXPECT_EQ(Run("check .").exit_code, 2);
}

TEST_F(AtollProgram, TheSchemaAndThePresetsAreAnswers) {
  const Result schema = Run("config schema");
  EXPECT_EQ(schema.exit_code, 0);
  EXPECT_THAT(schema.out, HasSubstr("\n  rounds: 100\n"));
  EXPECT_FALSE(json::parse(Run("config schema --json").out)["keys"].empty());
  EXPECT_THAT(Run("config schema --markdown").out, StartsWith("| key | value |"));
  EXPECT_THAT(Run("config presets").out, HasSubstr("test-1m"));
  EXPECT_EQ(json::parse(Run("config presets --json").out)["presets"][0]["name"], "test-1m");
}

TEST_F(AtollProgram, SaysItsVersionAndWhichLauncherStartedIt) {
  EXPECT_THAT(Run("--version").out, StartsWith("atoll "));
  EXPECT_EQ(Run("version").out, Run("check --version").out);
  EXPECT_FALSE(json::parse(Run("version --json").out)["compiler"].empty());
  const std::string clean =
      "-u OMPI_COMM_WORLD_RANK -u ATOLL_RANK -u TORCHELASTIC_RUN_ID -u SLURM_PROCID -u PMIX_RANK "
      "-u "
      "PMI_RANK";
  const json answer = json::parse(Run("env --json", clean + " RANK=1 WORLD_SIZE=2").out);
  EXPECT_EQ(answer["launcher"]["name"], "plain");
  EXPECT_EQ(answer["launcher"]["rank"], 1);
  EXPECT_EQ(Run("env", clean + " RANK=2 WORLD_SIZE=2").exit_code, 2);
}

TEST_F(AtollProgram, NoColoursWhereNoTerminalIs) {
  MakeJob();
  EXPECT_THAT(Run("check job.yaml").out, Not(HasSubstr("\x1b")));
  EXPECT_THAT(Run("chekc").err, Not(HasSubstr("\x1b")));
}

TEST_F(AtollProgram, AFullDiskBehindStdoutIsAnErrorAndAReaderThatLeftIsNone) {
  const std::string program = *GetEnv("ATOLL_PROGRAM");
  const int full = std::system((program + " config schema >/dev/full 2>" + Path("err")).c_str());
  EXPECT_EQ(WEXITSTATUS(full), 4);
  EXPECT_THAT(ReadFile(Path("err")).value_or(""), HasSubstr("cannot write to stdout: No space"));
  const int left = std::system(
      ("bash -c 'set -o pipefail; " + program + " config schema | head -c 1 >/dev/null'").c_str());
  EXPECT_EQ(WEXITSTATUS(left), 0);
}

}  // namespace
}  // namespace atl
