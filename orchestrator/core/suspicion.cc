// Who is suspected, and what is believed (docs/protocols/membership.md, P4, P8).
//
// - A member whose gateway refuses calls is gone: left out at once. So is one that a peer misses
//   and whose heartbeats have failed to come (RegionEntry::MissedDeadline).
// - Suspicions against members that still speak to us are gathered for a moment; then the fewest
//   are left out that part all pairs that cannot hear each other. Once all others have lost the
//   same member, more words would change nothing, and it is given half of that to be heard again.
// - A member whose round is broken needs a view in any case: a fence, if nobody is to blame.
// - A suspicion falls when its sender reports the round that it waited in, or hears the other one
//   again.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "orchestrator/core/core.h"
#include "proto/round_plan.h"

namespace atl {
namespace {

// For the other side's word, and for heartbeats that are late.
constexpr double kGatherSeconds = 2;
// Since the last of all others said so.
constexpr double kLostByAllSeconds = 1;
constexpr int kLeastWitnesses = 2;
// A member that lives but does not answer the fence: a rank of it is stuck.
constexpr double kAnswerSeconds = 20;
constexpr double kLastHolderSeconds = 600;

}  // namespace

void Core::OnSuspect(RegionEntry& entry, const pb::Suspect& suspect) {
  if (!elastic_ || fence_ || !entry.IsMember() || suspect.view() < absolute_ || view_.id() == 0) {
    return;
  }
  // An observer that fetches does not know which round it is; that its connections to the view
  // broke is true all the same.
  const bool fetches = entry.state() == RegionState::kObserving && !entry.caught_up;
  const bool broke = suspect.silent_seconds() == 0 && suspect.view() == view_.id();
  if (suspect.round() < ledger_->next_round() && !(fetches && broke)) return;
  const std::string& whom = suspect.region() == entry.name() ? "" : suspect.region();
  const bool silent = suspect.silent_seconds() != 0;
  // Of the view before: nobody waits for that region any more.
  const bool member = MemberOf(view_, whom) >= 0;
  if (silent && !member && suspect.view() <= view_.id()) return;
  const auto said = suspicions_[whom].find(entry.name());
  const bool known = said != suspicions_[whom].end();
  if (suspect.silent_seconds() < 0) {
    if (known && said->second.silent) suspicions_[whom].erase(said);
    return;
  }
  if (known && !suspect.gone()) return;
  if (silent && member) regions_.at(whom).Miss();
  suspicions_[whom][entry.name()] = {suspect.gone(), silent, now_, suspect.round(), suspect.what()};
  Event("suspected", suspect.region(), suspect.round(),
        absl::StrCat("region ", entry.name(), " suspects ",
                     whom.empty() ? "somebody" : suspect.region(), ": ", suspect.what()),
        {{"by", entry.name()}, {"silent_seconds", suspect.silent_seconds()}});
}

double Core::GatherSeconds() const {
  double gather = kGatherSeconds;
  for (const auto& [whom, by] : suspicions_) {
    if (MemberOf(view_, whom) < 0) continue;
    int witnesses = 0;
    bool all = true;
    double newest = 0, oldest = now_;
    for (const pb::Member& member : view_.members()) {
      const std::string& other = member.region();
      if (other == whom || !IsFull(member) || !regions_.at(other).IsMember()) continue;
      const auto said = by.find(other);
      all = all && said != by.end() && said->second.silent;
      if (!all) break;
      ++witnesses;
      newest = std::max(newest, said->second.since);
      oldest = std::min(oldest, said->second.since);
    }
    if (!all || witnesses < kLeastWitnesses) continue;
    gather = std::min(gather, newest - oldest + kLostByAllSeconds);
  }
  return gather;
}

void Core::WeighSuspicions() {
  std::map<std::string, std::set<std::string>> pairs;  // that cannot hear each other
  double oldest = now_;
  for (const auto& [whom, by] : suspicions_) {
    if (by.empty()) continue;
    const auto found = regions_.find(whom);
    const bool member =
        found != regions_.end() && found->second.IsMember() && MemberOf(view_, whom) >= 0;
    for (const auto& [who, suspicion] : by) {
      if (MemberOf(view_, who) < 0) continue;  // the view goes on without it
      oldest = std::min(oldest, suspicion.since);
      if (!member) continue;
      if (suspicion.gone || now_ >= found->second.MissedDeadline(options_.heartbeat_seconds)) {
        const std::string name = whom;
        return LeaveOut(name, suspicion.gone ? RegionState::kJoining : RegionState::kAbsent,
                        absl::StrCat(who, " lost it (", suspicion.what, ")",
                                     suspicion.gone ? "" : ", and we hear nothing of it"));
      }
      pairs[whom].insert(who);
      pairs[who].insert(whom);
    }
  }
  for (const auto& [name, entry] : regions_) {
    if (entry.holds_since > 0 && entry.IsMember()) oldest = std::min(oldest, entry.holds_since);
  }
  if (now_ < oldest + GatherSeconds()) return;
  if (pairs.empty()) return StartFence("a round was broken off");
  while (!pairs.empty()) {
    // The most accusations; then the smaller share; then the later in order.
    const auto rank = [&](const std::string& name) {
      const int at = MemberOf(view_, name);
      return std::tuple(pairs.at(name).size(), -view_.members(at).samples_per_step(), at);
    };
    std::string worst = pairs.begin()->first;
    for (const auto& [name, others] : pairs) {
      if (rank(name) > rank(worst)) worst = name;
    }
    for (auto at = pairs.begin(); at != pairs.end();) {
      at->second.erase(worst);
      at = at->first == worst || at->second.empty() ? pairs.erase(at) : std::next(at);
    }
    LeaveOut(worst, RegionState::kJoining,
             "it speaks to the orchestrator, but not to all other members");
  }
}

bool Core::IsLastHolder(const std::string& region) const {
  if (state_ == JobState::kStopping) return false;  // nobody will go on from it
  for (const auto& [name, entry] : regions_) {
    if (name == region || !entry.IsFull() || (fence_ && fence_->left_out.contains(name))) continue;
    const bool heard = now_ < entry.MissedDeadline(options_.heartbeat_seconds);
    if (MemberOf(view_, name) >= 0 && (heard || (fence_ && fence_->answers.contains(name)))) {
      return false;
    }
  }
  return regions_.at(region).IsFull() && now_ < regions_.at(region).heard() + kLastHolderSeconds;
}

void Core::WatchFence() {
  if (fence_) {
    for (const std::string& name : Scope()) {
      if (fence_->answers.contains(name)) continue;
      const RegionEntry& entry = regions_.at(name);
      if (IsLastHolder(name)) continue;
      if (now_ >= entry.MissedDeadline(options_.heartbeat_seconds) &&
          now_ >= fence_->began + kGatherSeconds) {
        LeaveOut(name, RegionState::kAbsent, "it does not answer and we hear nothing of it");
      } else if (now_ >= fence_->began + kAnswerSeconds) {
        LeaveOut(name, RegionState::kJoining, "it does not say where it stands");
      }
    }
    DecideFence();
    return;
  }
  bool holds = false;
  for (const auto& [name, entry] : regions_) holds |= entry.holds_since > 0 && entry.IsMember();
  bool suspected = holds;
  for (const auto& [whom, by] : suspicions_) suspected |= !by.empty();
  if (suspected) WeighSuspicions();
  if (fence_) DecideFence();
}

void Core::SendWhatLacks(RegionEntry& entry, const pb::Heartbeat& heartbeat) {
  if (!elastic_ || IsEnd(state_)) return;
  if (entry.state() == RegionState::kLeft) return Release(entry);
  if (heartbeat.has_caught_up() && heartbeat.caught_up().view() == view_.id()) {
    OnCaughtUp(entry, heartbeat.caught_up());
  }
  const bool member = entry.IsMember() && MemberOf(view_, entry.name()) >= 0;
  if (!member && entry.state() == RegionState::kLeaving && heartbeat.holds() &&
      heartbeat.view() < view_.id()) {
    // Its last round broke for it; the others, who have gone on without it, hold the result.
    const std::string name = entry.name();
    LeaveOut(name, RegionState::kLeft, "left; its last round was ended by the others");
    Event("region_left", name, -1,
          absl::StrCat("region ", name, " left; its last round was ended by the others"));
    return SendDropped(entry, "it has left");
  }
  if (!member) {
    const bool waits_for_ready = entry.state() == RegionState::kJoining && entry.ready;
    if ((heartbeat.view() > 0 || waits_for_ready) && entry.state() != RegionState::kLeaving) {
      SendDropped(entry, "it is no member any more");
    }
  } else if (fence_ && !fence_->left_out.contains(entry.name())) {
    return;  // AskFenced repeats itself
  } else {
    if (heartbeat.view() < view_.id()) Send(entry.name(), ViewFor(entry));
    if (!heartbeat.holds() || heartbeat.view() < absolute_) {
      entry.holds_since = 0;
    } else if (entry.holds_since == 0) {
      entry.holds_since = now_;
      stirred_ = true;
    }
  }
  if (planned_.empty()) return;
  const auto& [id, planned] = *planned_.rbegin();
  if (heartbeat.planned() < id && MemberOf(planned, entry.name()) >= 0) {
    pb::OrchestratorMessage message;
    *message.mutable_view() = planned;
    Send(entry.name(), std::move(message));
  }
}

}  // namespace atl
