// The whole orchestrator with a real control plane, store and files, and regions without models.
#include "orchestrator/server/daemon.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/env.h"
#include "base/exit_code.h"
#include "tests/orchestrator/fake_leader.h"

namespace atl {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

constexpr int kRounds = 6;

class DaemonTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = testing::TempDir() + "/daemon_test." + std::to_string(getpid());
    std::filesystem::create_directories(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  Daemon::Options Options(const std::string& run_dir = "run") {
    Daemon::Options options;
    options.job.set_name("test");
    options.job.set_resume("auto");
    options.job.mutable_model()->set_preset("test-1m");
    options.job.mutable_data()->set_tokens("/nowhere");
    options.job.mutable_data()->set_sequence_length(16);
    options.job.mutable_train()->set_rounds(kRounds);
    options.job.mutable_train()->set_global_batch(8);
    options.job.mutable_train()->set_inner_steps(2);
    options.job.add_regions()->set_name("a");
    options.job.add_regions()->set_name("b");
    options.run_dir = directory_ + "/" + run_dir;
    options.keys_dir = directory_ + "/keys";
    options.listen = "tcp://127.0.0.1:0";
    return options;
  }
  std::unique_ptr<Daemon> Start(Daemon::Options options) {
    auto daemon = Daemon::Create(std::move(options));
    EXPECT_TRUE(daemon.ok()) << daemon.status();
    return daemon.ok() ? *std::move(daemon) : nullptr;
  }
  FakeLeader::Options Leader(const Daemon& daemon, const std::string& region) {
    FakeLeader::Options options;
    options.address = daemon.address();
    options.lease = *LoadLease(absl::StrCat(directory_, "/keys/", region, ".lease"));
    return options;
  }
  Json ReadJson(const std::string& name) {
    std::ifstream file(directory_ + "/" + name);
    return Json::parse(file, nullptr, false);
  }
  std::vector<Json> Lines(const std::string& name) {
    std::vector<Json> lines;
    std::ifstream file(directory_ + "/" + name);
    for (std::string line; std::getline(file, line);) lines.push_back(Json::parse(line));
    return lines;
  }

  std::string directory_;
};

TEST_F(DaemonTest, RunsAJobToItsEnd) {
  const auto daemon = Start(Options());
  ASSERT_TRUE(daemon);
  EXPECT_EQ(ReadJson("run/orchestrator.json")["address"], daemon->address());
  EXPECT_EQ(ReadJson("run/orchestrator.json")["pid"], getpid());
  FakeLeader a(Leader(*daemon, "a"));
  FakeLeader b(Leader(*daemon, "b"));
  EXPECT_EQ(daemon->Run(), 0);
  ASSERT_TRUE(a.Join());
  ASSERT_TRUE(b.Join());
  EXPECT_EQ(a.Join()->state(), "done");
  const Json summary = ReadJson("run/summary.json");
  EXPECT_EQ(summary["state"], "done");
  EXPECT_EQ(summary["exit_code"], 0);
  EXPECT_EQ(summary["rounds_committed"], kRounds);
  EXPECT_EQ(summary["tokens"], kRounds * 8 * 2 * 16);
  EXPECT_EQ(summary["train_loss_first"], 8.0);
  EXPECT_EQ(summary["train_loss_last"], 8.0 / kRounds);
  EXPECT_EQ(summary["validation_loss"], 3.0);
  EXPECT_EQ(summary["digest"], absl::StrCat("digest-", kRounds));
  EXPECT_EQ(summary["wan_bytes_sent"], kRounds * 2 * 1000);
  EXPECT_EQ(summary["last_checkpoint"], kRounds);
  EXPECT_GT(summary["wall_seconds"], 0.0);
  EXPECT_GT(summary["compute_utilization"], 0.5);
  ASSERT_EQ(summary["regions"].size(), 2);
  for (const Json& region : summary["regions"]) {
    EXPECT_EQ(region["workers"], 2);
    EXPECT_EQ(region["digest"], absl::StrCat("digest-", kRounds));
    EXPECT_EQ(region["tokens"], kRounds * 4 * 2 * 16);
  }
  const std::vector<Json> rounds = Lines("run/rounds.jsonl");
  ASSERT_EQ(rounds.size(), kRounds);
  for (int i = 0; i < kRounds; ++i) EXPECT_EQ(rounds[i]["round"], i + 1);
  const std::vector<Json> events = Lines("run/events.jsonl");
  for (size_t i = 0; i < events.size(); ++i) EXPECT_EQ(events[i]["number"], i + 1);
  EXPECT_EQ(events.back()["kind"], "job_ended");
}

TEST_F(DaemonTest, StopsInGoodOrderAndGoesOnFromThere) {
  {
    const auto daemon = Start(Options());
    ASSERT_TRUE(daemon);
    FakeLeader::Options first = Leader(*daemon, "a");
    FakeLeader::Options second = Leader(*daemon, "b");
    first.wait_after_round = second.wait_after_round = 3;
    std::atomic<int> waiting{0};
    first.on_waiting = second.on_waiting = [&] {
      if (++waiting == 2) daemon->RequestStop(SIGTERM);
    };
    FakeLeader a(first);
    FakeLeader b(second);
    EXPECT_EQ(daemon->Run(), 75);
    ASSERT_TRUE(a.Join());
    EXPECT_EQ(a.Join()->state(), "stopped");
  }
  EXPECT_FALSE(std::filesystem::exists(directory_ + "/run/orchestrator.json"));
  EXPECT_EQ(ReadJson("run/summary.json")["rounds_committed"], 3);
  {
    const auto daemon = Start(Options());
    ASSERT_TRUE(daemon);
    FakeLeader::Options first = Leader(*daemon, "a");
    FakeLeader::Options second = Leader(*daemon, "b");
    pb::CheckpointOnDisk checkpoint;
    checkpoint.set_round(2);
    checkpoint.set_digest("digest-2");
    checkpoint.set_path("/somewhere");
    checkpoint.set_own(true);
    checkpoint.set_next_sample(2 * 16);
    checkpoint.set_inner_steps(4);
    first.checkpoints = second.checkpoints = {checkpoint};
    FakeLeader a(first);
    FakeLeader b(second);
    EXPECT_EQ(daemon->Run(), 0);
  }
  const Json summary = ReadJson("run/summary.json");
  EXPECT_EQ(summary["rounds_committed"], kRounds);
  EXPECT_EQ(summary["resumed_from"], 2);
  EXPECT_EQ(summary["run"], 2);
  EXPECT_EQ(summary["tokens"], kRounds * 8 * 2 * 16);
  EXPECT_EQ(summary["regions"][0]["tokens"], kRounds * 4 * 2 * 16) << "round 3 counts once";
  EXPECT_EQ(Lines("run/rounds.jsonl").size(), kRounds);
}

TEST_F(DaemonTest, ASecondOneInTheSameDirectoryIsRefused) {
  const auto daemon = Start(Options());
  ASSERT_TRUE(daemon);
  const auto second = Daemon::Create(Options());
  EXPECT_EQ(ExitCodeOf(second.status()), ExitCode::kEnvironment);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("another orchestrator runs in"));
}

