// Plain data parallel across regions: gradients are averaged every step, a round is one step.
//
//   Train   the mean gradient of the region's samples, over its workers
//   Reduce  for each lane: the gradient x own tokens / expected tokens, all-reduced in a copy
//   Commit  sum / (all tokens / expected tokens); clip by the global norm, AdamW on the own slices,
//           the region gathers the parameters
//
// Parameters and optimizer state are the same in all regions.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "worker/inner/learning_rate.h"
#include "worker/sync/lane_buffer.h"
#include "worker/sync/method.h"

namespace atl {
namespace {

class EveryStep : public SyncMethod {
 public:
  explicit EveryStep(const RegionContext& context) : SyncMethod(context) {}

  Status ResetOuterState() override {
    ResetResiduals();
    return OkStatus();
  }

  StatusOr<TrainResult> Train(const TrainPart& part) override {
    const ScopedPhase phase(context_.phases, Phase::kCompute);
    context_.doing(absl::StrCat("gradient of step ", part.round));
    const int64_t sequence = context_.dataset->sequence_length();
    const int64_t samples = static_cast<int64_t>(part.samples.size());
    TrainResult result;
    ASSIGN_OR_RETURN(
        result.loss_sum,
        context_.gradients->Step(part.samples, 1.0 / static_cast<double>(samples * sequence)));
    result.steps = part.steps;
    result.tokens = sequence * Gradients::WorkerSamples({0, samples}, context_.tensors->rank(),
                                                        context_.tensors->size())
                                   .size();
    result.learning_rate = LearningRateOf(part.round);
    result.gradient_norm = gradient_norm_;  // of the step before: this one's is known after the sea
    return result;
  }

  Status Commit(int64_t round, int64_t tokens, int64_t expected_tokens) override {
    for (int64_t i = 0; i < own_.size(); ++i) {
      RETURN_IF_ERROR(
          WriteLane(*context_.trainer, Vector::kGradients, *context_.lanes, Lane(i), result_[i]));
    }
    const double weight = static_cast<double>(tokens) / static_cast<double>(expected_tokens);
    ASSIGN_OR_RETURN(const auto updated, context_.inner->Step(LearningRateOf(round), 1.0 / weight));
    gradient_norm_ = updated.gradient_norm;
    return OkStatus();
  }

  // Training changes no outer vector.
  Status SetAside() override {
    return absl::InternalError("with sync.method every_step no region is late");
  }
  Status Restore() override { return OkStatus(); }

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
  bool inner_state_replicated() const override { return true; }

  int OuterCopies() const override { return 3; }
  Status CopyOuterState(int64_t i, std::span<float> out) override {
    const size_t size = context_.lanes->LaneSize(Lane(i));
    RETURN_IF_ERROR(ReadLane(*context_.trainer, Vector::kParameters, *context_.lanes, Lane(i),
                             out.first(size)));
    return ReadMoments(*context_.trainer, context_.inner->owned(), *context_.lanes, Lane(i),
                       out.subspan(size));
  }
  Status SetOuterState(LaneBuffers state, int64_t updates) override {
    for (int64_t i = 0; i < own_.size(); ++i) {
      const int64_t size = context_.lanes->LaneSize(Lane(i));
      RETURN_IF_ERROR(WriteMoments(*context_.trainer, context_.inner->owned(), *context_.lanes,
                                   Lane(i), std::span(state[i]).subspan(size)));
      state[i].resize(size);
      RETURN_IF_ERROR(
          WriteLane(*context_.trainer, Vector::kParameters, *context_.lanes, Lane(i), state[i]));
    }
    context_.inner->set_updates(updates);
    ResetResiduals();
    return context_.inner->GatherParameters();
  }

 protected:
  Status MakeContribution(double weight, LaneBuffers* buffers) override {
    const float factor = static_cast<float>(weight);
    for (int64_t i = 0; i < own_.size(); ++i) {
      std::vector<float>& buffer = (*buffers)[i];
      RETURN_IF_ERROR(
          ReadLane(*context_.trainer, Vector::kGradients, *context_.lanes, Lane(i), &buffer));
      for (float& value : buffer) value *= factor;
    }
    return OkStatus();
  }

 private:
  // A round is a step.
  double LearningRateOf(int64_t round) const {
    return LearningRate(context_.job->train(), round, TotalInnerSteps(*context_.job));
  }

  double gradient_norm_ = 0;
};

}  // namespace

std::unique_ptr<SyncMethod> MakeEveryStep(const RegionContext& context) {
  return std::make_unique<EveryStep>(context);
}

}  // namespace atl
