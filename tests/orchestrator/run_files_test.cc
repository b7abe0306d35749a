// The files of a run directory agree with the store.
#include "orchestrator/store/run_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

namespace atl {
namespace {

using Json = nlohmann::json;
using ::testing::ElementsAre;

class RunFilesTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = testing::TempDir() + "/run_files." + std::to_string(getpid());
    std::filesystem::create_directories(directory_);
    Reopen();
  }
  void TearDown() override {
    files_.reset();
    store_.reset();
    std::filesystem::remove_all(directory_);
  }
  void Reopen() {
    files_.reset();
    store_.reset();
    auto store = Store::Open(directory_ + "/atoll.db");
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    auto files = RunFiles::Open(directory_, store_.get());
    ASSERT_TRUE(files.ok()) << files.status();
    files_ = *std::move(files);
  }
  void Take(const std::vector<Record>& records) {
    const Status applied = store_->Apply(records);
    ASSERT_TRUE(applied.ok()) << applied;
    ASSERT_TRUE(files_->Append(records, now_).ok());
  }
  std::vector<Json> Lines(const std::string& name) {
    std::vector<Json> lines;
    std::ifstream file(directory_ + "/" + name);
    for (std::string line; std::getline(file, line);) lines.push_back(Json::parse(line));
    return lines;
  }
  std::vector<int64_t> Numbers(const std::string& name, const std::string& key) {
    std::vector<int64_t> numbers;
    for (const Json& line : Lines(name)) numbers.push_back(line[key]);
    return numbers;
  }
  Json SummaryFile() {
    std::ifstream file(directory_ + "/summary.json");
    return Json::parse(file);
  }

  double now_ = 1e9;
  std::string directory_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<RunFiles> files_;
};

JobRecord Job(const std::string& state, int64_t run = 1) {
  JobRecord record;
  record.run = run;
  record.state = state;
  record.started = 1e9 - 5;
  record.first_view = 1e9 - 4;
  record.job.set_name("test");
  record.job.set_seed(3);
  record.job.mutable_train()->set_rounds(10);
  record.job.mutable_data()->set_sequence_length(16);
  record.job.add_regions()->set_name("a");
  record.job.add_regions()->set_name("b");
  return record;
}

RegionRecord Region(const std::string& name, int64_t round) {
  RegionRecord record;
  record.name = name;
  record.state = "training";
  record.workers = 2;
  record.digest = absl::StrCat("d", round);
  record.phases.set_compute(3);
  record.phases.set_wan(1);
  return record;
}

ViewRecord View(int64_t id) {
  ViewRecord record;
  record.view.set_id(id);
  return record;
}

std::vector<Record> Round(int64_t view, int64_t round, int64_t event, double loss) {
  std::vector<Record> records;
  for (const char* region : {"a", "b"}) {
    pb::RoundReport report;
    report.set_tokens(64);
    report.set_wan_bytes_sent(100);
    records.push_back(SampleRecord{view, round, region, {{0, 4}}, SampleState::kDone, report});
    records.push_back(SampleRecord{view, round, region, {{0, 4}}, SampleState::kCommitted, {}});
    records.push_back(Region(region, round));
  }
  RoundRecord record;
  record.view = view;
  record.round = round;
  record.digest = absl::StrCat("d", round);
  record.train_loss = loss;
  record.tokens = 128;
  record.tokens_total = 128 * round;
  record.wan_bytes_sent = 200;
  record.time = 1e9;
  records.push_back(record);
  EventRecord committed{event, 1e9, "round_committed", "", round, "committed", {{"loss", loss}}};
  records.push_back(committed);
  return records;
}

