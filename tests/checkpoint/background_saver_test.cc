// Saves behind training: what is saved is what was copied, two are under way at most, and a rank
// that fails before its save began fails it everywhere.
#include "checkpoint/background_saver.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "base/exit_code.h"
#include "tests/checkpoint/checkpoint_test_util.h"

namespace atl::checkpoint {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// A region of one, whose agreements wait until it is opened.
class GatedCommunicator : public Communicator {
 public:
  void Open() {
    MutexLock lock(&mutex_);
    open_ = true;
    changed_.NotifyAll();
  }
  int rank() const override { return 0; }
  int size() const override { return 1; }
  std::string backend() const override { return "gated"; }
  Status AllReduce(float*, int64_t) override { return OkStatus(); }
  Status ReduceScatter(float*, std::span<const Range>) override { return OkStatus(); }
  Status AllGather(float*, std::span<const Range>) override { return OkStatus(); }
  Status Broadcast(std::string*, int) override { return OkStatus(); }
  StatusOr<std::vector<std::string>> AllGatherBytes(const std::string& bytes) override {
    MutexLock lock(&mutex_);
    while (!open_) changed_.Wait(&mutex_);
    return std::vector<std::string>{bytes};
  }
  Status Barrier() override { return OkStatus(); }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool open_ ABSL_GUARDED_BY(mutex_) = false;
};

// A rank's part of a job's state, which "training" changes.
struct State {
  State(const SaveJob& job, int rank, int ranks) {
    const Range range = Cut(FlatSize(job.tensors), ranks, job.cut_seed)[rank];
    for (size_t section = 0; section < job.prefixes.size(); ++section) {
      const auto flat = FlatVector(job.tensors, job.round, static_cast<int64_t>(section));
      values.emplace_back(flat.begin() + range.begin, flat.begin() + range.end);
      ranges.push_back(range);
    }
  }
  int64_t elements() const {
    int64_t sum = 0;
    for (const auto& each : values) sum += static_cast<int64_t>(each.size());
    return sum;
  }
  SaveOptions Freeze(const SaveJob& job, float* arena) const {
    SaveOptions options = OptionsOf(job);
    for (size_t section = 0; section < values.size(); ++section) {
      std::memcpy(arena, values[section].data(), values[section].size() * sizeof(float));
      options.sections[section].slices = {{ranges[section], arena}};
      arena += values[section].size();
    }
    return options;
  }
  void Train() {
    for (auto& each : values) std::fill(each.begin(), each.end(), -1.0f);
  }

  std::vector<std::vector<float>> values;
  std::vector<Range> ranges;
};

SaveJob JobOf(const TemporaryDirectory& directory, int64_t round) {
  SaveJob job;
  job.directory = directory.path() + "/checkpoints";
  job.round = round;
  return job;
}

TEST(BackgroundSaver, WritesWhatWasCopiedWhateverTrainingDoesMeanwhile) {
  TemporaryDirectory directory;
  const SaveJob job = JobOf(directory, 41);
  std::vector<std::string> paths(3);
  RunRegion(3, [&](int rank, Communicator& region) {
    State state(job, rank, 3);
    BackgroundSaver saver(&region);
    const auto arena = saver.Take(state.elements());
    ASSERT_TRUE(arena.ok() && *arena != nullptr);
    saver.Begin(state.Freeze(job, *arena), [&](const auto& saved, double) {
      if (saved.ok()) paths[rank] = saved->path;
    });
    state.Train();
    saver.Wait();
  });
  EXPECT_THAT(paths, testing::Each(job.directory + "/round-000041"));
  ExpectHolds(paths[0], 41, job.tensors, job.prefixes, 2, 3);
}

TEST(BackgroundSaver, HasTwoArenasAndAThirdSaveFindsNone) {
  TemporaryDirectory directory;
  GatedCommunicator region;
  std::vector<std::string> ended;
  BackgroundSaver saver(&region);
  const auto begin = [&](int64_t round) {
    const SaveJob job = JobOf(directory, round);
    const State state(job, 0, 1);
    const auto arena = saver.Take(state.elements());
    ASSERT_TRUE(arena.ok()) << arena.status();
    if (*arena == nullptr) {
      ended.push_back("no arena");
      return;
    }
    saver.Begin(state.Freeze(job, *arena), [&](const auto& saved, double) {
      ended.push_back(saved->path.substr(saved->path.size() - 2));
    });
  };
  begin(1);
  begin(2);
  begin(3);
  begin(4);
  EXPECT_THAT(ended, ElementsAre("no arena", "no arena"));
  region.Open();
  saver.Wait();
  EXPECT_THAT(ended, ElementsAre("no arena", "no arena", "01", "02"));
  begin(5);
  saver.Wait();
  EXPECT_THAT(ended, ElementsAre("no arena", "no arena", "01", "02", "05"));
  EXPECT_THAT(NamesIn(directory.path() + "/checkpoints"),
              ElementsAre(".lock", "round-000001", "round-000002", "round-000005"));
  ExpectHolds(directory.path() + "/checkpoints/round-000002", 2, SmallModel(),
              JobOf(directory, 2).prefixes, 1, 1);
}

TEST(BackgroundSaver, GivesAnArenaBackThatNobodyBegan) {
  GatedCommunicator region;
  BackgroundSaver saver(&region);
  for (int i = 0; i < 5; ++i) {
    const auto arena = saver.Take(1000);
    ASSERT_TRUE(arena.ok() && *arena != nullptr);
    saver.GiveBack();
  }
}

// A region with more workers than lanes: its second save used to abort such a rank.
TEST(BackgroundSaver, ARankThatHoldsNothingGetsAnArenaToo) {
  GatedCommunicator region;
  BackgroundSaver saver(&region);
  for (int save = 0; save < 2; ++save) {
    const StatusOr<float*> arena = saver.Take(0);
    ASSERT_TRUE(arena.ok()) << arena.status();
    EXPECT_NE(*arena, nullptr);
    saver.GiveBack();
  }
}

TEST(BackgroundSaver, WithoutMemoryForACopySaysSo) {
  GatedCommunicator region;
  BackgroundSaver saver(&region);
  const auto arena = saver.Take(int64_t{1} << 55);
  ASSERT_FALSE(arena.ok());
  EXPECT_EQ(ExitCodeOf(arena.status()), ExitCode::kEnvironment);
  EXPECT_THAT(arena.status().ToString(), HasSubstr("no memory to copy the state to"));
  const auto smaller = saver.Take(1000);
  EXPECT_TRUE(smaller.ok() && *smaller != nullptr);
}

TEST(BackgroundSaver, FailsOnAllRanksIfOneCouldNotGetReady) {
  TemporaryDirectory directory;
  const SaveJob job = JobOf(directory, 41);
  std::vector<std::string> errors(3);
  RunRegion(3, [&](int rank, Communicator& region) {
    const State state(job, rank, 3);
    BackgroundSaver saver(&region);
    const auto arena = saver.Take(state.elements());
    ASSERT_TRUE(arena.ok() && *arena != nullptr);
    SaveOptions options = state.Freeze(job, *arena);
    if (rank == 1) options.ready = absl::UnavailableError("the device is gone");
    saver.Begin(std::move(options),
                [&](const auto& saved, double) { errors[rank] = saved.status().ToString(); });
    saver.Wait();
  });
  EXPECT_THAT(errors, testing::Each(HasSubstr("rank 1: the device is gone")));
  EXPECT_TRUE(List(job.directory, nullptr).empty());
}

}  // namespace
}  // namespace atl::checkpoint
