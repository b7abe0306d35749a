// DiLoCo (Douillard et al. 2023): inner AdamW for H steps in each region, then an outer Nesterov
// step on the average of the pseudo-gradients.
//
//   Train   H inner steps on the region's samples of the round
//   Reduce  for each lane: contribution = (outer - inner parameters) x own tokens / expected tokens
//   of
//           the round; all-reduced in a copy
//   Commit  sum / (all tokens / expected tokens) = mean weighted by tokens; outer step on the lane;
//   the
//           region gathers the lanes
//
// Invariant: between Commit and the next Train the trainer's parameters are the outer parameters.
#include "absl/strings/str_cat.h"
#include "worker/inner/learning_rate.h"
#include "worker/sync/lane_buffer.h"
#include "worker/sync/method.h"
#include "worker/sync/outer_optimizer.h"

namespace atl {
namespace {

class Diloco : public SyncMethod {
 public:
  explicit Diloco(const RegionContext& context) : context_(context), own_(OwnLanes(context)) {
    outer_.resize(own_.size());
    momentum_.resize(own_.size());
  }

  Status ResetOuterState() override {
    for (int64_t i = 0; i < own_.size(); ++i) {
      RETURN_IF_ERROR(
          ReadLane(*context_.trainer, Vector::kParameters, *context_.lanes, Lane(i), &outer_[i]));
      momentum_[i].assign(outer_[i].size(), 0.0f);
    }
    residuals_ = MakeResiduals(context_);
    return OkStatus();
  }

  StatusOr<TrainResult> Train(const RoundPlan& plan) override {
    const ScopedPhase phase(context_.phases, Phase::kCompute);
    const int64_t sequence = context_.dataset->sequence_length();
    const int64_t total_steps = TotalInnerSteps(*context_.job);
    const int64_t before = InnerStepsBefore(context_, plan);
    TrainResult result;
    for (int64_t step = 0; step < plan.inner_steps; ++step) {
      context_.doing(
          absl::StrCat("inner step ", step + 1, "/", plan.inner_steps, " of round ", plan.round));
      const int64_t first = plan.region_samples.begin + step * plan.samples_per_step;
      const Range samples = {first, first + plan.samples_per_step};
      const double scale = 1.0 / static_cast<double>(samples.size() * sequence);
      ASSIGN_OR_RETURN(const double loss_sum, context_.gradients->Step(samples, scale));
      result.learning_rate = LearningRate(context_.job->train(), before + step + 1, total_steps);
      ASSIGN_OR_RETURN(const auto updated, context_.inner->Step(result.learning_rate, 1.0));
      result.gradient_norm = updated.gradient_norm;
      result.loss_sum += loss_sum;
      result.tokens += sequence * Gradients::WorkerSamples(samples, context_.tensors->rank(),
                                                           context_.tensors->size())
                                      .size();
    }
    return result;
  }

  StatusOr<ReduceResult> Reduce(const RoundPlan& plan, const pb::RoundNote& note) override {
    const double expected =
        static_cast<double>(plan.job_samples.size() * context_.dataset->sequence_length());
    const float weight = static_cast<float>(static_cast<double>(note.tokens()) / expected);
    reduced_.resize(own_.size());
    for (int64_t i = 0; i < own_.size(); ++i) {
      std::vector<float>& buffer = reduced_[i];
      RETURN_IF_ERROR(
          ReadLane(*context_.trainer, Vector::kParameters, *context_.lanes, Lane(i), &buffer));
      const std::vector<float>& outer = outer_[i];
      for (size_t k = 0; k < buffer.size(); ++k) buffer[k] = weight * (outer[k] - buffer[k]);
    }
    return ReduceLanes(context_, plan, note, &reduced_, &residuals_);
  }

  Status Commit(const RoundPlan& plan, const std::vector<pb::RoundNote>& notes) override {
    const double weight = WeightOfSum(plan, context_.dataset->sequence_length(), notes);
    for (int64_t i = 0; i < own_.size(); ++i) {
      std::vector<float>& gradient = reduced_[i];
      if (weight != 1.0) {
        const float divisor = static_cast<float>(weight);
        for (float& value : gradient) value /= divisor;
      }
      OuterStep(context_.job->sync(), outer_[i], momentum_[i], gradient);
      RETURN_IF_ERROR(
          WriteLane(*context_.trainer, Vector::kParameters, *context_.lanes, Lane(i), outer_[i]));
    }
    return context_.inner->GatherParameters();
  }

  StatusOr<Digest> OuterDigest() override {
    Digest digest;
    for (int64_t i = 0; i < own_.size(); ++i) {
      digest.Add(DigestOfLane(*context_.lanes, Lane(i), outer_[i], kParametersDomain));
      digest.Add(DigestOfLane(*context_.lanes, Lane(i), momentum_[i], kMomentumDomain));
    }
    return digest;
  }

  std::vector<LaneVector> OuterVectors() override { return {{"outer/momentum", &momentum_}}; }
  std::vector<LaneVector> RegionalVectors() override {
    return ResidualVectors(context_, &residuals_);
  }
  bool inner_state_replicated() const override { return false; }

 private:
  int Lane(int64_t i) const { return static_cast<int>(own_.begin + i); }

  const RegionContext context_;
  const Range own_;  // lanes
  // By own lane, each LaneSize long.
  std::vector<std::vector<float>> outer_;
  std::vector<std::vector<float>> momentum_;
  std::vector<std::vector<float>> reduced_;
  std::vector<std::vector<float>> residuals_;  // of int codecs
};

}  // namespace

std::unique_ptr<SyncMethod> MakeDiloco(const RegionContext& context) {
  return std::make_unique<Diloco>(context);
}

}  // namespace atl
