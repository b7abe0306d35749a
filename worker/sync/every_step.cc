// Plain data parallel across regions: gradients are averaged every step, a round is one step.
//
//   Train   the gradient of the region's samples, summed over its workers; scaled so that the
//   regions'
//           sum is the mean over the step's tokens
//   Reduce  for each lane of the gradient: all-reduced in a copy
//   Commit  sum / (all tokens / expected tokens); clip by the global norm, AdamW on the own slices,
//   the
//           region gathers the parameters
//
// Parameters and optimizer state are the same in all regions.
#include "absl/strings/str_cat.h"
#include "worker/inner/learning_rate.h"
#include "worker/sync/lane_buffer.h"
#include "worker/sync/method.h"

namespace atl {
namespace {

class EveryStep : public SyncMethod {
 public:
  explicit EveryStep(const RegionContext& context) : context_(context), own_(OwnLanes(context)) {}

  Status ResetOuterState() override {
    residuals_ = MakeResiduals(context_);
    return OkStatus();
  }

  StatusOr<TrainResult> Train(const RoundPlan& plan) override {
    const ScopedPhase phase(context_.phases, Phase::kCompute);
    context_.doing(absl::StrCat("gradient of step ", plan.round));
    const int64_t sequence = context_.dataset->sequence_length();
    const double scale = 1.0 / static_cast<double>(plan.job_samples.size() * sequence);
    TrainResult result;
    ASSIGN_OR_RETURN(result.loss_sum, context_.gradients->Step(plan.region_samples, scale));
    result.tokens =
        sequence * Gradients::WorkerSamples(plan.region_samples, context_.tensors->rank(),
                                            context_.tensors->size())
                       .size();
    result.learning_rate = LearningRateOf(plan);
    result.gradient_norm = gradient_norm_;  // of the step before: this one's is known after the sea
    return result;
  }

  StatusOr<ReduceResult> Reduce(const RoundPlan& plan, const pb::RoundNote& note) override {
    reduced_.resize(own_.size());
    for (int64_t i = 0; i < own_.size(); ++i) {
      RETURN_IF_ERROR(
          ReadLane(*context_.trainer, Vector::kGradients, *context_.lanes, Lane(i), &reduced_[i]));
    }
    return ReduceLanes(context_, plan, note, &reduced_, &residuals_);
  }

  Status Commit(const RoundPlan& plan, const std::vector<pb::RoundNote>& notes) override {
    const double weight = WeightOfSum(plan, context_.dataset->sequence_length(), notes);
    for (int64_t i = 0; i < own_.size(); ++i) {
      RETURN_IF_ERROR(
          WriteLane(*context_.trainer, Vector::kGradients, *context_.lanes, Lane(i), reduced_[i]));
    }
    ASSIGN_OR_RETURN(const auto updated, context_.inner->Step(LearningRateOf(plan), 1.0 / weight));
    gradient_norm_ = updated.gradient_norm;
    return OkStatus();
  }

  StatusOr<Digest> OuterDigest() override {
    Digest digest;
    std::vector<float> buffer;
    for (int64_t i = 0; i < own_.size(); ++i) {
      RETURN_IF_ERROR(
          ReadLane(*context_.trainer, Vector::kParameters, *context_.lanes, Lane(i), &buffer));
      digest.Add(DigestOfLane(*context_.lanes, Lane(i), buffer, kParametersDomain));
    }
    return digest;
  }

  std::vector<LaneVector> OuterVectors() override { return {}; }
  std::vector<LaneVector> RegionalVectors() override {
    return ResidualVectors(context_, &residuals_);
  }
  bool inner_state_replicated() const override { return true; }

 private:
  int Lane(int64_t i) const { return static_cast<int>(own_.begin + i); }
  double LearningRateOf(const RoundPlan& plan) const {
    return LearningRate(context_.job->train(), InnerStepsBefore(context_, plan) + 1,
                        TotalInnerSteps(*context_.job));
  }

  const RegionContext context_;
  const Range own_;                            // lanes
  std::vector<std::vector<float>> reduced_;    // by own lane
  std::vector<std::vector<float>> residuals_;  // of int codecs
  double gradient_norm_ = 0;
};

}  // namespace

std::unique_ptr<SyncMethod> MakeEveryStep(const RegionContext& context) {
  return std::make_unique<EveryStep>(context);
}

}  // namespace atl
