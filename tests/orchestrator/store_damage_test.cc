// The store when things break: killed in the middle of writing, a full disk, alien and damaged
// files.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "base/env.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "orchestrator/store/run_files.h"
#include "orchestrator/store/store.h"

namespace atl {
namespace {

using ::testing::HasSubstr;

class StoreDamage : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = testing::TempDir() + "/store_damage." + std::to_string(getpid());
    std::filesystem::create_directories(directory_);
    path_ = directory_ + "/atoll.db";
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::string directory_;
  std::string path_;
};

std::vector<Record> Step(int64_t round) {
  RoundRecord record;
  record.view = 1;
  record.round = round;
  record.digest = absl::StrCat("d", round);
  EventRecord event;
  event.number = round;
  event.kind = "round_committed";
  event.round = round;
  event.text = std::string(500, 'x');
  return {record, event};
}

TEST_F(StoreDamage, AWriterKilledAtAnyMomentLeavesWholeSteps) {
  int acknowledged[2];
  ASSERT_EQ(pipe(acknowledged), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    auto store = Store::Open(path_);
    ViewRecord view;
    view.view.set_id(1);
    if (!store.ok() || !(*store)->Apply({view}).ok()) _exit(1);
    for (int64_t round = 1;; ++round) {
      if (!(*store)->Apply(Step(round)).ok()) _exit(1);
      if (write(acknowledged[1], &round, sizeof round) != sizeof round) _exit(1);
    }
  }
  close(acknowledged[1]);
  int64_t last = 0;
  while (last < 200) ASSERT_EQ(read(acknowledged[0], &last, sizeof last), sizeof last);
  kill(child, SIGKILL);
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  while (read(acknowledged[0], &last, sizeof last) == sizeof last) {
  }
  close(acknowledged[0]);

  auto store = Store::Open(path_);
  ASSERT_TRUE(store.ok()) << store.status();
  int64_t rounds = 0;
  ASSERT_TRUE(
      (*store)->ForEachRound([&](const RoundRecord& r) { EXPECT_EQ(r.round, ++rounds); }).ok());
  EXPECT_GE(rounds, last) << "an acknowledged step was lost";
  EXPECT_EQ((*store)->LoadHistory()->last_event, rounds) << "half a step is there";
}

TEST_F(StoreDamage, AFullDiskIsNamedAndTheStoreStaysWhole) {
  if (!IsRoot()) GTEST_SKIP() << "mounting a small file system needs root";
  const std::string small = directory_ + "/small";
  std::filesystem::create_directories(small);
  if (mount("tmpfs", small.c_str(), "tmpfs", 0, "size=512k") != 0) {
    GTEST_SKIP() << "this container may not mount";
  }
  {
    auto store = Store::Open(small + "/atoll.db");
    ASSERT_TRUE(store.ok()) << store.status();
    ViewRecord view;
    view.view.set_id(1);
    ASSERT_TRUE((*store)->Apply({view}).ok());
    Status status;
    int64_t round = 0;
    while (status.ok() && round < 10000) status = (*store)->Apply(Step(++round));
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(ExitCodeOf(status), ExitCode::kEnvironment) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(small + "/atoll.db"));
    int64_t rounds = 0;
    EXPECT_TRUE((*store)->ForEachRound([&](const RoundRecord&) { ++rounds; }).ok());
    EXPECT_EQ(rounds, round - 1);
  }
  EXPECT_EQ(umount2(small.c_str(), MNT_DETACH), 0);
}

TEST_F(StoreDamage, AFileThatIsNoDatabaseIsRefused) {
  std::ofstream(path_) << std::string(5000, 'x');
  const auto store = Store::Open(path_);
  EXPECT_EQ(ExitCodeOf(store.status()), ExitCode::kUsage);
  EXPECT_THAT(std::string(store.status().message()), HasSubstr(path_));
}

void Execute(const std::string& path, const std::string& sql) {
  sqlite3* database = nullptr;
  ASSERT_EQ(sqlite3_open(path.c_str(), &database), SQLITE_OK);
  EXPECT_EQ(sqlite3_exec(database, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(database);
}

TEST_F(StoreDamage, AnotherProgramsDatabaseIsRefused) {
  Execute(path_, "CREATE TABLE t(x)");
  const auto store = Store::Open(path_);
  EXPECT_EQ(ExitCodeOf(store.status()), ExitCode::kUsage);
  EXPECT_THAT(std::string(store.status().message()), HasSubstr("is not atoll's"));
}

TEST_F(StoreDamage, ANewerSchemaIsRefused) {
  ASSERT_TRUE(Store::Open(path_).ok());
  Execute(path_, "PRAGMA user_version=99");
  const auto store = Store::Open(path_);
  EXPECT_EQ(ExitCodeOf(store.status()), ExitCode::kUsage);
  EXPECT_THAT(std::string(store.status().message()), HasSubstr("schema version 99"));
}

TEST_F(StoreDamage, ADirectoryThatMayNotBeWrittenIsTheEnvironmentsFault) {
  if (IsRoot()) GTEST_SKIP() << "root may write everywhere";
  std::filesystem::permissions(
      directory_, std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec);
  const auto store = Store::Open(path_);
  EXPECT_EQ(ExitCodeOf(store.status()), ExitCode::kEnvironment);
  std::filesystem::permissions(directory_, std::filesystem::perms::owner_all);
}

TEST_F(StoreDamage, DamagedPagesAreAnErrorAndNoCrash) {
  {
    auto store = Store::Open(path_);
    ASSERT_TRUE(store.ok());
    ViewRecord view;
    view.view.set_id(1);
    ASSERT_TRUE((*store)->Apply({view}).ok());
    for (int64_t round = 1; round <= 300; ++round) ASSERT_TRUE((*store)->Apply(Step(round)).ok());
  }
  const auto size = std::filesystem::file_size(path_);
  std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
  for (uint64_t at = 4096; at < size; at += 64) {
    file.seekp(static_cast<std::streamoff>(at));
    file.write("\xff\xff\xff\xff\xff\xff\xff\xff", 8);
  }
  file.close();
  auto store = Store::Open(path_);
  Status status = store.status();
  if (status.ok()) status = RunFiles::Open(directory_, store->get()).status();
  EXPECT_EQ(ExitCodeOf(status), ExitCode::kUsage) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(path_));
}

}  // namespace
}  // namespace atl
