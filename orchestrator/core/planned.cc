// Views that take over at an edge: who joins, has caught up, leaves
// (docs/protocols/membership.md, "Joining", "Leaving").
//
// PlanView compares what the membership should be with what the newest view says; where they differ
// it sends out a planned view. The members agree on the edge among themselves; the first report of
// that round tells us (TakeEdge). A planned view that finds no edge, because its newcomers cannot
// be reached, is replaced by one without them for a while.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "orchestrator/core/core.h"
#include "proto/round_plan.h"

namespace atl {
namespace {

constexpr int kViewKeyBytes = 32;
// A planned view is given so long, or five rounds if that is more.
constexpr double kPlannedSeconds = 30;
constexpr double kTryAgainSeconds = 60;
// Ranges of samples that a view is given back before another one begins with them.
constexpr size_t kMostGivenBack = 32;

}  // namespace

void Core::OnCaughtUp(RegionEntry& entry, const pb::CaughtUp& caught_up) {
  if (entry.state() != RegionState::kObserving || entry.caught_up || caught_up.view() < absolute_) {
    return;
  }
  const auto known = digests_.find(caught_up.round());
  if (known != digests_.end() && known->second != caught_up.digest()) {
    return LeaveOut(entry.name(), RegionState::kJoining,
                    absl::StrCat("it caught up to another state of round ", caught_up.round()));
  }
  entry.caught_up = true;
  entry.caught_up_round = caught_up.round();
  entry.caught_up_digest = caught_up.digest();
  RecordRegion(entry);
  Event("caught_up", entry.name(), caught_up.round(),
        absl::StrCat("region ", entry.name(), " holds the state of round ", caught_up.round()));
}

void Core::OnLeaving(RegionEntry& entry, const pb::Leaving& leaving) {
  if (entry.state() == RegionState::kObserving) {
    return LeaveOut(entry.name(), RegionState::kJoining, leaving.reason());
  }
  if (entry.state() != RegionState::kTraining) return;
  entry.Enter(RegionState::kLeaving, absl::StrCat("leaves: ", leaving.reason()), now_);
  RecordRegion(entry);
  Event("leaving", entry.name(), -1,
        absl::StrCat("region ", entry.name(), " leaves: ", leaving.reason()));
}

pb::View Core::WantedView() {
  bool wave = false;  // somebody fetches
  int64_t full = 0;
  for (const pb::Member& member : view_.members()) {
    const RegionEntry& entry = regions_.at(member.region());
    wave |= entry.state() == RegionState::kObserving && !entry.caught_up;
  }
  for (const auto& [name, entry] : regions_) {
    full += entry.IsMember() || entry.state() == RegionState::kReady ? 1 : 0;
  }
  pb::View wanted;
  for (const std::string& name : order_) {
    RegionEntry& entry = regions_.at(name);
    switch (entry.state()) {
      case RegionState::kTraining:
        AddMember(&wanted, name, true);
        break;
      case RegionState::kObserving:
        AddMember(&wanted, name, entry.caught_up);
        break;
      case RegionState::kReady:
        if (!wave && now_ >= entry.not_before && full <= options_.job.train().global_batch() &&
            !LeaseIsTooShort(entry)) {
          AddMember(&wanted, name, false);
        }
        break;
      default:
        break;
    }
  }
  return wanted;
}

void Core::PlanView() {
  const bool rounds_go_on = state_ == JobState::kTraining || state_ == JobState::kStarting;
  if (view_.id() == 0 || fence_ || !rounds_go_on) return;
  // After the last round no view follows; whoever has ended it leaves, one after the other.
  if (ledger_->next_round() >= view_.last_round()) return;
  if (!planned_.empty() && now_ >= planned_since_ + std::max(kPlannedSeconds, 5 * round_seconds_)) {
    for (const pb::Member& member : planned_.rbegin()->second.members()) {
      RegionEntry& entry = regions_.at(member.region());
      if (entry.state() != RegionState::kReady) continue;
      entry.not_before = now_ + kTryAgainSeconds;
      Event("join_delayed", entry.name(), -1,
            absl::StrCat("region ", entry.name(),
                         " could not be connected to all members; tried "
                         "again in a minute"));
    }
    planned_since_ = now_;
  }
  pb::View wanted = WantedView();
  const pb::View& newest = planned_.empty() ? view_ : planned_.rbegin()->second;
  bool same = wanted.members_size() == newest.members_size();
  int full = 0;
  for (int i = 0; i < wanted.members_size(); ++i) {
    full += IsFull(wanted.members(i)) ? 1 : 0;
    same = same && wanted.members(i).region() == newest.members(i).region() &&
           wanted.members(i).role() == newest.members(i).role() &&
           wanted.members(i).inner_steps() == newest.members(i).inner_steps();
  }
  // What was given back in the view is trained in the next one; it is not to become much.
  const bool much_given_back =
      planned_.empty() && ledger_->pool().returned().size() >
                              static_cast<size_t>(view_.returned_size()) + kMostGivenBack;
  if ((same && !much_given_back) || full == 0) return;
  wanted.set_id(++last_view_);
  wanted.set_after(view_.id());
  wanted.set_last_round(view_.last_round());
  wanted.set_lanes(view_.lanes());
  wanted.set_key(options_.random_bytes(kViewKeyBytes));
  if (!GiveShares(&wanted).ok()) return;
  planned_since_ = now_;
  planned_[wanted.id()] = wanted;
  RecordMembership();
  Event("planned", "", -1,
        absl::StrCat("view ", wanted.id(), " with ", wanted.members_size(), " members, ", full,
                     " of them full, follows view ", view_.id(), " when all are connected"),
        {{"view", wanted.id()}});
  for (const pb::Member& member : wanted.members()) {
    pb::OrchestratorMessage message;
    *message.mutable_view() = wanted;
    Send(member.region(), std::move(message));
  }
}

void Core::TakeEdge(int64_t edge, const std::string& digest, const RoundFacts& facts) {
  const auto found = planned_.find(facts.next_view);
  if (found == planned_.end()) return;
  const pb::View before = view_;
  ReturnSamplesFrom(edge + 1);
  // Where regions may be late, contributions of any round of the view may have been short.
  const bool any_round = options_.job.sync().slow().policy() == pb::SlowRegions::QUORUM;
  pb::View next =
      ContinueView(found->second, before, options_.job, edge, digest,
                   any_round ? ledger_->pool()
                             : PoolAfter(before, options_.job, edge, facts.short_contributions));
  view_ = std::move(next);
  planned_.clear();
  const SamplePool expected(FromProto(view_.returned()), view_.first_sample());
  CHECK(ledger_->pool() == expected) << "the ledger's samples are not those of view " << view_.id();
  actions_.records.push_back(ViewRecord{view_, {}, now_});
  RecordMembership();
  Event("view", "", edge + 1,
        absl::StrCat("view ", view_.id(), " holds from round ", edge + 1,
                     " on: ", view_.members_size(), " members"),
        {{"view", view_.id()}});
  for (const pb::Member& member : view_.members()) {
    RegionEntry& entry = regions_.at(member.region());
    const RegionState state = IsFull(member) ? RegionState::kTraining : RegionState::kObserving;
    // The same start of the region that the view was planned with.
    const auto gateways = entry.ready ? entry.ready->gateways() : member.gateways();
    const bool same =
        std::find(gateways.begin(), gateways.end(), member.gateways(0)) != gateways.end();
    const bool comes = same && (IsFull(member) ? entry.state() == RegionState::kObserving
                                               : entry.state() == RegionState::kReady);
    if (!comes) {
      // It has gone since the view was planned.
      if (!entry.IsMember() && !fence_) StartFence(absl::StrCat(entry.name(), " is gone"));
      continue;
    }
    if (!IsFull(member)) Send(member.region(), ViewFor(entry));
    entry.Enter(state, "", now_);
    RecordRegion(entry);
  }
}

void Core::Release(RegionEntry& entry) {
  if (entry.state() == RegionState::kLeaving) {
    entry.Enter(RegionState::kLeft,
                absl::StrCat("left after round ", entry.left->round(), ", exit code ",
                             entry.left->exit_code()),
                now_);
    RecordRegion(entry);
    if (ledger_) ledger_->Excuse(entry.name());
    reckon_ = stirred_ = true;
  }
  SendDropped(entry, "it has left");
}

void Core::ReleaseLeavers() {
  if (state_ != JobState::kTraining || fence_) return;
  for (const std::string& name : order_) {
    RegionEntry& entry = regions_.at(name);
    if (entry.state() == RegionState::kLeaving && entry.left &&
        entry.left->round() < ledger_->next_round() && MemberOf(view_, name) < 0) {
      Release(entry);
    }
  }
}

Actions Core::OnDrain(const std::string& region, const std::string& reason, double now) {
  BeginStep(now);
  const auto found = regions_.find(region);
  if (elastic_ && found != regions_.end() && found->second.state() == RegionState::kTraining) {
    Event("drain", region, -1, absl::StrCat("region ", region, " is asked to leave: ", reason));
    pb::OrchestratorMessage message;
    message.mutable_drain()->set_reason(reason);
    Send(region, std::move(message));
  }
  return EndStep();
}

}  // namespace atl