TEST_F(DaemonTest, APortInUseIsNamed) {
  const auto daemon = Start(Options());
  ASSERT_TRUE(daemon);
  Daemon::Options options = Options("other");
  options.listen = daemon->address();
  const auto second = Daemon::Create(options);
  EXPECT_EQ(ExitCodeOf(second.status()), ExitCode::kEnvironment);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(daemon->address()));
}

TEST_F(DaemonTest, AStopBeforeAnyRegionCameEndsAtOnce) {
  const auto daemon = Start(Options());
  ASSERT_TRUE(daemon);
  daemon->RequestStop(SIGINT);
  EXPECT_EQ(daemon->Run(), 75);
  EXPECT_EQ(ReadJson("run/summary.json")["state"], "stopped");
}

TEST_F(DaemonTest, AFullDiskIsToldToTheRegions) {
  if (!IsRoot()) GTEST_SKIP() << "mounting a small file system needs root";
  const std::string small = directory_ + "/small";
  std::filesystem::create_directories(small);
  if (mount("tmpfs", small.c_str(), "tmpfs", 0, "size=640k") != 0) {
    GTEST_SKIP() << "this container may not mount";
  }
  Daemon::Options options = Options("small");
  options.job.mutable_train()->set_rounds(20000);
  {
    const auto daemon = Start(options);
    ASSERT_TRUE(daemon);
    FakeLeader::Options first = Leader(*daemon, "a");
    FakeLeader::Options second = Leader(*daemon, "b");
    first.wait_after_round = second.wait_after_round = 4000;
    FakeLeader a(first);
    FakeLeader b(second);
    EXPECT_EQ(daemon->Run(), 4);
    ASSERT_TRUE(a.Join());
    EXPECT_EQ(a.Join()->state(), "failed");
    EXPECT_EQ(a.Join()->exit_code(), 4);
    EXPECT_THAT(a.Join()->reason(), HasSubstr(small));
  }
  EXPECT_EQ(umount2(small.c_str(), MNT_DETACH), 0);
}

}  // namespace
}  // namespace atl
