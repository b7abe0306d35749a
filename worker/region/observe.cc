// An observer without state: it hears the rounds that pass, fetches the outer state meanwhile, and
// catches up (docs/protocols/membership.md, Joining).
//
//   1. SwitchView into a view with observers: full members keep a copy of S(e) and serve it, or as
//      soon as they have it (a round that is handed on first). All wait for this copy; its memory
//      is made ready from PrepareView on, beside training (copy_room.h), and stays until a view
//      without observers holds.
//   2. The observer's first reduction in the view ends: all members are in the view, so the copies
//      are there. It begins to fetch, each rank its own lanes, from all full members at once.
//   3. Every result that it hears goes into a file (heard_results.h).
//      With sync.joiner_state copied it fetches the inner optimizer's state too, from one member:
//      each has its own.
//   4. All ranks have their lanes: the state is taken, and what was heard since is committed, in
//      order. From then on it is a member like others, but for what it contributes.
// A fetch that cannot go on (a member is gone, say) is tried again until the view changes.
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/units.h"
#include "worker/region/replica.h"
#include "worker/sync/lane_buffer.h"

namespace atl {
namespace {

// Whose inner optimizer's state the observer `observer` takes: observers of a view take turns.
int InnerSourceOf(const pb::View& view, int observer) {
  std::vector<int> full;
  int64_t turn = view.id();
  for (int member = 0; member < view.members_size(); ++member) {
    if (view.members(member).role() == pb::Member::FULL) {
      full.push_back(member);
    } else {
      turn += member < observer ? 1 : 0;
    }
  }
  return full.empty() ? -1 : full[turn % static_cast<int64_t>(full.size())];
}

}  // namespace

bool RegionWorker::CopiesInnerState() const {
  return job_.sync().joiner_state() == pb::Sync::COPIED &&
         !replica_->method->inner_state_replicated();
}

Status RegionWorker::BeginFollowing() {
  ASSIGN_OR_RETURN(HeardResults heard, HeardResults::Create(CheckpointDirectory(options_.region)));
  following_ = std::make_unique<Following>(std::move(heard));
  return OkStatus();
}

void RegionWorker::BeginFetch() {
  if (following_ == nullptr || following_->fetch != nullptr) return;
  const Range own = replica_->lanes->LanesOfWorker(control_->rank(), control_->size());
  std::vector<LaneId> lanes;
  std::vector<int64_t> elements;
  for (int64_t lane = own.begin; lane < own.end; ++lane) {
    lanes.push_back(LaneId{lane});
    elements.push_back(replica_->lanes->LaneSize(static_cast<int>(lane)) *
                       replica_->method->OuterCopies());
  }
  std::vector<MemberIndex> sources;
  for (int member = 0; member < view_.members_size(); ++member) {
    if (view_.members(member).role() == pb::Member::FULL) sources.push_back(MemberIndex{member});
  }
  following_->fetch = std::make_unique<OuterFetch>(wan_.get(), kOuterCopyName, ViewId{view_.id()},
                                                   lanes, std::move(elements), std::move(sources));
  const int source = InnerSourceOf(view_, MemberOf(view_));
  if (!CopiesInnerState() || source < 0) return;
  elements.clear();
  for (const LaneId lane : lanes) {
    elements.push_back(2 * replica_->lanes->LaneSize(static_cast<int>(lane.value)));
  }
  following_->inner = std::make_unique<OuterFetch>(wan_.get(), kInnerCopyName, ViewId{view_.id()},
                                                   std::move(lanes), std::move(elements),
                                                   std::vector<MemberIndex>{MemberIndex{source}});
}

Status RegionWorker::CommitHeard(const pb::CommitRound& command, pb::RegionAnswer* answer) {
  RETURN_IF_ERROR(following_->heard.Append(
      {command.round(), command.tokens(), command.expected_tokens()}, replica_->method->result()));
  const OuterFetch* const fetch = following_->fetch.get();
  const OuterFetch* const inner = following_->inner.get();
  // A rank without lanes has nothing to fetch, and nothing to say.
  const Range own = replica_->lanes->LanesOfWorker(control_->rank(), control_->size());
  std::string mine = "-";
  if (!own.empty()) {
    const bool done = fetch != nullptr && fetch->done() && (inner == nullptr || inner->done());
    mine = done ? absl::StrCat(fetch->header().round, " ",
                               (inner != nullptr ? inner : fetch)->header().updates)
                : "?";
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> all, control_->AllGatherBytes(mine));
  std::string copy;
  for (const std::string& one : all) {
    if (one == "-") continue;
    if (one == "?") return OkStatus();
    if (!copy.empty() && one != copy)
      return absl::InternalError(absl::StrCat("ranks fetched different states: ", one, ", ", copy));
    copy = one;
  }
  RETURN_IF_ERROR(CatchUp(copy));
  state_round_ = command.round();
  answer->set_state_round(state_round_);
  ASSIGN_OR_RETURN(const Digest digest, replica_->method->OuterDigest());
  answer->set_digest(digest.Hex());
  return OkStatus();
}

// `copy`: "round updates" of what the ranks have fetched.
Status RegionWorker::CatchUp(const std::string& copy) {
  int64_t round = 0, updates = 0;
  const size_t space = copy.find(' ');
  if (space == std::string::npos || !absl::SimpleAtoi(copy.substr(0, space), &round) ||
      !absl::SimpleAtoi(copy.substr(space + 1), &updates)) {
    return absl::InternalError("no rank has fetched a state");
  }
  const std::unique_ptr<Following> following = std::move(following_);
  const std::vector<HeardResults::Heard>& heard = following->heard.rounds();
  if (heard.front().round > round + 1) {
    return absl::InternalError(absl::StrCat("heard from round ", heard.front().round,
                                            " on, but the state is the one after ", round));
  }
  Doing(absl::StrCat("catching up from round ", round, " to ", heard.back().round));
  LOG(INFO) << "the outer state after round " << round << " is here; " << heard.size()
            << " rounds were heard since";
  RETURN_IF_ERROR(replica_->method->SetOuterState(
      following->fetch != nullptr ? following->fetch->Take() : LaneBuffers(), updates));
  if (following->inner != nullptr) {
    const Range own = replica_->lanes->LanesOfWorker(control_->rank(), control_->size());
    const LaneBuffers moments = following->inner->Take();
    for (int64_t lane = own.begin; lane < own.end; ++lane) {
      RETURN_IF_ERROR(WriteMoments(*trainer_, replica_->inner->owned(), *replica_->lanes,
                                   static_cast<int>(lane), moments[lane - own.begin]));
    }
    LOG(INFO) << "the inner optimizer goes on from a copy of " << updates << " updates";
  }
  if (CopiesInnerState()) replica_->inner->set_updates(updates);  // of ranks without lanes too
  has_state_ = true;
  for (size_t i = 0; i < heard.size(); ++i) {
    if (heard[i].round <= round) continue;
    RETURN_IF_ERROR(following->heard.Read(i, &replica_->method->result()));
    RETURN_IF_ERROR(
        replica_->method->Commit(heard[i].round, heard[i].tokens, heard[i].expected_tokens));
  }
  return OkStatus();
}

// What this rank copies at the edge of `view`: of the outer state, or of the inner optimizer's.
int64_t RegionWorker::CopiedElements(const pb::View& view, bool inner) const {
  const int self = MemberOf(view);
  if (replica_ == nullptr || !has_state_ || self < 0 || Observes(view)) return 0;
  if (inner && !CopiesInnerState()) return 0;
  bool wanted = false;
  for (int member = 0; member < view.members_size(); ++member) {
    wanted = wanted || (view.members(member).role() == pb::Member::OBSERVER &&
                        (!inner || InnerSourceOf(view, member) == self));
  }
  if (!wanted) return 0;
  int64_t elements = 0;
  const Range own = replica_->lanes->LanesOfWorker(control_->rank(), control_->size());
  for (int64_t lane = own.begin; lane < own.end; ++lane) {
    elements += replica_->lanes->LaneSize(static_cast<int>(lane));
  }
  return elements * (inner ? 2 : replica_->method->OuterCopies());
}

// Room that is there, also of what is still served, is as good as new: the size stays the same.
void RegionWorker::MakeRoom(const pb::View& view) {
  const int64_t outer = CopiedElements(view, false), inner = CopiedElements(view, true);
  if (outer > 0 && replica_->outer_room == nullptr) {
    replica_->outer_room = std::make_shared<CopyRoom>(outer);
  }
  if (inner > 0 && replica_->inner_room == nullptr) {
    replica_->inner_room = std::make_shared<CopyRoom>(inner);
  }
}

Status RegionWorker::ServeState() {
  if (serving_ || CopiedElements(view_, false) == 0 || state_round_ != view_.first_round() - 1) {
    return OkStatus();
  }
  MakeRoom(view_);  // of a view that nobody announced
  const double began = Clock::Real()->MonotonicSeconds();
  Doing("copying the outer state for regions that join");
  serving_ = true;
  RETURN_IF_ERROR(ServeCopy(
      kOuterCopyName, replica_->outer_room, replica_->method->OuterCopies(),
      replica_->method->inner_state_replicated() ? replica_->inner->updates() : 0,
      [&](int64_t i, std::span<float> out) { return replica_->method->CopyOuterState(i, out); }));
  if (CopiedElements(view_, true) > 0) {
    const Range own = replica_->lanes->LanesOfWorker(control_->rank(), control_->size());
    RETURN_IF_ERROR(ServeCopy(kInnerCopyName, replica_->inner_room, 2, replica_->inner->updates(),
                              [&](int64_t i, std::span<float> out) {
                                return ReadMoments(*trainer_, replica_->inner->owned(),
                                                   *replica_->lanes,
                                                   static_cast<int>(own.begin + i), out);
                              }));
  }
  LOG(INFO) << "serves the state after round " << state_round_ << "; it was copied in "
            << FormatDuration(Clock::Real()->MonotonicSeconds() - began);
  return OkStatus();
}

Status RegionWorker::ServeCopy(const char* name, std::shared_ptr<CopyRoom> room, int64_t vectors,
                               int64_t updates,
                               const std::function<Status(int64_t i, std::span<float> out)>& copy) {
  const StatusOr<std::span<float>> data = room->Data();
  if (!data.ok()) {
    // Whoever asks is told that it is not served here.
    LOG(WARNING) << data.status().message() << "; other regions have to serve it";
    return OkStatus();
  }
  std::span<float> left = *data;
  const Range own = replica_->lanes->LanesOfWorker(control_->rank(), control_->size());
  for (int64_t lane = own.begin; lane < own.end; ++lane) {
    const size_t size = vectors * replica_->lanes->LaneSize(static_cast<int>(lane));
    const std::span<float> out = left.first(size);
    left = left.subspan(size);
    RETURN_IF_ERROR(copy(lane - own.begin, out));
    RETURN_IF_ERROR(wan_->Serve(ViewId{view_.id()}, LaneId{lane}, name,
                                MakeOuterCopy(state_round_, updates, out, room)));
  }
  return OkStatus();
}

void RegionWorker::StopServing() {
  if (!serving_) return;
  serving_ = false;
  const Range own = replica_->lanes->LanesOfWorker(control_->rank(), control_->size());
  for (int64_t lane = own.begin; lane < own.end; ++lane) {
    wan_->StopServing(ViewId{view_.id()}, LaneId{lane}, kOuterCopyName);
    wan_->StopServing(ViewId{view_.id()}, LaneId{lane}, kInnerCopyName);
  }
}

}  // namespace atl
