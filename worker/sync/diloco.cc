// DiLoCo (Douillard et al. 2023): inner AdamW for H steps in each region, then an outer Nesterov
// step on the average of the pseudo-gradients.
//
//   Train   H inner steps on the region's samples of the round
//   Reduce  for each lane: contribution = (outer - inner parameters) x own tokens / expected tokens
//           of the round; all-reduced in a copy
//   Commit  sum / (all tokens / expected tokens) = mean weighted by tokens; outer step on the lane;
//           the region gathers the lanes
//   Late    (SetAside, then Commit) what was trained is kept beside, with the outer parameters that
//           it began from, until Train goes on with it; the next contribution is their difference
//
// Invariant: between Commit and the next Train the trainer's parameters are the outer parameters.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "worker/inner/learning_rate.h"
#include "worker/sync/lane_buffer.h"
#include "worker/sync/method.h"
#include "worker/sync/outer_optimizer.h"

namespace atl {
namespace {

constexpr int64_t kBlock = 16 << 10;  // elements that are divided and applied at once

class Diloco : public SyncMethod {
 public:
  explicit Diloco(const RegionContext& context) : SyncMethod(context) {
    outer_.resize(own_.size());
    momentum_.resize(own_.size());
  }

  Status ResetOuterState() override {
    for (int64_t i = 0; i < own_.size(); ++i) {
      RETURN_IF_ERROR(
          ReadLane(*context_.trainer, Vector::kParameters, *context_.lanes, Lane(i), &outer_[i]));
      momentum_[i].assign(outer_[i].size(), 0.0f);
    }
    ResetResiduals();
    trained_ = 0;
    ForgetLate();
    return OkStatus();
  }

  StatusOr<TrainResult> Train(const TrainPart& part) override {
    const ScopedPhase phase(context_.phases, Phase::kCompute);
    const int64_t sequence = context_.dataset->sequence_length();
    const int64_t total_steps = TotalInnerSteps(*context_.job);
    const int64_t before = InnerStepsBefore(part.round);
    if (part.first_step == 0 && trained_ > 0) RETURN_IF_ERROR(Restore());
    if (is_aside_) RETURN_IF_ERROR(TakeBack());
    if (part.first_step != trained_) {
      return absl::InternalError(absl::StrCat("step ", part.first_step, " of round ", part.round,
                                              " was asked for after ", trained_, " steps"));
    }
    TrainResult result;
    while (trained_ < part.steps) {
      context_.doing(
          absl::StrCat("inner step ", trained_ + 1, "/", part.steps, " of round ", part.round));
      const std::span<const int64_t> samples = SamplesOfStep(part, trained_);
      const double scale = 1.0 / static_cast<double>(samples.size() * sequence);
      ASSIGN_OR_RETURN(const double loss_sum, context_.gradients->Step(samples, scale));
      result.learning_rate =
          LearningRate(context_.job->train(), before + trained_ + 1, total_steps);
      ASSIGN_OR_RETURN(const auto updated, context_.inner->Step(result.learning_rate, 1.0));
      result.gradient_norm = updated.gradient_norm;
      result.loss_sum += loss_sum;
      result.tokens +=
          sequence * Gradients::WorkerSamples({0, static_cast<int64_t>(samples.size())},
                                              context_.tensors->rank(), context_.tensors->size())
                         .size();
      ++trained_;
      if (trained_ == part.steps) break;
      ASSIGN_OR_RETURN(const bool go_on, part.go_on());
      if (!go_on) break;
    }
    result.steps = trained_;
    return result;
  }

  Status Commit(int64_t, int64_t tokens, int64_t expected_tokens) override {
    const float divisor =
        static_cast<float>(static_cast<double>(tokens) / static_cast<double>(expected_tokens));
    std::vector<float> mean(kBlock);
    for (int64_t i = 0; i < own_.size(); ++i) {
      const int64_t size = static_cast<int64_t>(outer_[i].size());
      for (int64_t begin = 0; begin < size; begin += kBlock) {
        const int64_t count = std::min(kBlock, size - begin);
        const float* const sum = result_[i].data() + begin;
        // Exactly 1 when all took part fully.
        for (int64_t k = 0; k < count; ++k) mean[k] = divisor == 1.0f ? sum[k] : sum[k] / divisor;
        OuterStep(context_.job->sync(), std::span(outer_[i]).subspan(begin, count),
                  std::span(momentum_[i]).subspan(begin, count), std::span(mean).first(count));
      }
    }
    return std::exchange(keep_, false) ? WriteParameters(outer_) : Restore();
  }

