// Kill points, full disks and failing disks for repair and prune: what was there, or what was to
// be, is whole; never neither.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <map>

#include "base/exit_code.h"
#include "base/file.h"
#include "checkpoint/names.h"
#include "checkpoint/repair.h"
#include "checkpoint/retention.h"
#include "tests/checkpoint/checkpoint_test_util.h"
#include "tests/checkpoint/fault_calls.h"

namespace atl::checkpoint {
namespace {

namespace fs = std::filesystem;

std::map<std::string, std::string> Contents(const std::string& directory) {
  std::map<std::string, std::string> contents;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    if (!entry.is_regular_file()) continue;
    contents[entry.path().lexically_relative(directory).string()] =
        ReadFile(entry.path().string()).value_or("unreadable");
  }
  return contents;
}

// Three rounds of a small job in "good", and in "work" a copy that is disturbed.
class Disturbed : public testing::Test {
 protected:
  void SetUp() override {
    SaveJob job;
    job.directory = directory_.path() + "/good";
    job.tensors = {{"a", {10, 30}, {0, 300}}, {"b", {77}, {512, 589}}};
    job.max_file_bytes = 1000;
    job.prefixes = {"model", "optim/exp_avg"};
    for (job.round = 40; job.round <= 42; ++job.round) {
      for (const auto& result : SaveEverywhere(job)) ASSERT_TRUE(result.ok()) << result.status();
    }
    good_ = Contents(job.directory + "/round-000042");
  }

  std::string Work() const { return directory_.path() + "/work"; }
  std::string Newest() const { return Work() + "/round-000042"; }

  void StartOver() const {
    fs::remove_all(Work());
    fs::copy(directory_.path() + "/good", Work(), fs::copy_options::recursive);
  }
  // A missing file, a damaged one and a lost hash file.
  void DamageNewest() {
    StartOver();
    fs::remove(Newest() + "/model-00001-of-00002.safetensors");
    fs::resize_file(Newest() + "/optim/exp_avg-00002-of-00002.safetensors", 4100);
    fs::remove(Newest() + "/chunks/model-00002-of-00002.safetensors.b32");
    damaged_ = Contents(Newest());
  }

  StatusOr<RepairResult> RepairNewest() const {
    RepairOptions options;
    options.path = Newest();
    options.sources.push_back(MakeDirectorySource(directory_.path() + "/good/round-000042"));
    return Repair(options);
  }
  StatusOr<PruneResult> PruneToOne() const {
    PruneOptions options;
    options.directory = Work();
    options.keep = 1;
    return Prune(options);
  }

  // The number of calls that `work` makes.
  static int64_t Count(const std::function<Status()>& work) {
    ArmFault(Fault::kNone, 0);
    const Status status = work();
    const int64_t calls = DisarmFault();
    EXPECT_TRUE(status.ok()) << status;
    return calls;
  }
  static bool KilledAt(int64_t call, const std::function<Status()>& work) {
    const pid_t child = fork();
    if (child == 0) {
      ArmFault(Fault::kKill, call);
      (void)work();
      _exit(0);
    }
    int result = 0;
    while (waitpid(child, &result, 0) < 0 && errno == EINTR) {
    }
    return WIFSIGNALED(result) && WTERMSIG(result) == SIGKILL;
  }

  TemporaryDirectory directory_;
  std::map<std::string, std::string> good_, damaged_;
  const std::function<Status()> repair_ = [this] { return RepairNewest().status(); };
  const std::function<Status()> prune_ = [this] { return PruneToOne().status(); };
};

TEST_F(Disturbed, RepairKilledAtAnyCallLeavesTheOldOrTheNewWhole) {
  DamageNewest();
  const int64_t calls = Count(repair_);
  ASSERT_GT(calls, 30);
  int old_ones = 0, new_ones = 0;
  for (int64_t call = 0; call < calls; ++call) {
    SCOPED_TRACE(call);
    DamageNewest();
    ASSERT_TRUE(KilledAt(call, repair_));
    const auto left = Contents(Newest());
    ASSERT_TRUE(left == damaged_ || left == good_);
    (left == good_ ? new_ones : old_ones)++;
    EXPECT_TRUE(left == good_ || new_ones == 0);
    // The next one finishes it and clears what was left.
    const auto again = RepairNewest();
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_TRUE(again->whole());
    EXPECT_TRUE(Contents(Newest()) == good_);
    EXPECT_EQ(NamesIn(Work()).size(), 4u) << testing::PrintToString(NamesIn(Work()));
  }
  EXPECT_GT(old_ones, 20);
  EXPECT_GT(new_ones, 3);
}

TEST_F(Disturbed, RepairOnAFullOrFailingDiskLeavesTheOldOneAlone) {
  DamageNewest();
  const int64_t calls = Count(repair_);
  for (const Fault fault : {Fault::kNoSpace, Fault::kIoError}) {
    int failures = 0;
    for (int64_t call = 0; call < calls; ++call) {
      SCOPED_TRACE(call);
      DamageNewest();
      ArmFault(fault, call);
      const auto result = RepairNewest();
      DisarmFault();
      EXPECT_TRUE(Contents(Newest()) == (result.ok() ? good_ : damaged_)) << result.status();
      if (result.ok()) continue;
      ++failures;
      EXPECT_EQ(ExitCodeOf(result.status()), ExitCode::kEnvironment) << result.status();
      EXPECT_EQ(NamesIn(Work()).size(), 4u) << testing::PrintToString(NamesIn(Work()));
    }
    EXPECT_GT(failures, 15);
  }
}

TEST_F(Disturbed, PruneKilledAtAnyCallLeavesWholeCheckpointsOnly) {
  StartOver();
  const int64_t calls = Count(prune_);
  ASSERT_GT(calls, 20);
  for (int64_t call = 0; call < calls; ++call) {
    SCOPED_TRACE(call);
    StartOver();
    ASSERT_TRUE(KilledAt(call, prune_));
    ASSERT_TRUE(Contents(Newest()) == good_);
    std::vector<std::string> ignored;
    for (const Found& found : List(Work(), &ignored)) {
      const auto checkpoint = Checkpoint::Open(found.path);
      ASSERT_TRUE(checkpoint.ok() && (*checkpoint)->Verify().ok()) << found.path;
    }
    for (const std::string& line : ignored) {
      EXPECT_TRUE(line.find(".removed: ") != std::string::npos) << line;
    }
    ASSERT_TRUE(PruneToOne().ok());
    EXPECT_THAT(NamesIn(Work()), testing::ElementsAre(".lock", "round-000042"));
  }
}

TEST_F(Disturbed, PruneOnAFailingDiskSaysWhatStays) {
  StartOver();
  const int64_t calls = Count(prune_);
  int failures = 0;
  for (int64_t call = 0; call < calls; ++call) {
    SCOPED_TRACE(call);
    StartOver();
    ArmFault(Fault::kIoError, call);
    const auto result = PruneToOne();
    DisarmFault();
    ASSERT_TRUE(Contents(Newest()) == good_);
    const bool told = !result.ok() || !result->failures.empty();
    failures += told ? 1 : 0;
    EXPECT_TRUE(told || !fs::exists(Work() + "/round-000040")) << call;
  }
  EXPECT_GT(failures, 15);
}

}  // namespace
}  // namespace atl::checkpoint
