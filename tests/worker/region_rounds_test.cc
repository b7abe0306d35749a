// Whole rounds of real regions in one process: same losses whatever the cut, same bits in every
// region, same bits after a resume.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "tests/worker/region_harness.h"

namespace atl {
namespace {

class RegionRounds : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = testing::TempDir() + "/region_rounds_" +
                 testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
    job_ = SmallJob(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  HarnessResult Run(const std::vector<int>& workers) {
    HarnessOptions options;
    options.job = job_;
    options.workers = workers;
    options.run_dir = directory_;
    HarnessResult result = RunRegions(options);
    EXPECT_EQ(result.error, "");
    return result;
  }

  static void ExpectEqualDigests(const HarnessResult& result) {
    ASSERT_FALSE(result.digests.empty());
    for (const auto& round : result.digests) {
      for (const std::string& digest : round) EXPECT_EQ(digest, round[0]);
    }
  }

  std::string directory_;
  pb::Job job_;
};

TEST_F(RegionRounds, EveryStepGivesTheSameLossesHoweverTheBatchIsCut) {
  job_.mutable_sync()->set_method(pb::Sync::EVERY_STEP);
  job_.mutable_train()->set_rounds(20);
  const HarnessResult one = Run({1});
  ASSERT_EQ(one.losses.size(), 20u);
  EXPECT_LT(one.losses.back(), 0.9 * one.losses.front());
  for (const std::vector<int>& workers : std::vector<std::vector<int>>{{1, 1, 1}, {3}, {2, 1}}) {
    const HarnessResult other = Run(workers);
    ExpectEqualDigests(other);
    for (size_t i = 0; i < one.losses.size(); ++i)
      EXPECT_NEAR(other.losses[i] / one.losses[i], 1, 1e-4);
    EXPECT_NEAR(other.validation.back() / one.validation.back(), 1, 1e-4);
  }
}

TEST_F(RegionRounds, DilocoEndsEveryRoundWithTheSameBitsInRegionsOfDifferentSizes) {
  const HarnessResult result = Run({2, 1, 3});
  ExpectEqualDigests(result);
  EXPECT_LT(result.validation.back(), result.validation.front());
}

TEST_F(RegionRounds, DilocoWithOneWorkerARegionHardlyDiffersFromThree) {
  const HarnessResult one = Run({1, 1});
  const HarnessResult three = Run({3, 3});
  for (size_t i = 0; i < one.losses.size(); ++i)
    EXPECT_NEAR(three.losses[i] / one.losses[i], 1, 1e-3);
}

TEST_F(RegionRounds, TheSameSeedGivesTheSameBitsAndAnotherSeedOthers) {
  const HarnessResult first = Run({1, 2});
  const HarnessResult second = Run({1, 2});
  EXPECT_EQ(first.digests, second.digests);
  job_.set_seed(6);
  EXPECT_NE(Run({1, 2}).digests, first.digests);
}

TEST_F(RegionRounds, Bf16OnTheWireKeepsRegionsEqual) {
  job_.mutable_sync()->set_codec(pb::Sync::BF16);
  ExpectEqualDigests(Run({1, 1, 1}));
}

TEST_F(RegionRounds, AResumedRunContinuesWithTheSameBits) {
  for (const auto method : {pb::Sync::DILOCO, pb::Sync::EVERY_STEP}) {
    job_.mutable_sync()->set_method(method);
    job_.mutable_checkpoint()->set_every(2);
    const HarnessResult whole = Run({2, 1});
    HarnessOptions options;
    options.job = job_;
    options.workers = {2, 1};
    options.run_dir = directory_;
    options.checkpoint_of_round = "round-000002";
    options.first_round = 3;
    const HarnessResult rest = RunRegions(options);
    ASSERT_EQ(rest.error, "");
    ASSERT_EQ(rest.digests.size(), 2u);
    EXPECT_EQ(rest.digests[0], whole.digests[2]);
    EXPECT_EQ(rest.digests[1], whole.digests[3]);
  }
}

TEST_F(RegionRounds, WithAnIntCodecAResumedRunContinuesWithTheSameBits) {
  job_.mutable_checkpoint()->set_every(2);
  for (const auto method : {pb::Sync::DILOCO, pb::Sync::EVERY_STEP}) {
    for (const auto codec : {pb::Sync::INT8, pb::Sync::INT4}) {
      job_.mutable_sync()->set_method(method);
      job_.mutable_sync()->set_codec(codec);
      const HarnessResult whole = Run({2, 1});
      HarnessOptions options;
      options.job = job_;
      options.workers = {2, 1};
      options.run_dir = directory_;
      options.checkpoint_of_round = "round-000002";
      options.first_round = 3;
      const HarnessResult rest = RunRegions(options);
      ASSERT_EQ(rest.error, "");
      ASSERT_EQ(rest.digests.size(), 2u);
      EXPECT_EQ(rest.digests[0], whole.digests[2]);
      EXPECT_EQ(rest.digests[1], whole.digests[3]);
      std::filesystem::remove_all(directory_ + "/region-0");
      std::filesystem::remove_all(directory_ + "/region-1");
    }
  }
}

TEST_F(RegionRounds, ACheckpointWithoutInnerStateResumesWithFreshInnerOptimizers) {
  job_.mutable_checkpoint()->set_every(2);
  job_.mutable_checkpoint()->set_inner_state(pb::CheckpointPolicy::DROP);
  const HarnessResult whole = Run({2, 1});
  EXPECT_FALSE(std::filesystem::exists(directory_ + "/region-0/checkpoints/round-000002/optim"));
  HarnessOptions options;
  options.job = job_;
  options.workers = {2, 1};
  options.run_dir = directory_;
  options.checkpoint_of_round = "round-000002";
  options.first_round = 3;
  const HarnessResult rest = RunRegions(options);
  ASSERT_EQ(rest.error, "");
  ExpectEqualDigests(rest);
  EXPECT_NE(rest.digests[0], whole.digests[2]);
  EXPECT_NEAR(rest.validation.back() / whole.validation.back(), 1, 5e-2);
}

TEST_F(RegionRounds, ACheckpointLoadsIntoOtherWorkerCounts) {
  job_.mutable_checkpoint()->set_every(2);
  const HarnessResult whole = Run({2, 1});
  HarnessOptions options;
  options.job = job_;
  options.workers = {1, 3};
  options.run_dir = directory_;
  options.checkpoint_of_round = "round-000002";
  options.first_round = 3;
  const HarnessResult rest = RunRegions(options);
  ASSERT_EQ(rest.error, "");
  ExpectEqualDigests(rest);
  EXPECT_NEAR(rest.validation.back() / whole.validation.back(), 1, 1e-2);
}

TEST_F(RegionRounds, OptimizerBytesAWorkerFallAsOneOverWorkers) {
  job_.mutable_train()->set_rounds(1);
  const int64_t all = Run({1}).optimizer_bytes[0][0];
  for (int workers : {2, 3, 4}) {
    const auto bytes = Run({workers}).optimizer_bytes[0];
    int64_t sum = 0;
    for (int64_t one : bytes) {
      sum += one;
      EXPECT_NEAR(static_cast<double>(one), static_cast<double>(all) / workers,
                  0.05 * static_cast<double>(all));
    }
    EXPECT_EQ(sum, all);
  }
}

}  // namespace
}  // namespace atl
