// What `atoll train` reads of a run directory, and the words it makes of it.
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/random.h"
#include "cli/failure_block.h"
#include "cli/progress.h"
#include "cli/run_directory.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace atl {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class TrainFiles : public testing::Test {
 protected:
  TrainFiles() {
    std::string name = absl::StrCat(testing::TempDir(), "/files-XXXXXX");
    directory_ = mkdtemp(name.data());
  }
  ~TrainFiles() override { std::filesystem::remove_all(directory_); }

  void Append(const std::string& name, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(Path(name)).parent_path());
    std::ofstream(Path(name), std::ios::app) << text;
  }
  void Replace(const std::string& name, const std::string& text) {
    ASSERT_TRUE(WriteFileAtomically(Path(name), text).ok());
  }
  std::string Path(const std::string& name) const { return directory_ + "/" + name; }

  std::string directory_;
};

constexpr char kRound[] =
    R"({"round":12,"train_loss":2.4112,"tokens":22400,"digest":"00","seconds":2.0,)"
    R"("wan_seconds":0.06,)"
    R"("time":"2026-05-04T12:00:02.000Z","tokens_total":268800})";

std::string RoundJson(int round, const std::string& time) {
  return absl::StrCat(R"({"round":)", round, R"(,"train_loss":)", 5.0 - 0.1 * round,
                      R"(,"tokens":1000,"seconds":0.5,"wan_seconds":0.1,"time":")", time, "\"}\n");
}

TEST_F(TrainFiles, ATailGivesWholeLinesOnce) {
  LineTail tail(Path("lines"));
  EXPECT_THAT(tail.Read(), IsEmpty());
  Append("lines", "one\ntw");
  EXPECT_THAT(tail.Read(), ElementsAre("one"));
  EXPECT_THAT(tail.Read(), IsEmpty());
  Append("lines", "o\nthree\n");
  EXPECT_THAT(tail.Read(), ElementsAre("two", "three"));
}

TEST_F(TrainFiles, ATailReadsAReplacedOrCutFileAnew) {
  LineTail tail(Path("lines"));
  Append("lines", "one\ntwo\nhalf");
  EXPECT_THAT(tail.Read(), ElementsAre("one", "two"));
  Replace("lines", "uno\ndos\ntres\n");
  EXPECT_THAT(tail.Read(), ElementsAre("uno", "dos", "tres"));
  std::filesystem::resize_file(Path("lines"), 4);
  EXPECT_THAT(tail.Read(), ElementsAre("uno"));
}

TEST_F(TrainFiles, TheLastLinesAreWhole) {
  EXPECT_THAT(LastLines(Path("none"), 3), IsEmpty());
  std::string text;
  for (int i = 0; i < 100000; ++i) absl::StrAppend(&text, "line ", i, "\n");
  Append("long", text);
  EXPECT_THAT(LastLines(Path("long"), 2), ElementsAre("line 99998", "line 99999"));
}

TEST_F(TrainFiles, RoundsAndEventsAreReadAndOddOnesAreNot) {
  const auto round = ParseRoundLine(kRound);
  ASSERT_TRUE(round);
  EXPECT_EQ(round->round, 12);
  EXPECT_EQ(round->tokens, 22400);
  EXPECT_DOUBLE_EQ(round->wan_seconds, 0.06);
  EXPECT_EQ(absl::FormatTime(absl::RFC3339_sec, round->time, absl::UTCTimeZone()),
            "2026-05-04T12:00:02+00:00");
  EXPECT_FALSE(ParseRoundLine("").has_value());
  EXPECT_FALSE(ParseRoundLine("[1]").has_value());
  EXPECT_FALSE(ParseRoundLine("{\"round\":\"x\"}").has_value());
  EXPECT_FALSE(ParseRoundLine("{\"round\":1e300}").has_value());
  const auto event = ParseEventLine(
      R"({"number":7,"time":"2026-05-04T12:00:02.000Z","kind":"evaluated","round":3,"text":"t",)"
      R"("details":{"validation_loss":2.5}})");
  ASSERT_TRUE(event);
  EXPECT_EQ(event->kind, "evaluated");
  EXPECT_EQ(event->validation_loss, 2.5);
  EXPECT_FALSE(ParseEventLine("{}").has_value());
}

TEST_F(TrainFiles, MutatedLinesNeverCrash) {
  const CounterRandom random(3);
  uint64_t draw = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string line = kRound;
    for (int edit = 0; edit < 3; ++edit) {
      const size_t at = random.Bits(draw++) % line.size();
      line[at] = static_cast<char>(random.Bits(draw++));
    }
    if (const auto round = ParseRoundLine(line)) {
      EXPECT_GE(round->round, 0);
    }
    (void)ParseEventLine(line);
  }
}

