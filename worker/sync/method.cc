#include "worker/sync/method.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace atl {
namespace {

constexpr double kAgreeSeconds = 0.02;

Codec CodecOf(pb::Sync::Codec codec) {
  switch (codec) {
    case pb::Sync::BF16:
      return Codec::kBf16;
    case pb::Sync::FP16:
      return Codec::kFp16;
    case pb::Sync::INT8:
      return Codec::kInt8;
    case pb::Sync::INT4:
      return Codec::kInt4;
    default:
      return Codec::kFp32;
  }
}

// bf16 and fp16 lose less than the optimizer's own noise.
bool NeedsFeedback(const RegionContext& context) {
  const Codec codec = CodecOf(context.job->sync().codec());
  return codec == Codec::kInt8 || codec == Codec::kInt4;
}

// Waits for the next change of how the operations stand, not for long.
WaitingLanes Await(const std::vector<std::shared_ptr<wan::Operation>>& operations) {
  WaitingLanes lanes;
  lanes.done = true;
  for (const auto& operation : operations) {
    if (!operation->WaitFor(lanes.done ? kAgreeSeconds : 0)) {
      lanes.done = false;
      continue;
    }
    const auto result = operation->Wait();
    if (!result.ok() && lanes.failure.ok()) lanes.failure = result.status();
  }
  lanes.done = lanes.done && lanes.failure.ok();
  return lanes;
}

}  // namespace

std::unique_ptr<SyncMethod> SyncMethod::Create(const RegionContext& context) {
  return context.job->sync().method() == pb::Sync::EVERY_STEP ? MakeEveryStep(context)
                                                              : MakeDiloco(context);
}

SyncMethod::SyncMethod(const RegionContext& context) : context_(context), own_(OwnLanes(context)) {
  result_.resize(own_.size());
  work_.resize(own_.size());
  residuals_ = MakeResiduals(context);
}

Range OwnLanes(const RegionContext& context) {
  return context.lanes->LanesOfWorker(context.tensors->rank(), context.tensors->size());
}

LaneBuffers MakeResiduals(const RegionContext& context) {
  LaneBuffers residuals;
  if (!NeedsFeedback(context)) return residuals;
  const Range own = OwnLanes(context);
  for (int64_t lane = own.begin; lane < own.end; ++lane) {
    residuals.emplace_back(context.lanes->LaneSize(static_cast<int>(lane)), 0.0f);
  }
  return residuals;
}

void SyncMethod::ResetResiduals() {
  residuals_ = MakeResiduals(context_);
  unfinished_residuals_.clear();
}

std::vector<LaneVector> SyncMethod::RegionalVectors() {
  if (!NeedsFeedback(context_)) return {};
  return {{"optim/residual", &residuals_}};
}

std::span<const int64_t> SyncMethod::SamplesOfStep(const TrainPart& part, int64_t step) {
  const int64_t each = static_cast<int64_t>(part.samples.size()) / part.steps;
  return std::span(part.samples).subspan(step * each, each);
}

Status SyncMethod::FillWork(const ReducePart& part) {
  if (part.mode == pb::ReduceRound::CONTRIBUTE) {
    if (part.expected_tokens <= 0)
      return absl::InternalError("a contribution to a round in which no tokens are expected");
    return MakeContribution(
        static_cast<double>(part.note.tokens()) / static_cast<double>(part.expected_tokens),
        &work_);
  }
  for (int64_t i = 0; i < own_.size(); ++i) {
    const size_t size = context_.lanes->LaneSize(Lane(i));
    if (part.mode != pb::ReduceRound::GIVE) {
      // Not 0, which would make a +0 of a -0.
      work_[i].assign(size, -0.0f);
    } else if (result_[i].size() == size) {
      work_[i] = result_[i];
    } else {
      return absl::InternalError(
          absl::StrCat("this region does not hold the result of round ", part.round));
    }
  }
  return OkStatus();
}

// All lanes at once, each with the region's note.
StatusOr<ReduceResult> SyncMethod::ReduceWork(const ReducePart& part) {
  const bool contributes = part.mode == pb::ReduceRound::CONTRIBUTE;
  const bool hands_on =
      !contributes && part.mode != pb::ReduceRound::OBSERVE && part.mode != pb::ReduceRound::LATE;
  wan::AllReduceOptions options;
  options.codec = hands_on ? Codec::kFp32 : CodecOf(context_.job->sync().codec());
  options.attachment = part.note.SerializeAsString();
  WaitingLanes lanes;
  lanes.failure = FillWork(part);
  // What an int codec takes from a contribution goes along with the next one. A reduction that
  // fails is repeated with the residuals that it began with; but if it ended well elsewhere, this
  // contribution is in the result that is then taken over, and what it left is what is owed.
  LaneBuffers before;
  if (contributes) before = residuals_;
  const bool takes = part.mode == pb::ReduceRound::TAKE && part.round == unfinished_round_;
  if (!takes) unfinished_residuals_.clear();
  std::vector<std::shared_ptr<wan::Operation>> operations;
  for (int64_t i = 0; i < own_.size() && lanes.failure.ok(); ++i) {
    if (!before.empty()) options.residual = residuals_[i];
    operations.push_back(context_.wan->AllReduce(ViewId{context_.view->id()}, LaneId{Lane(i)},
                                                 static_cast<uint64_t>(part.position), work_[i],
                                                 options));
  }
  ReduceResult result;
  std::optional<bool> over;
  Status status;
  while (status.ok() && !over) {
    if (lanes.failure.ok()) lanes = Await(operations);
    StatusOr<std::optional<bool>> agreed = part.agree(lanes);
    status = agreed.status();
    if (agreed.ok()) over = *agreed;
  }
  if (!status.ok() || !*over) {
    for (auto& operation : operations) operation->Cancel();
    if (!before.empty()) {
      unfinished_residuals_ = std::exchange(residuals_, std::move(before));
      unfinished_round_ = part.round;
    }
    RETURN_IF_ERROR(status);
    return result;
  }
  result.well = true;
  if (takes && !unfinished_residuals_.empty()) {
    residuals_ = std::exchange(unfinished_residuals_, {});
  }
  for (auto& operation : operations) {
    ASSIGN_OR_RETURN(const wan::AllReduceResult done, operation->Wait());
    result.bytes_sent += done.bytes_sent;
    result.notes.assign(done.attachments.size(), {});
    for (size_t member = 0; member < result.notes.size(); ++member) {
      if (!result.notes[member].ParseFromString(done.attachments[member])) {
        return absl::DataLossError(absl::StrCat(
            "the note of region ", context_.view->members(static_cast<int>(member)).region(),
            " to round ", part.round, " is malformed"));
      }
    }
  }
  return result;
}

StatusOr<ReduceResult> SyncMethod::Reduce(const ReducePart& part) {
  const ScopedPhase phase(context_.phases, Phase::kWan);
  auto result = ReduceWork(part);
  const bool keep = part.mode != pb::ReduceRound::GIVE && part.mode != pb::ReduceRound::PASS;
  if (result.ok() && result->well && keep) std::swap(result_, work_);
  if (!result.ok()) {
    return Annotate(result.status(), absl::StrCat("while reducing round ", part.round));
  }
  return result;
}

}  // namespace atl
