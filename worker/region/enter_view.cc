// Entering a view: geometry, state (from the seed or a checkpoint), connections to the other
// regions.
//
//   1. segments, lanes, optimizer shard, method;
//   2. no checkpoint: every worker makes the whole parameter vector from the seed. A checkpoint:
//      every worker reads its own slices, the ranks agree that all could, and the region gathers
//      the parameters;
//   3. the digest of what is now held goes back to the leader, which compares it with the view's;
//   4. every lane of this worker joins its group (views.cc), in the background from the start.
#include <google/protobuf/text_format.h>
#include <google/protobuf/util/message_differencer.h>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "collectives/nccl/loader.h"
#include "worker/region/replica.h"
#include "worker/sync/lane_buffer.h"

namespace atl {
namespace {

// Reads elements of one of a checkpoint's sections straight into one of the trainer's vectors.
Status ReadInto(const checkpoint::Checkpoint& checkpoint, const std::string& section,
                const std::vector<checkpoint::TensorSpec>& tensors, Range range, Trainer& trainer,
                Vector vector, int64_t offset) {
  std::vector<float> host(range.size());
  RETURN_IF_ERROR(checkpoint.Read(section, tensors, range, host));
  return trainer.Write(vector, offset, host);
}

// Whether a checkpoint's text is of this model: the name of its preset says nothing.
bool IsModel(const std::string& text, pb::Model model) {
  pb::Model written;
  if (!google::protobuf::TextFormat::ParseFromString(text, &written)) return false;
  written.clear_preset();
  model.clear_preset();
  return google::protobuf::util::MessageDifferencer::Equals(written, model);
}

// The "checkpoint" of a region that still holds the outer state.
constexpr char kInMemory[] = "memory";

}  // namespace

Status RegionWorker::MakeReplica(int lanes) {
  has_state_ = false;
  replica_ = std::make_unique<Replica>();
  replica_->tensors = control_;
  if (trainer_->on_device() && control_->size() > 1) {
    ASSIGN_OR_RETURN(replica_->device_tensors, MakeNcclCommunicator(*control_, device_));
    replica_->tensors = replica_->device_tensors.get();
  }
  Buckets buckets = MakeBuckets(trainer_->tensors(), trainer_->size(), job_.train().bucket_bytes());
  replica_->lanes = std::make_unique<Lanes>(buckets.segments, lanes);
  ASSIGN_OR_RETURN(replica_->inner, InnerOptimizer::Create(trainer_.get(), replica_->tensors,
                                                           replica_->lanes.get(), job_.train()));
  replica_->gradients = std::make_unique<Gradients>(
      trainer_.get(), replica_->tensors, replica_->lanes.get(), dataset_.get(),
      std::move(buckets.segment_of_tensor), job_.train().micro_batch());
  RegionContext context;
  context.job = &job_;
  context.view = &view_;
  context.trainer = trainer_.get();
  context.tensors = replica_->tensors;
  context.lanes = replica_->lanes.get();
  context.wan = wan_.get();
  context.dataset = dataset_.get();
  context.gradients = replica_->gradients.get();
  context.inner = replica_->inner.get();
  context.phases = &phases_;
  context.doing = [this](const std::string& text) { Doing(text); };
  replica_->method = SyncMethod::Create(context);
  LOG(INFO) << "lanes " << lanes << ", " << replica_->lanes->segments().size()
            << " segments, optimizer state " << trainer_->optimizer_bytes() << " bytes";
  return OkStatus();
}

Status RegionWorker::EnterView(const pb::View& view, pb::RegionAnswer* answer) {
  const ScopedPhase phase(&phases_, Phase::kRestart);
  Doing(absl::StrCat("entering view ", view.id()));
  StopServing();
  following_.reset();
  if (view_.id() > 0) wan_->Leave(ViewId{view_.id()});
  view_.Clear();
  RETURN_IF_ERROR(PrepareView(view));
  if (view.checkpoint() != kInMemory) RETURN_IF_ERROR(MakeReplica(view.lanes()));
  Status loaded;
  if (view.checkpoint().empty()) {
    RETURN_IF_ERROR(InitializeParameters(*trainer_, job_.seed(), model_.layers()));
    RETURN_IF_ERROR(replica_->method->ResetOuterState());
  } else {
    loaded = view.checkpoint() == kInMemory ? KeepState(view) : Load(view);
  }
  if (!loaded.ok()) {
    joiner_.reset();
    answer->set_checkpoint_unusable(true);
    return loaded;
  }
  has_state_ = true;
  state_round_ = view.first_round() - 1;
  answer->set_optimizer_bytes(trainer_->optimizer_bytes());
  ASSIGN_OR_RETURN(const Digest digest, replica_->method->OuterDigest());
  answer->set_digest(digest.Hex());
  RETURN_IF_ERROR(JoinPrepared(answer));
  return ServeState();
}

// With the job's key; a start in the clear only where the job names it.
StatusOr<std::unique_ptr<checkpoint::Checkpoint>> RegionWorker::OpenToLoad(
    const std::string& path) const {
  if (key_ != nullptr && path == job_.resume()) {
    ASSIGN_OR_RETURN(auto opened, checkpoint::Checkpoint::Open(path));
    if (opened->key_id().empty()) return opened;
  }
  return checkpoint::Checkpoint::Open(path, key_.get());
}

// All ranks come to the same answer.
Status RegionWorker::KeepState(const pb::View& view) {
  if (replica_ == nullptr || !has_state_ || state_round_ != view.first_round() - 1 ||
      replica_->lanes->lanes() != view.lanes()) {
    return UsageError("the outer state is not, or no longer, in this region's memory");
  }
  return replica_->method->Restore();
}

Status RegionWorker::Load(const pb::View& view) {
  Doing(absl::StrCat("loading ", view.checkpoint()));
  Status status = [&]() -> Status {
    ASSIGN_OR_RETURN(const auto checkpoint, OpenToLoad(view.checkpoint()));
    if (!IsModel(checkpoint->description().model_yaml, model_)) {
      return UsageError(absl::StrCat(view.checkpoint(),
                                     " is of another model: ", checkpoint->description().model_yaml,
                                     "; the job's is ", ModelText()));
    }
    RETURN_IF_ERROR(LoadOwnSlices(*checkpoint));
    if (view.checkpoint_own())
      RETURN_IF_ERROR(LoadLaneVectors(*checkpoint, replica_->method->RegionalVectors()));
    if (view.checkpoint_own() || replica_->method->inner_state_replicated())
      return LoadInnerState(*checkpoint);
    LOG(INFO) << "the inner optimizer starts fresh: " << view.checkpoint()
              << " is another region's";
    return OkStatus();
  }();
  // All ranks agree before the collective that follows.
  ASSIGN_OR_RETURN(const auto all, control_->AllGatherBytes(std::string(status.message())));
  RETURN_IF_ERROR(status);
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (!all[rank].empty())
      return UsageError(absl::StrCat("rank ", rank, " could not load it: ", all[rank]));
  }
  return replica_->inner->GatherParameters();
}