TEST_F(TrainFiles, AttemptsAreNumberedOn) {
  EXPECT_EQ(NewestAttemptDirectory(directory_, "oslo"), "");
  EXPECT_EQ(NextAttemptDirectory(directory_, "oslo"), Path("oslo/attempt-1"));
  for (const char* name : {"attempt-2", "attempt-10", "attempt-x", "checkpoints"}) {
    std::filesystem::create_directories(Path(absl::StrCat("oslo/", name)));
  }
  EXPECT_EQ(NewestAttemptDirectory(directory_, "oslo"), Path("oslo/attempt-10"));
  EXPECT_EQ(NextAttemptDirectory(directory_, "oslo"), Path("oslo/attempt-11"));
}

TEST_F(TrainFiles, ARoundIsOneLine) {
  EXPECT_EQ(RoundText(*ParseRoundLine(kRound), 40, 2.389, 62),
            "round 12/40  loss 2.411  val 2.389  tok/s 11.2 k  wan 3%  ETA 62.0 s");
  EXPECT_EQ(RoundText(*ParseRoundLine(kRound), 12, std::nullopt, -1),
            "round 12/12  loss 2.411  tok/s 11.2 k  wan 3%");
}

TEST_F(TrainFiles, ProgressShowsThisRunAlone) {
  Output output(false);
  absl::Time start;
  ASSERT_TRUE(absl::ParseTime(absl::RFC3339_full, "2026-05-04T12:00:00Z", &start, nullptr));
  Progress progress(directory_, 10, start, &output);
  testing::internal::CaptureStderr();
  // A former run's rounds and events, written again on resume.
  Append("rounds.jsonl", RoundJson(1, "2026-05-04T11:00:00.000Z"));
  Append("events.jsonl",
         R"({"number":1,"time":"2026-05-04T11:00:00.000Z","kind":"fault","text":"old trouble"})"
         "\n");
  progress.Update(0);
  EXPECT_EQ(progress.round(), 0);
  Append("events.jsonl",
         R"({"number":2,"time":"2026-05-04T12:00:00.500Z","kind":"resume","text":"from round 1"})"
         "\n");
  Append("rounds.jsonl", RoundJson(2, "2026-05-04T12:00:01.000Z"));
  progress.Update(10);
  // Quick rounds are held back, and the last one is shown at the end.
  Append("rounds.jsonl", RoundJson(3, "2026-05-04T12:00:01.500Z"));
  progress.Update(10.5);
  Append("rounds.jsonl", RoundJson(4, "2026-05-04T12:00:02.000Z"));
  progress.Finish(11);
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_EQ(text,
            "from round 1\n"
            "round 2/10  loss 4.8  tok/s 2.00 k  wan 20%  ETA 4.0 s\n"
            "round 4/10  loss 4.6  tok/s 2.00 k  wan 20%  ETA 3.0 s\n");
}

class TrainFailure : public TrainFiles {
 protected:
  RegionEvidence Region(const std::string& name, int exit_code, int workers = 2) {
    RegionEvidence region;
    region.name = name;
    region.directory = Path(name + "/attempt-1");
    region.workers = workers;
    region.end = ProcessEnd{exit_code, 0};
    std::filesystem::create_directories(region.directory);
    return region;
  }
  void LeaveWords(const RegionEvidence& region, int rank, const std::string& what, bool cause,
                  int exit_code = 1) {
    const nlohmann::json json = {{"time", "2026-05-04T12:03:11Z"},
                                 {"region", region.name},
                                 {"host", "w-07"},
                                 {"rank", rank},
                                 {"pid", 8000 + rank},
                                 {"doing", "train step 3/30"},
                                 {"what", what},
                                 {"exit_code", exit_code},
                                 {"cause", cause}};
    Append(absl::StrCat(region.name, "/attempt-1/rank-", rank, ".failure.json"), json.dump());
  }
};

