// Entering a view: geometry, state (from the seed or a checkpoint), connections to the other
// regions.
//
//   1. segments, lanes, optimizer shard, method;
//   2. no checkpoint: every worker makes the whole parameter vector from the seed. A checkpoint:
//      every worker reads its own slices, the ranks agree that all could, and the region gathers
//      the parameters;
//   3. the digest of what is now held goes back to the leader, which compares it with the view's;
//   4. every lane of this worker joins its group.
#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "collectives/nccl/loader.h"
#include "worker/region/view_state.h"
#include "worker/sync/lane_buffer.h"

namespace atl {
namespace {

// One attempt to connect. A peer may take much longer, loading a large checkpoint: between attempts
// the ranks ask whether the view still stands. A dead peer is the orchestrator's to notice, which
// then ends the job or makes another view.
constexpr double kJoinSeconds = 5;

// Reads elements of one of a checkpoint's sections straight into one of the trainer's vectors.
Status ReadInto(const checkpoint::Checkpoint& checkpoint, const std::string& section,
                const std::vector<checkpoint::TensorSpec>& tensors, Range range, Trainer& trainer,
                Vector vector, int64_t offset) {
  std::vector<float> host(range.size());
  RETURN_IF_ERROR(checkpoint.Read(section, tensors, range, host));
  return trainer.Write(vector, offset, host);
}

}  // namespace

Status RegionWorker::EnterView(const pb::EnterView& command, pb::RegionAnswer* answer) {
  const ScopedPhase phase(&phases_, Phase::kRestart);
  const pb::View& view = command.view();
  Doing(absl::StrCat("entering view ", view.id()));
  if (view_) wan_->Leave(ViewId{view_->view.id()});
  view_ = std::make_unique<ViewState>();
  view_->view = view;
  abandon_view_.store(false);
  for (int member = 0; member < view.members_size(); ++member) {
    if (view.members(member).region() == options_.region) view_->member = member;
  }
  view_->tensors = control_;
  if (trainer_->on_device() && control_->size() > 1) {
    ASSIGN_OR_RETURN(view_->device_tensors, MakeNcclCommunicator(*control_, device_));
    view_->tensors = view_->device_tensors.get();
  }
  Buckets buckets = MakeBuckets(trainer_->tensors(), trainer_->size(), job_.train().bucket_bytes());
  view_->lanes = std::make_unique<Lanes>(buckets.segments, view.lanes());
  ASSIGN_OR_RETURN(view_->inner, InnerOptimizer::Create(trainer_.get(), view_->tensors,
                                                        view_->lanes.get(), job_.train()));
  view_->gradients = std::make_unique<Gradients>(
      trainer_.get(), view_->tensors, view_->lanes.get(), dataset_.get(),
      std::move(buckets.segment_of_tensor), job_.train().micro_batch());
  RegionContext context;
  context.job = &job_;
  context.view = &view_->view;
  context.member = view_->member;
  context.trainer = trainer_.get();
  context.tensors = view_->tensors;
  context.lanes = view_->lanes.get();
  context.wan = wan_.get();
  context.dataset = dataset_.get();
  context.gradients = view_->gradients.get();
  context.inner = view_->inner.get();
  context.phases = &phases_;
  context.doing = [this](const std::string& text) { Doing(text); };
  view_->method = SyncMethod::Create(context);
  answer->set_optimizer_bytes(trainer_->optimizer_bytes());
  LOG(INFO) << "view " << view.id() << ": member " << view_->member << " of " << view.members_size()
            << ", lanes " << view_->lanes->lanes() << ", " << view_->lanes->segments().size()
            << " segments, optimizer state " << trainer_->optimizer_bytes() << " bytes";

  if (view.checkpoint().empty()) {
    RETURN_IF_ERROR(InitializeParameters(*trainer_, job_.seed(), model_.layers()));
    RETURN_IF_ERROR(view_->method->ResetOuterState());
  } else if (const Status loaded = Load(view); !loaded.ok()) {
    answer->set_checkpoint_unusable(true);
    return loaded;
  }
  ASSIGN_OR_RETURN(const Digest digest, view_->method->OuterDigest());
  answer->set_digest(digest.Hex());
  return JoinLanes();
}

StatusOr<wan::Group> RegionWorker::GroupOfLane(int64_t lane) const {
  const pb::View& view = view_->view;
  wan::Group group;
  group.view = ViewId{view.id()};
  group.lane = LaneId{lane};
  group.self = MemberIndex{view_->member};
  for (const pb::Member& member : view.members()) {
    ASSIGN_OR_RETURN(const Endpoint endpoint,
                     Endpoint::Parse(member.gateways(static_cast<int>(lane))));
    group.members.push_back(endpoint);
    group.names.push_back(member.region());
  }
  std::copy(view.key().begin(), view.key().end(), group.key.begin());
  return group;
}

Status RegionWorker::JoinLanes() {
  const Range own = view_->lanes->LanesOfWorker(control_->rank(), control_->size());
  int64_t joined = own.begin;
  for (;;) {
    Status status;
    while (joined < own.end && status.ok()) {
      Doing(absl::StrCat("connecting lane ", joined, " to the other regions"));
      const auto group = GroupOfLane(joined);
      status = group.ok() ? wan_->Join(*group, kJoinSeconds) : group.status();
      if (status.ok()) ++joined;
    }
    // '.' joined, '?' not yet, '!' can't be, 'x' the view is no more
    const char* mine = abandon_view_.load()               ? "x"
                       : status.ok()                      ? "."
                       : absl::IsDeadlineExceeded(status) ? "?"
                                                          : "!";
    ASSIGN_OR_RETURN(const auto all, control_->AllGatherBytes(mine));
    std::string marks;
    for (const std::string& mark : all) marks += mark;
    if (marks.find_first_not_of('.') == std::string::npos) return OkStatus();
    if (marks.find('x') != std::string::npos) return absl::CancelledError("the view is no more");
    if (!status.ok() && mine[0] == '!') return status;
    if (marks.find('!') != std::string::npos)
      return absl::UnavailableError("another worker of the region could not connect");
    LOG(INFO) << "still " << doing() << ": " << status.message();
  }
}

Status RegionWorker::Load(const pb::View& view) {
  Doing(absl::StrCat("loading ", view.checkpoint()));
  Status status = [&]() -> Status {
    ASSIGN_OR_RETURN(const auto checkpoint, checkpoint::Checkpoint::Open(view.checkpoint()));
    if (checkpoint->description().model_yaml != ModelText()) {
      return UsageError(absl::StrCat(view.checkpoint(),
                                     " is of another model: ", checkpoint->description().model_yaml,
                                     "; the job's is ", ModelText()));
    }
    RETURN_IF_ERROR(LoadOwnSlices(*checkpoint));
    if (view.checkpoint_own() || view_->method->inner_state_replicated())
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
  return view_->inner->GatherParameters();
}

Status RegionWorker::LoadOwnSlices(const checkpoint::Checkpoint& checkpoint) {
  const std::vector<checkpoint::TensorSpec> tensors = TensorSpecs();
  for (const Range& slice : view_->inner->owned()) {
    RETURN_IF_ERROR(
        ReadInto(checkpoint, "model", tensors, slice, *trainer_, Vector::kParameters, slice.begin));
  }
  RETURN_IF_ERROR(view_->method->ResetOuterState());
  const Range own = view_->lanes->LanesOfWorker(control_->rank(), control_->size());
  for (const LaneVector& vector : view_->method->OuterVectors()) {
    if (!checkpoint.HasSection(vector.section)) {
      LOG(WARNING) << checkpoint.path() << " has no " << vector.section << ": it starts at zero";
      continue;
    }
    for (int64_t lane = own.begin; lane < own.end; ++lane) {
      int64_t offset = 0;
      for (size_t segment = 0; segment < view_->lanes->segments().size(); ++segment) {
        const Range slice = view_->lanes->Slice(static_cast<int>(segment), static_cast<int>(lane));
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
  const std::vector<checkpoint::TensorSpec> tensors = TensorSpecs();
  int64_t offset = 0;
  for (const Range& slice : view_->inner->owned()) {
    RETURN_IF_ERROR(
        ReadInto(checkpoint, "optim/exp_avg", tensors, slice, *trainer_, Vector::kExpAvg, offset));
    RETURN_IF_ERROR(ReadInto(checkpoint, "optim/exp_avg_sq", tensors, slice, *trainer_,
                             Vector::kExpAvgSq, offset));
    offset += slice.size();
  }
  view_->inner->set_updates(checkpoint.description().optimizer_updates);
  return OkStatus();
}

}  // namespace atl