Status RegionWorker::LoadOwnSlices(const checkpoint::Checkpoint& checkpoint) {
  const std::vector<checkpoint::TensorSpec> tensors = TensorSpecs();
  for (const Range& slice : replica_->inner->owned()) {
    RETURN_IF_ERROR(
        ReadInto(checkpoint, "model", tensors, slice, *trainer_, Vector::kParameters, slice.begin));
  }
  RETURN_IF_ERROR(replica_->method->ResetOuterState());
  return LoadLaneVectors(checkpoint, replica_->method->OuterVectors());
}

Status RegionWorker::LoadLaneVectors(const checkpoint::Checkpoint& checkpoint,
                                     const std::vector<LaneVector>& vectors) {
  const std::vector<checkpoint::TensorSpec> tensors = TensorSpecs();
  const Range own = replica_->lanes->LanesOfWorker(control_->rank(), control_->size());
  for (const LaneVector& vector : vectors) {
    if (!checkpoint.HasSection(vector.section)) {
      LOG(WARNING) << checkpoint.path() << " has no " << vector.section << ": it starts at zero";
      continue;
    }
    for (int64_t lane = own.begin; lane < own.end; ++lane) {
      int64_t offset = 0;
      for (size_t segment = 0; segment < replica_->lanes->segments().size(); ++segment) {
        const Range slice =
            replica_->lanes->Slice(static_cast<int>(segment), static_cast<int>(lane));
        RETURN_IF_ERROR(checkpoint.Read(
            vector.section, tensors, slice,
            std::span((*vector.by_lane)[lane - own.begin]).subspan(offset, slice.size())));
        offset += slice.size();
      }
    }
  }
  return OkStatus();
}

Status RegionWorker::LoadInnerState(const checkpoint::Checkpoint& checkpoint) {
  if (!checkpoint.HasSection("optim/exp_avg")) {
    LOG(INFO) << "the inner optimizer starts fresh: " << checkpoint.path() << " has no state of it";
    return OkStatus();
  }
  const std::vector<checkpoint::TensorSpec> tensors = TensorSpecs();
  int64_t offset = 0;
  for (const Range& slice : replica_->inner->owned()) {
    RETURN_IF_ERROR(
        ReadInto(checkpoint, "optim/exp_avg", tensors, slice, *trainer_, Vector::kExpAvg, offset));
    RETURN_IF_ERROR(ReadInto(checkpoint, "optim/exp_avg_sq", tensors, slice, *trainer_,
                             Vector::kExpAvgSq, offset));
    offset += slice.size();
  }
  replica_->inner->set_updates(checkpoint.description().optimizer_updates);
  return OkStatus();
}

}  // namespace atl
