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
    residuals_ = MakeResiduals(context_);
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
  StatusOr<LaneBuffers> CopyOuterState() override {
    LaneBuffers state(own_.size());
    std::vector<float> buffer;
    for (int64_t i = 0; i < own_.size(); ++i) {
      RETURN_IF_ERROR(
          ReadLane(*context_.trainer, Vector::kParameters, *context_.lanes, Lane(i), &state[i]));
      for (const Vector vector : {Vector::kExpAvg, Vector::kExpAvgSq}) {
        RETURN_IF_ERROR(ForEachSlice(i, [&](int64_t place, int64_t, int64_t size) {
          buffer.resize(size);
          RETURN_IF_ERROR(context_.trainer->Read(vector, place, buffer));
          state[i].insert(state[i].end(), buffer.begin(), buffer.end());
          return OkStatus();
        }));
      }
    }
    return state;
  }
  Status SetOuterState(LaneBuffers state, int64_t updates) override {
    for (int64_t i = 0; i < own_.size(); ++i) {
      const int64_t size = context_.lanes->LaneSize(Lane(i));
      int64_t base = size;
      for (const Vector vector : {Vector::kExpAvg, Vector::kExpAvgSq}) {
        RETURN_IF_ERROR(ForEachSlice(i, [&](int64_t place, int64_t offset, int64_t count) {
          return context_.trainer->Write(vector, place,
                                         std::span(state[i]).subspan(base + offset, count));
        }));
        base += size;
      }
      state[i].resize(size);
      RETURN_IF_ERROR(
          WriteLane(*context_.trainer, Vector::kParameters, *context_.lanes, Lane(i), state[i]));
    }
    context_.inner->set_updates(updates);
    residuals_ = MakeResiduals(context_);
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

  // Calls visit(place in the optimizer's vectors, offset in the lane buffer, size) for each slice
  // of an own lane. The optimizer's vectors are the owned ranges, ascending, one after the other.
  template <typename Visit>
  Status ForEachSlice(int64_t i, Visit visit) {
    int64_t offset = 0;
    for (size_t segment = 0; segment < context_.lanes->segments().size(); ++segment) {
      const Range slice = context_.lanes->Slice(static_cast<int>(segment), Lane(i));
      if (slice.empty()) continue;
      int64_t place = 0;
      for (const Range& owned : context_.inner->owned()) {
        if (owned.begin <= slice.begin && slice.end <= owned.end) {
          place += slice.begin - owned.begin;
          break;
        }
        place += owned.size();
      }
      RETURN_IF_ERROR(visit(place, offset, slice.size()));
      offset += slice.size();
    }
    return OkStatus();
  }

  double gradient_norm_ = 0;
};

}  // namespace

std::unique_ptr<SyncMethod> MakeEveryStep(const RegionContext& context) {
  return std::make_unique<EveryStep>(context);
}

}  // namespace atl
