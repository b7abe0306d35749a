// Kill points, full disks and failing ranks: afterwards the old or the new checkpoint is whole,
// every rank knows the same, and nothing half-done is left.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "base/exit_code.h"
#include "base/file.h"
#include "base/random.h"
#include "checkpoint/names.h"
#include "checkpoint/staging.h"
#include "tests/checkpoint/checkpoint_test_util.h"
#include "tests/checkpoint/fault_calls.h"

namespace atl::checkpoint {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const char kOldDigest[] = "0000000000000000000000000000000a";
const char kNewDigest[] = "0000000000000000000000000000000b";

// Small, so that it can be saved hundreds of times.
SaveJob SmallJob(const std::string& directory, int ranks) {
  SaveJob job;
  job.directory = directory;
  job.ranks = ranks;
  job.tensors = {{"a", {10, 30}, {0, 300}}, {"b", {77}, {512, 589}}};
  job.max_file_bytes = 1000;
  job.prefixes = {"model", "optim/exp_avg"};
  job.digest = kOldDigest;
  job.way = WriteWay::kPlain;  // whose calls the faults see
  return job;
}

// A scene: what is there before, and the save that is disturbed.
struct Scene {
  std::string name;
  SaveJob before;
  SaveJob disturbed;
};

std::vector<Scene> Scenes(const std::string& directory, int ranks) {
  Scene first = {"after an older round, which is then removed", SmallJob(directory, ranks),
                 SmallJob(directory, ranks)};
  first.disturbed.round = 42;
  first.disturbed.digest = kNewDigest;
  first.disturbed.keep = 1;
  Scene again = {"in the place of the same round", SmallJob(directory, ranks),
                 SmallJob(directory, ranks)};
  again.disturbed.digest = kNewDigest;
  return {first, again};
}

void MustSave(const SaveJob& job) {
  for (const auto& result : SaveEverywhere(job)) ASSERT_TRUE(result.ok()) << result.status();
}

// The newest checkpoint is whole and is the old or the new one; values follow from its round.
// Returns its digest.
std::string ExpectOneIsWhole(const Scene& scene) {
  std::vector<std::string> ignored;
  const std::vector<Found> found = List(scene.before.directory, &ignored);
  if (found.empty()) {
    ADD_FAILURE() << "neither is there; ignored: " << testing::PrintToString(ignored);
    return "";
  }
  for (const Found& each : found) {
    const auto checkpoint = Checkpoint::Open(each.path);
    EXPECT_TRUE(checkpoint.ok() && (*checkpoint)->Verify().ok()) << each.path;
    ExpectHolds(each.path, each.description.round, scene.before.tensors, scene.before.prefixes, 1,
                1);
  }
  return found[0].description.digest;
}

// Whatever was left is cleared by the next save.
void ExpectNextSaveClears(const Scene& scene) {
  SaveJob next = SmallJob(scene.before.directory, 1);
  next.round = 50;
  next.keep = 1;
  MustSave(next);
  EXPECT_THAT(NamesIn(scene.before.directory), ElementsAre(".lock", "round-000050"));
}

// Saves what is there before, once; then copies of it.
void StartOver(const Scene& scene) {
  const std::string kept = scene.before.directory + ".kept-" + scene.disturbed.digest +
                           std::to_string(scene.disturbed.round);
  if (!std::filesystem::exists(kept)) {
    SaveJob before = scene.before;
    before.directory = kept;
    MustSave(before);
  }
  std::filesystem::remove_all(scene.before.directory);
  std::filesystem::copy(kept, scene.before.directory, std::filesystem::copy_options::recursive);
}

int64_t CountCalls(const Scene& scene) {
  StartOver(scene);
  ArmFault(Fault::kNone, 0);
  MustSave(scene.disturbed);
  return DisarmFault();
}

// Runs the disturbed save in a child that is killed at its `call`-th call. True if it was.
bool SaveAndBeKilled(const Scene& scene, int64_t call) {
  const pid_t child = fork();
  if (child == 0) {
    ArmFault(Fault::kKill, call);
    SaveEverywhere(scene.disturbed);
    _exit(0);
  }
  int result = 0;
  while (waitpid(child, &result, 0) < 0 && errno == EINTR) {
  }
  return WIFSIGNALED(result) && WTERMSIG(result) == SIGKILL;
}

TEST(Save, KilledAtAnyCallLeavesTheOldOrTheNewCheckpointWhole) {
  TemporaryDirectory directory;
  for (const Scene& scene : Scenes(directory.path() + "/checkpoints", 1)) {
    SCOPED_TRACE(scene.name);
    const int64_t calls = CountCalls(scene);
    ASSERT_GT(calls, 40);
    int old_ones = 0, new_ones = 0;
    for (int64_t call = 0; call < calls; ++call) {
      SCOPED_TRACE(call);
      StartOver(scene);
      ASSERT_TRUE(SaveAndBeKilled(scene, call));
      const std::string digest = ExpectOneIsWhole(scene);
      ASSERT_TRUE(digest == kOldDigest || digest == kNewDigest);
      (digest == kOldDigest ? old_ones : new_ones)++;
      // Once new, new for ever: nothing after the commit takes it back.
      EXPECT_TRUE(digest == kNewDigest || new_ones == 0);
      if (call % 8 == 0) ExpectNextSaveClears(scene);
    }
    EXPECT_GT(old_ones, 10);
    EXPECT_GT(new_ones, 1);
  }
}

TEST(Save, OfSeveralRanksKilledAtRandomLeavesTheOldOrTheNewCheckpointWhole) {
  TemporaryDirectory directory;
  const CounterRandom random(20240609);
  for (const Scene& scene : Scenes(directory.path() + "/checkpoints", 3)) {
    SCOPED_TRACE(scene.name);
    const int64_t calls = CountCalls(scene);
    for (int i = 0; i < 20; ++i) {
      const auto call = static_cast<int64_t>(random.Bits(i) % static_cast<uint64_t>(calls));
      SCOPED_TRACE(call);
      StartOver(scene);
      ASSERT_TRUE(SaveAndBeKilled(scene, call));
      const std::string digest = ExpectOneIsWhole(scene);
      ASSERT_TRUE(digest == kOldDigest || digest == kNewDigest);
      if (i % 5 == 0) ExpectNextSaveClears(scene);
    }
  }
}

// A fault at every call: all ranks hear the same, and what was there stays.
void ExpectFaultsAreSurvived(const Scene& scene, Fault fault, int64_t step) {
  const int64_t calls = CountCalls(scene);
  int failures = 0;
  for (int64_t call = 0; call < calls; call += step) {
    SCOPED_TRACE(call);
    StartOver(scene);
    ArmFault(fault, call);
    const auto results = SaveEverywhere(scene.disturbed);
    DisarmFault();
    for (const auto& result : results) {
      EXPECT_EQ(result.status(), results[0].status());
      if (result.ok()) continue;
      EXPECT_EQ(ExitCodeOf(result.status()), ExitCode::kEnvironment) << result.status();
      if (fault == Fault::kNoSpace) {
        EXPECT_THAT(result.status().ToString(), HasSubstr("bytes free"));
      }
    }
    EXPECT_EQ(ExpectOneIsWhole(scene), results[0].ok() ? kNewDigest : kOldDigest);
    if (results[0].ok()) continue;
    ++failures;
    for (const std::string& name : NamesIn(scene.before.directory)) {
      EXPECT_FALSE(IsLeftoverName(name)) << name << " is left after " << results[0].status();
    }
  }
  EXPECT_GT(failures, 5);
}

TEST(Save, OnADiskThatFillsUpAtAnyCallKeepsWhatIsThere) {
  TemporaryDirectory directory;
  for (const Scene& scene : Scenes(directory.path() + "/checkpoints", 1)) {
    SCOPED_TRACE(scene.name);
    ExpectFaultsAreSurvived(scene, Fault::kNoSpace, 3);
  }
}

TEST(Save, WithAnErrorOfTheDiskAtAnyCallKeepsWhatIsThere) {
  TemporaryDirectory directory;
  for (const Scene& scene : Scenes(directory.path() + "/checkpoints", 1)) {
    SCOPED_TRACE(scene.name);
    ExpectFaultsAreSurvived(scene, Fault::kIoError, 1);
  }
}

TEST(Save, WithAFaultInOneOfSeveralRanksTellsAllOfThem) {
  TemporaryDirectory directory;
  for (const Scene& scene : Scenes(directory.path() + "/checkpoints", 3)) {
    SCOPED_TRACE(scene.name);
    ExpectFaultsAreSurvived(scene, Fault::kIoError, 5);
    ExpectFaultsAreSurvived(scene, Fault::kNoSpace, 7);
  }
}

// A communicator that goes away at its `at`-th collective call.
class VanishingCommunicator : public Communicator {
 public:
  VanishingCommunicator(Communicator& inner, int at) : inner_(inner), at_(at) {}
  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  std::string backend() const override { return inner_.backend(); }
  Status AllReduce(float* data, int64_t count) override { return inner_.AllReduce(data, count); }
  Status ReduceScatter(float* data, std::span<const Range> ranges) override {
    return inner_.ReduceScatter(data, ranges);
  }
  Status AllGather(float* data, std::span<const Range> ranges) override {
    return inner_.AllGather(data, ranges);
  }
  Status Broadcast(std::string* bytes, int root) override { return inner_.Broadcast(bytes, root); }
  StatusOr<std::vector<std::string>> AllGatherBytes(const std::string& bytes) override {
    if (at_-- > 0) return inner_.AllGatherBytes(bytes);
    // Another method than the others call fails all of them, as a lost process does.
    (void)inner_.Barrier();
    return absl::UnavailableError("gone");
  }
  Status Barrier() override { return inner_.Barrier(); }