  Status SetAside() override {
    if (trained_ == 0 || is_late_) {
      return absl::InternalError("there is nothing to set aside, or it is there already");
    }
    is_late_ = is_aside_ = keep_ = true;
    base_ = aside_ = outer_;
    for (int64_t i = 0; i < own_.size(); ++i) {
      RETURN_IF_ERROR(
          ReadLane(*context_.trainer, Vector::kParameters, *context_.lanes, Lane(i), &aside_[i]));
    }
    return OkStatus();
  }

  Status Restore() override {
    trained_ = 0;
    ForgetLate();
    return WriteParameters(outer_);
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
  bool inner_state_replicated() const override { return false; }

  int OuterCopies() const override { return 2; }
  Status CopyOuterState(int64_t i, std::span<float> out) override {
    CHECK_EQ(out.size(), outer_[i].size() + momentum_[i].size());
    std::copy(outer_[i].begin(), outer_[i].end(), out.begin());
    std::copy(momentum_[i].begin(), momentum_[i].end(), out.begin() + outer_[i].size());
    return OkStatus();
  }
  Status SetOuterState(LaneBuffers state, int64_t) override {
    for (int64_t i = 0; i < own_.size(); ++i) {
      const auto half = state[i].begin() + context_.lanes->LaneSize(Lane(i));
      momentum_[i].assign(half, state[i].end());
      state[i].erase(half, state[i].end());
      outer_[i] = std::move(state[i]);
    }
    ResetResiduals();
    return Restore();
  }

 protected:
  Status MakeContribution(double weight, LaneBuffers* buffers) override {
    const float factor = static_cast<float>(weight);
    for (int64_t i = 0; i < own_.size(); ++i) {
      std::vector<float>& buffer = (*buffers)[i];
      if (!is_aside_) {
        RETURN_IF_ERROR(
            ReadLane(*context_.trainer, Vector::kParameters, *context_.lanes, Lane(i), &buffer));
      } else {
        buffer = aside_[i];
      }
      const std::vector<float>& outer = is_late_ ? base_[i] : outer_[i];
      for (size_t k = 0; k < buffer.size(); ++k) buffer[k] = factor * (outer[k] - buffer[k]);
    }
    return OkStatus();
  }

 private:
  Status WriteParameters(const LaneBuffers& lanes) {
    for (int64_t i = 0; i < own_.size(); ++i) {
      RETURN_IF_ERROR(
          WriteLane(*context_.trainer, Vector::kParameters, *context_.lanes, Lane(i), lanes[i]));
    }
    return context_.inner->GatherParameters();
  }
  void ForgetLate() {
    is_late_ = is_aside_ = keep_ = false;
    base_.clear();
    aside_.clear();
  }
  // Training goes on where it was set aside.
  Status TakeBack() {
    is_aside_ = false;
    const LaneBuffers inner = std::exchange(aside_, {});
    return WriteParameters(inner);
  }

  // Of this region, as the learning rate counts them.
  int64_t InnerStepsBefore(int64_t round) const {
    return context_.view->inner_steps_done() +
           (round - context_.view->first_round()) * context_.job->train().inner_steps();
  }

  int64_t trained_ = 0;  // inner steps since the last commit
  // By own lane, each LaneSize long.
  LaneBuffers outer_;
  LaneBuffers momentum_;
  bool is_late_ = false;   // base_ is what was trained on
  bool is_aside_ = false;  // and aside_ what was trained
  bool keep_ = false;      // over the next Commit
  LaneBuffers base_;       // of a region that was late: the outer parameters that it trains on
  LaneBuffers aside_;      // the inner parameters, while the trainer holds the outer ones
};

}  // namespace

std::unique_ptr<SyncMethod> MakeDiloco(const RegionContext& context) {
  return std::make_unique<Diloco>(context);
}

}  // namespace atl