TEST_F(TrainFailure, TheCulpritIsTheFirstCauseAndNeverAVictim) {
  const RegionEvidence oslo = Region("oslo", 1), johor = Region("johor", 4),
                       batam = Region("batam", 1);
  LeaveWords(oslo, 0, "connection to johor broke", false);
  LeaveWords(johor, 1, "cannot write /runs/x: No space left on device", true, 4);
  std::filesystem::last_write_time(
      Path("johor/attempt-1/rank-1.failure.json"),
      std::filesystem::last_write_time(Path("johor/attempt-1/rank-1.failure.json")) -
          std::chrono::seconds(2));
  LeaveWords(batam, 0, "later trouble", true);
  Append("johor/attempt-1/rank-1.log", "first line\nlast words of the log\n");
  const auto failure = FindFailure({oslo, johor, batam});
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->region, "johor");
  EXPECT_EQ(failure->rank, 1);
  EXPECT_EQ(failure->exit_code, 4);
  EXPECT_EQ(failure->victims, 1);
  EXPECT_THAT(failure->log_lines, ElementsAre("first line", "last words of the log"));

  const nlohmann::json summary = {{"rounds_committed", 7}, {"last_checkpoint", 5}};
  const std::string block = FailureText(*failure, summary, {directory_, "kjv", 0, "start again"});
  EXPECT_EQ(block,
            absl::StrCat("FAILED  job kjv at round 8 (12:03:11 UTC)\n"
                         " cause    region johor, host w-07, rank 1 (pid 8001): cannot write "
                         "/runs/x: No space left on device\n"
                         " doing    train step 3/30\n"
                         " effect   1 other workers ended with it (not the cause)\n"
                         " lost     2 committed rounds (6 to 7) must be trained again: the "
                         "newest checkpoint is of round 5\n"
                         " log      ",
                         directory_, "/johor/attempt-1/rank-1.log\n",
                         "          | first line\n"
                         "          | last words of the log\n"
                         " next     start again\n"));
}

TEST_F(TrainFailure, ARegionThatFailsAloneIsToldWithWhatItTookAndWhoWentOn) {
  Append("rounds.jsonl", "{\"round\": 40, \"seconds\": 60, \"train_loss\": 2}\n");
  const RegionEvidence oslo = Region("oslo", 137);
  Append("oslo/attempt-1/mpirun.log",
         "mpirun noticed that process rank 5 with PID 8123 on node w-07 exited on signal 9 "
         "(Killed).\n");
  auto failure = FindFailure({oslo});
  ASSERT_TRUE(failure);
  failure->doing = "inner step 16/30 of round 41, as it last said";
  FailureContext context;
  context.run_dir = directory_;
  context.job = "llama-1b";
  context.next = "starting it again in 15.0 s (2 of 5)";
  context.inner_steps = 30;
  context.goes_on = true;
  context.others = {"johor", "batam"};
  context.workers = 8;
  const std::string block = FailureText(*failure, {{"rounds_committed", 40}}, context);
  EXPECT_THAT(block,
              AllOf(HasSubstr("FAILED  region oslo of job llama-1b at round 41, step 1216\n"),
                    HasSubstr("rank 5 (pid 8123) died: killed by SIGKILL"),
                    HasSubstr(" doing    inner step 16/30 of round 41"),
                    HasSubstr("johor, batam went on\n"),
                    HasSubstr(" lost     15 inner steps of oslo (about 30.0 s of 8 workers); "
                              "committed rounds: none\n"),
                    HasSubstr(" next     starting it again in 15.0 s (2 of 5)\n")));
}

TEST_F(TrainFailure, ADeadProcessBeatsWhatItsPeersSay) {
  const RegionEvidence oslo = Region("oslo", 1), johor = Region("johor", 137);
  LeaveWords(oslo, 0, "johor is gone", true);
  Append("johor/attempt-1/mpirun.log",
         "-----\nmpirun noticed that process rank 1 with PID 8123 on node w-07 exited on signal 9 "
         "(Killed).\n-----\n");
  const auto failure = FindFailure({oslo, johor});
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->region, "johor");
  EXPECT_EQ(failure->rank, 1);
  EXPECT_EQ(failure->pid, 8123);
  EXPECT_EQ(failure->host, "w-07");
  EXPECT_EQ(failure->exit_code, 1);
  const std::string block =
      FailureText(*failure, nlohmann::json(), {directory_, "kjv", 1, "start again"});
  EXPECT_THAT(block, AllOf(HasSubstr("FAILED  job kjv at round 1\n"),
                           HasSubstr("region johor, host w-07, rank 1 (pid 8123) died: killed by "
                                     "SIGKILL, likely out of memory"),
                           HasSubstr("1 other workers ended with it")));
}

TEST_F(TrainFailure, WithoutWordsMpirunsLogIsShown) {
  const RegionEvidence oslo = Region("oslo", 213);
  Append("oslo/attempt-1/mpirun.log", "no slots\n");
  const auto failure = FindFailure({oslo});
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->what, "its mpirun ended: exit code 213");
  EXPECT_THAT(failure->log_lines, ElementsAre("no slots"));
  EXPECT_EQ(failure->exit_code, 1);
}

TEST_F(TrainFailure, RegionsThatEndedWellAreNoFailure) {
  EXPECT_FALSE(FindFailure({Region("oslo", 0), Region("johor", 75)}).has_value());
}

TEST_F(TrainFailure, AVictimAloneIsNotShownAsTheCulprit) {
  RegionEvidence oslo = Region("oslo", 1);
  LeaveWords(oslo, 0, "connection to johor broke", false);
  EXPECT_FALSE(FindFailure({oslo}).has_value());
}

}  // namespace
}  // namespace atl