 private:
  Communicator& inner_;
  int at_;
};

TEST(Save, WithARankThatVanishesLeavesNoStagingDirectory) {
  for (int at = 0; at < 5; ++at) {
    SCOPED_TRACE(at);
    TemporaryDirectory directory;
    const SaveJob job = SmallJob(directory.path(), 3);
    const std::vector<float> flat = FlatVector(job.tensors, job.round, 0);
    std::vector<Status> statuses(3);
    RunRegion(3, [&](int rank, Communicator& region) {
      SaveOptions options = OptionsOf(job);
      for (Section& section : options.sections) {
        const Range range = Cut(FlatSize(job.tensors), 3, 5)[rank];
        section.slices = {{range, flat.data() + range.begin}};
      }
      VanishingCommunicator vanishing(region, rank == 1 ? at : 1000);
      statuses[rank] = Save(options, vanishing).status();
    });
    for (const Status& status : statuses) EXPECT_FALSE(status.ok());
    for (const std::string& name : NamesIn(directory.path())) {
      EXPECT_TRUE(name == ".lock" || name == "round-000041") << name;
    }
  }
}

TEST(Save, OnASmallDiskSaysWhatItNeedsAndWhatIsFree) {
  TemporaryDirectory directory;
  if (mount("tmpfs", directory.path().c_str(), "tmpfs", 0, "size=2m") != 0) {
    GTEST_SKIP() << "mounting a small disk needs root; the faults above stand for it";
  }
  SaveJob small = SmallJob(directory.path() + "/checkpoints", 1);
  MustSave(small);
  SaveJob large = small;
  large.round = 42;
  large.ranks = 2;
  large.tensors = {{"a", {1'000'000}, {0, 1'000'000}}};
  const auto results = SaveEverywhere(large);
  const std::vector<std::string> names = NamesIn(small.directory);
  const auto kept = List(small.directory, nullptr);
  umount(directory.path().c_str());
  for (const auto& result : results) {
    EXPECT_EQ(ExitCodeOf(result.status()), ExitCode::kEnvironment);
    EXPECT_THAT(result.status().ToString(), HasSubstr("disk full"));
    EXPECT_THAT(result.status().ToString(), HasSubstr("bytes free"));
    EXPECT_THAT(result.status().ToString(), HasSubstr("Older checkpoints are kept"));
    EXPECT_EQ(result.status(), results[0].status());
  }
  EXPECT_THAT(names, ElementsAre(".lock", "round-000041"));
  EXPECT_EQ(kept.size(), 1u);
}

TEST(Save, BelowALimitOnTheSizeOfFilesFailsCleanly) {
  TemporaryDirectory directory;
  const pid_t child = fork();
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {5000, 5000};
    setrlimit(RLIMIT_FSIZE, &limit);
    const auto results = SaveEverywhere(SmallJob(directory.path(), 2));
    _exit(results[0].status() == results[1].status()
              ? static_cast<int>(ExitCodeOf(results[0].status()))
              : 99);
  }
  int result = 0;
  ASSERT_EQ(waitpid(child, &result, 0), child);
  EXPECT_EQ(WEXITSTATUS(result), static_cast<int>(ExitCode::kEnvironment));
  EXPECT_THAT(NamesIn(directory.path()), ElementsAre(".lock"));
}