TEST_F(RunFilesTest, SummaryHasEveryKeyFromTheFirstMoment) {
  Take({Job("waiting")});
  const Json summary = SummaryFile();
  for (const char* key : {"state",
                          "rounds_committed",
                          "tokens",
                          "train_loss_first",
                          "train_loss_last",
                          "validation_loss",
                          "digest",
                          "regions",
                          "wan_bytes_sent",
                          "compute_utilization",
                          "wall_seconds",
                          "validation_loss_first",
                          "job",
                          "rounds_total",
                          "reason",
                          "exit_code",
                          "resumed_from",
                          "parameters",
                          "seed",
                          "last_checkpoint"}) {
    EXPECT_TRUE(summary.contains(key)) << key;
  }
  EXPECT_EQ(summary["rounds_committed"], 0);
  EXPECT_TRUE(summary["train_loss_first"].is_null());
  ASSERT_EQ(summary["regions"].size(), 2);
  EXPECT_EQ(summary["regions"][0]["name"], "a");
}

TEST_F(RunFilesTest, FollowTheRecords) {
  Take({Job("training"), View(1)});
  Take(Round(1, 1, 1, 5.0));
  Take(Round(1, 2, 2, 4.0));
  Take({EvaluationRecord{1, 0, "", 60, 10}, EvaluationRecord{1, 2, "", 30, 10}});
  now_ += 2;
  ASSERT_TRUE(files_->Flush(now_).ok());
  EXPECT_THAT(Numbers("rounds.jsonl", "round"), ElementsAre(1, 2));
  EXPECT_THAT(Numbers("events.jsonl", "number"), ElementsAre(1, 2));
  const Json round = Lines("rounds.jsonl")[1];
  for (const char* key : {"round", "train_loss", "tokens", "digest", "seconds", "wan_seconds"}) {
    EXPECT_TRUE(round.contains(key)) << key;
  }
  const Json summary = SummaryFile();
  EXPECT_EQ(summary["rounds_committed"], 2);
  EXPECT_EQ(summary["tokens"], 256);
  EXPECT_EQ(summary["train_loss_first"], 5.0);
  EXPECT_EQ(summary["train_loss_last"], 4.0);
  EXPECT_EQ(summary["validation_loss_first"], 6.0);
  EXPECT_EQ(summary["validation_loss"], 3.0);
  EXPECT_EQ(summary["digest"], "d2");
  EXPECT_EQ(summary["regions"][1]["tokens"], 128);
  EXPECT_EQ(summary["regions"][1]["digest"], "d2");
  EXPECT_EQ(summary["wan_bytes_sent"], 400);
  EXPECT_EQ(summary["compute_utilization"], 0.75);
  EXPECT_EQ(summary["wall_seconds"], 6.0);
}

TEST_F(RunFilesTest, SummaryHasTheLinksOfTheLastHeartbeat) {
  Take({Job("training")});
  RegionRecord region = Region("a", 1);
  pb::WanLink& link = region.links.emplace_back();
  link.set_region("b");
  link.set_connections(4);
  link.set_bytes_sent(1000);
  link.set_up_rate(5e7);
  link.set_retransmitted(std::nan(""));
  Take({region, Job("done")});
  const Json links = SummaryFile()["regions"][0]["links"];
  ASSERT_EQ(links.size(), 1u);
  EXPECT_EQ(links[0]["region"], "b");
  EXPECT_EQ(links[0]["connections"], 4);
  EXPECT_EQ(links[0]["bytes_sent"], 1000);
  EXPECT_EQ(links[0]["up_bytes_per_second"], 5e7);
  EXPECT_TRUE(links[0]["rtt_seconds"].is_null()) << "not known";
  EXPECT_EQ(links[0]["retransmitted"], 0);
  EXPECT_EQ(SummaryFile()["regions"][1]["links"], Json::array());
}

TEST_F(RunFilesTest, AgreeWithTheStoreAfterACrashBetweenTransactionAndLines) {
  Take({Job("training"), View(1)});
  Take(Round(1, 1, 1, 5.0));
  ASSERT_TRUE(store_->Apply(Round(1, 2, 2, 4.0)).ok());
  // Half a line, as a kill leaves it.
  std::ofstream(directory_ + "/rounds.jsonl", std::ios::app) << "{\"round\":";
  Reopen();
  EXPECT_THAT(Numbers("rounds.jsonl", "round"), ElementsAre(1, 2));
  EXPECT_THAT(Numbers("events.jsonl", "number"), ElementsAre(1, 2));
  ASSERT_TRUE(files_->WriteSummary(now_).ok());
  EXPECT_EQ(SummaryFile()["regions"][0]["tokens"], 128);
}

