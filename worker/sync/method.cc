#include "worker/sync/method.h"

#include "absl/strings/str_cat.h"

namespace atl {
namespace {

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

}  // namespace

std::unique_ptr<SyncMethod> SyncMethod::Create(const RegionContext& context) {
  return context.job->sync().method() == pb::Sync::EVERY_STEP ? MakeEveryStep(context)
                                                              : MakeDiloco(context);
}

int64_t InnerStepsBefore(const RegionContext& context, const RoundPlan& plan) {
  return context.view->inner_steps_done() +
         (plan.round - context.view->first_round()) * plan.inner_steps;
}

Range OwnLanes(const RegionContext& context) {
  return context.lanes->LanesOfWorker(context.tensors->rank(), context.tensors->size());
}

namespace {

// bf16 and fp16 lose less than the optimizer's own noise.
bool NeedsFeedback(const RegionContext& context) {
  const Codec codec = CodecOf(context.job->sync().codec());
  return codec == Codec::kInt8 || codec == Codec::kInt4;
}

}  // namespace

std::vector<std::vector<float>> MakeResiduals(const RegionContext& context) {
  std::vector<std::vector<float>> residuals;
  if (!NeedsFeedback(context)) return residuals;
  const Range own = OwnLanes(context);
  for (int64_t lane = own.begin; lane < own.end; ++lane) {
    residuals.emplace_back(context.lanes->LaneSize(static_cast<int>(lane)), 0.0f);
  }
  return residuals;
}

std::vector<LaneVector> ResidualVectors(const RegionContext& context,
                                        std::vector<std::vector<float>>* residuals) {
  if (!NeedsFeedback(context)) return {};
  return {{"optim/residual", residuals}};
}

StatusOr<ReduceResult> ReduceLanes(const RegionContext& context, const RoundPlan& plan,
                                   const pb::RoundNote& note,
                                   std::vector<std::vector<float>>* buffers,
                                   std::vector<std::vector<float>>* residuals) {
  const ScopedPhase phase(context.phases, Phase::kWan);
  const Range own = OwnLanes(context);
  wan::AllReduceOptions options;
  options.codec = CodecOf(context.job->sync().codec());
  options.attachment = note.SerializeAsString();
  // What an int codec takes from a contribution goes along with the next one. A reduction that
  // fails is repeated with the residuals that it began with.
  std::vector<std::vector<float>> before;
  if (NeedsFeedback(context)) before = *residuals;
  std::vector<std::shared_ptr<wan::Operation>> operations;
  for (int64_t lane = own.begin; lane < own.end; ++lane) {
    if (!before.empty()) options.residual = (*residuals)[lane - own.begin];
    operations.push_back(context.wan->AllReduce(ViewId{context.view->id()}, LaneId{lane},
                                                static_cast<uint64_t>(plan.round),
                                                (*buffers)[lane - own.begin], options));
  }
  ReduceResult result;
  Status status;
  for (auto& operation : operations) {
    auto done = operation->Wait();
    if (!done.ok()) {
      if (status.ok())
        status = Annotate(done.status(), absl::StrCat("while reducing round ", plan.round));
      continue;
    }
    result.bytes_sent += done->bytes_sent;
    std::vector<pb::RoundNote> notes(done->attachments.size());
    for (size_t member = 0; member < notes.size(); ++member) {
      if (!notes[member].ParseFromString(done->attachments[member])) {
        status = absl::DataLossError(absl::StrCat("the note of region ",
                                                  context.view->members(member).region(),
                                                  " to round ", plan.round, " is malformed"));
      }
    }
    result.notes = std::move(notes);
  }
  if (!status.ok() && !before.empty()) *residuals = std::move(before);
  RETURN_IF_ERROR(status);
  return result;
}

double WeightOfSum(const RoundPlan& plan, int64_t sequence_length,
                   const std::vector<pb::RoundNote>& notes) {
  int64_t tokens = 0;
  for (const pb::RoundNote& note : notes) tokens += note.tokens();
  return static_cast<double>(tokens) /
         static_cast<double>(plan.job_samples.size() * sequence_length);
}

}  // namespace atl