TEST(Save, RefusesADirectoryWhereAnotherOneSaves) {
  TemporaryDirectory directory;
  const auto lock = FileLock::Acquire(directory.path() + "/.lock");
  ASSERT_TRUE(lock.ok()) << lock.status();
  for (const auto& result : SaveEverywhere(SmallJob(directory.path(), 2))) {
    EXPECT_EQ(ExitCodeOf(result.status()), ExitCode::kEnvironment);
    EXPECT_THAT(result.status().ToString(), HasSubstr("another save is under way"));
  }
}

TEST(PutInPlace, WithoutAnExchangeOfNamesKeepsOneOfBothAtEveryCall) {
  TemporaryDirectory directory;
  const Scene scene = Scenes(directory.path() + "/checkpoints", 1)[1];
  const std::string other = directory.path() + "/other";
  SaveJob replacement = scene.disturbed;
  replacement.directory = other;
  for (int64_t call = 0;; ++call) {
    SCOPED_TRACE(call);
    StartOver(scene);
    std::filesystem::remove_all(other);
    MustSave(replacement);
    const std::string staging = scene.before.directory + "/" + PartialName(41, "00000000");
    std::filesystem::rename(other + "/round-000041", staging);
    const pid_t child = fork();
    if (child == 0) {
      ArmFault(Fault::kKill, call);
      _exit(PutInPlace(scene.before.directory, staging, 41, /*exchange=*/false).ok() ? 0 : 1);
    }
    int result = 0;
    ASSERT_EQ(waitpid(child, &result, 0), child);
    const std::string digest = ExpectOneIsWhole(scene);
    ASSERT_TRUE(digest == kOldDigest || digest == kNewDigest);
    ClearLeftovers(scene.before.directory);
    EXPECT_EQ(ExpectOneIsWhole(scene), digest);
    EXPECT_THAT(NamesIn(scene.before.directory), ElementsAre(".lock", "round-000041"));
    if (WIFEXITED(result)) {
      EXPECT_EQ(WEXITSTATUS(result), 0);
      EXPECT_EQ(digest, kNewDigest);
      EXPECT_GT(call, 4);
      break;
    }
  }
}

}  // namespace
}  // namespace atl::checkpoint