TEST_F(RunFilesTest, RoundsThatAreTrainedAgainAppearOnce) {
  Take({Job("training"), View(1)});
  for (int64_t round = 1; round <= 5; ++round) Take(Round(1, round, round, 6.0 - round));
  Reopen();
  Take({Job("starting", 2), SupersedeRecord{3, "d3"}, View(2)});
  EXPECT_THAT(Numbers("rounds.jsonl", "round"), ElementsAre(1, 2, 3));
  Take(Round(2, 4, 6, 2.0));
  EXPECT_THAT(Numbers("rounds.jsonl", "round"), ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(Numbers("events.jsonl", "number"), ElementsAre(1, 2, 3, 4, 5, 6));
  ASSERT_TRUE(files_->WriteSummary(now_).ok());
  EXPECT_EQ(SummaryFile()["rounds_committed"], 4);
  EXPECT_EQ(SummaryFile()["regions"][0]["tokens"], 4 * 64);
  EXPECT_EQ(SummaryFile()["wan_bytes_sent"], 4 * 200);
  EXPECT_EQ(SummaryFile()["train_loss_first"], 5.0);
}

TEST_F(RunFilesTest, SummaryIsWrittenAtMostOnceASecondButAtOnceWhenTheStateChanges) {
  Take({Job("training"), View(1)});
  now_ += 0.1;
  Take(Round(1, 1, 1, 5.0));
  EXPECT_EQ(SummaryFile()["rounds_committed"], 0);
  EXPECT_TRUE(files_->dirty());
  Take({Job("done")});
  EXPECT_EQ(SummaryFile()["state"], "done");
  EXPECT_EQ(SummaryFile()["rounds_committed"], 1);
}

// Regions in which the newest checkpoint is not what it is elsewhere.
class DifferingTest : public RunFilesTest {
 protected:
  void Event(const std::string& kind, const std::string& region, int64_t round) {
    EventRecord event;
    event.number = ++number_;
    event.time = now_;
    event.kind = kind;
    event.region = region;
    event.round = round;
    Take({event});
  }
  void Complete(int64_t round) {
    CheckpointRecord record;
    record.view = 1;
    record.region = "a";
    record.checkpoint.set_round(round);
    record.complete = true;
    Take({record});
  }
  // As it is told now, and after a restart.
  std::vector<std::string> Differing() {
    now_ += 100;  // it is not written with each record
    Take({Job("training")});
    const Json differing = SummaryFile()["last_checkpoint_differs_in"];
    Reopen();
    Take({Job("training")});
    EXPECT_EQ(SummaryFile()["last_checkpoint_differs_in"], differing);
    return differing;
  }
  int64_t number_ = 0;
};

TEST_F(DifferingTest, TheSummaryNamesThemUntilTheyAreMended) {
  Take({Job("training"), View(1), Region("a", 1)});
  Complete(4);
  EXPECT_THAT(Differing(), ElementsAre());
  Event("checkpoint_differs", "a", 4);
  Event("checkpoint_differs", "b", 4);
  EXPECT_THAT(Differing(), ElementsAre("a", "b"));
  Event("checkpoint_decided", "b", 4);
  EXPECT_THAT(Differing(), ElementsAre("b"));
  Event("checkpoint_mended", "b", 4);
  EXPECT_THAT(Differing(), ElementsAre());
}

TEST_F(DifferingTest, OfTheNewestCheckpointAlone) {
  Take({Job("training"), View(1), Region("a", 1)});
  Complete(4);
  Event("checkpoint_differs", "a", 4);
  Complete(6);
  EXPECT_THAT(Differing(), ElementsAre());
  Event("checkpoint_differs", "b", 6);
  Event("checkpoint_mended", "a", 4);
  Event("checkpoint_mended", "b", 5);
  EXPECT_THAT(Differing(), ElementsAre("b"));
}

}  // namespace
}  // namespace atl
