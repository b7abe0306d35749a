// Saved by any number of workers, loaded by any other: the same bits, and the same root. The files
// have several chunks each, and workers own uneven pieces of them, some a few elements long.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/checkpoint/checkpoint_test_util.h"

namespace atl::checkpoint {
namespace {

constexpr int kCounts[] = {1, 2, 3, 4, 8};

SaveJob LargeJob(const std::string& directory, int ranks) {
  SaveJob job;
  job.directory = directory;
  job.ranks = ranks;
  job.cut_seed = 100 + ranks;
  job.tensors = {{"embedding", {600, 1001}, {0, 600'600}},
                 {"bias", {7}, {600'832, 600'839}},
                 {"none", {0, 3}, {601'088, 601'088}},
                 {"head", {700'003}, {601'088, 1'301'091}}};
  job.max_file_bytes = 9'000'000;
  job.prefixes = {"model", "outer/momentum"};
  return job;
}

TEST(CheckpointMatrix, AnyNumberOfWorkersSavesTheSameBytesAndLoadsThem) {
  TemporaryDirectory directory;
  std::string root;
  for (const int ranks : kCounts) {
    SCOPED_TRACE(ranks);
    const SaveJob job = LargeJob(directory.path() + "/" + std::to_string(ranks), ranks);
    for (const auto& saved : SaveEverywhere(job)) ASSERT_TRUE(saved.ok()) << saved.status();
    const std::string path = job.directory + "/round-000041";
    const auto checkpoint = Checkpoint::Open(path);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    ASSERT_TRUE((*checkpoint)->Verify().ok()) << (*checkpoint)->Verify();
    if (root.empty()) root = RootIn(path);
    EXPECT_EQ(RootIn(path), root);
    for (const int readers : kCounts) {
      SCOPED_TRACE(readers);
      ExpectHolds(path, job.round, job.tensors, job.prefixes, readers, 200 + readers);
    }
  }
}

// As a job's optimizer state lies: every worker has a slice of every bucket.
TEST(CheckpointMatrix, WorkersThatOwnASliceOfEveryBucketSaveTheSameBytes) {
  TemporaryDirectory directory;
  std::string root;
  for (const int ranks : kCounts) {
    SCOPED_TRACE(ranks);
    SaveJob job = LargeJob(directory.path() + "/" + std::to_string(ranks), ranks);
    job.pieces_a_rank = 100;
    for (const auto& saved : SaveEverywhere(job)) ASSERT_TRUE(saved.ok()) << saved.status();
    const std::string path = job.directory + "/round-000041";
    if (root.empty()) root = RootIn(path);
    EXPECT_EQ(RootIn(path), root);
    const auto checkpoint = Checkpoint::Open(path);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    EXPECT_TRUE((*checkpoint)->Verify().ok()) << (*checkpoint)->Verify();
  }
}

TEST(CheckpointMatrix, ThePlainWayWritesTheSameBytes) {
  TemporaryDirectory directory;
  std::vector<std::string> roots;
  for (const WriteWay way : {WriteWay::kBest, WriteWay::kPlain}) {
    SaveJob job = LargeJob(directory.path() + "/" + std::to_string(roots.size()), 3);
    job.way = way;
    for (const auto& saved : SaveEverywhere(job)) ASSERT_TRUE(saved.ok()) << saved.status();
    roots.push_back(RootIn(job.directory + "/round-000041"));
  }
  EXPECT_EQ(roots[0], roots[1]);
}

}  // namespace
}  // namespace atl::checkpoint
