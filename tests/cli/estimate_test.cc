// What `atoll check` says a job takes.
#include "cli/estimate.h"

#include <gtest/gtest.h>

#include "proto/model_presets.h"

namespace atl {
namespace {

pb::Job Job() {
  pb::Job job;
  job.mutable_data()->set_sequence_length(128);
  job.mutable_train()->set_rounds(10);
  job.mutable_train()->set_inner_steps(20);
  job.mutable_train()->set_global_batch(12);
  job.mutable_train()->set_micro_batch(4);
  return job;
}

pb::Model Model() {
  pb::Model model;
  model.set_preset("test-1m");
  return *ResolveModel(model, 256);
}

TEST(Estimate, CountsTokensOfRoundsAndSteps) {
  pb::Job job = Job();
  EXPECT_EQ(EstimateJob(job, Model(), 3, 1).tokens_per_round, 12 * 128 * 20);
  EXPECT_EQ(EstimateJob(job, Model(), 3, 1).tokens_total, 12 * 128 * 20 * 10);
  job.mutable_sync()->set_method(pb::Sync::EVERY_STEP);
  EXPECT_EQ(EstimateJob(job, Model(), 3, 1).tokens_per_round, 12 * 128);
}

TEST(Estimate, SharesOptimizerStateAmongTheWorkersOfARegion) {
  const JobEstimate one = EstimateJob(Job(), Model(), 3, 1);
  const JobEstimate four = EstimateJob(Job(), Model(), 3, 4);
  const double parameters = 4.0 * ParameterCount(Model());
  EXPECT_EQ(one.optimizer_bytes, 2 * parameters);
  EXPECT_EQ(four.optimizer_bytes, 2 * parameters / 4);
  EXPECT_EQ(four.parameter_bytes, parameters);
  EXPECT_LT(four.memory_bytes, one.memory_bytes);
  EXPECT_EQ(one.checkpoint_bytes, four.checkpoint_bytes);
}

TEST(Estimate, ARegionAloneSendsNothingOverTheSea) {
  EXPECT_EQ(EstimateJob(Job(), Model(), 1, 2).wan_bytes_sent_per_round, 0);
  EXPECT_EQ(EstimateJob(Job(), Model(), 1, 2).exchange_bytes, 0);
}

TEST(Estimate, SendsTwiceTheOthersShareAndHalfOfItInBf16) {
  pb::Job job = Job();
  const double parameters = 4.0 * ParameterCount(Model());
  EXPECT_DOUBLE_EQ(EstimateJob(job, Model(), 3, 1).wan_bytes_sent_per_round,
                   2 * 2.0 / 3 * parameters);
  job.mutable_sync()->set_codec(pb::Sync::BF16);
  EXPECT_DOUBLE_EQ(EstimateJob(job, Model(), 3, 1).wan_bytes_sent_per_round, 2.0 / 3 * parameters);
}

TEST(Estimate, RecomputedActivationsTakeLessMemory) {
  pb::Job job = Job();
  const double whole = EstimateJob(job, Model(), 3, 1).activation_bytes;
  job.mutable_train()->set_activation_checkpointing(true);
  EXPECT_LT(EstimateJob(job, Model(), 3, 1).activation_bytes, whole);
}

}  // namespace
}  // namespace atl
