// How a job ends: leaving, stopping, faults and their cause, silence.
#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/exit_code.h"
#include "orchestrator/core/core.h"

namespace atl {
namespace {

constexpr int kStoppedCleanly = static_cast<int>(ExitCode::kStoppedCleanly);
constexpr int kStoppedUncommitted = static_cast<int>(ExitCode::kStoppedUncommitted);
// A broken connection is seen by its peers first; the region whose process died or erred says so a
// moment later, if it still can.
constexpr double kBlameSeconds = 5;

std::string While(const std::string& doing) {
  return doing.empty() ? "" : absl::StrCat(" (during ", doing, ")");
}

}  // namespace

void Core::OnFault(RegionEntry& entry, const pb::Fault& fault) {
  if (!entry.IsLive()) return;
  const bool before_view = state_ == JobState::kWaiting;
  if (elastic_) {
    Event("fault", entry.name(), -1,
          absl::StrCat("region ", entry.name(), ": ", fault.what(), While(fault.doing())),
          {{"exit_code", int64_t{fault.exit_code()}}, {"doing", fault.doing()}});
    entry.fault = fault;
    return LeaveOut(entry.name(), RegionState::kFailed, fault.what());
  }
  const auto blamed = regions_.find(fault.blames());
  if (state_ == JobState::kStopping && blamed != regions_.end() && blamed->second.left &&
      blamed->second.left->round() < view_.first_round()) {
    // A stop came while regions were connecting: that one left before the first round, and this
    // one, which was connected already, missed it in the first all-reduce. Nothing is lost.
    pb::Left left;
    left.set_round(view_.first_round() - 1);
    left.set_exit_code(kStoppedCleanly);
    return OnLeft(entry, left);
  }
  entry.fault = fault;
  entry.Progress(fault.doing(), 0, nullptr);
  entry.Enter(RegionState::kFailed, fault.what(), now_);
  RecordRegion(entry);
  Event("fault", entry.name(), -1,
        absl::StrCat("region ", entry.name(), ": ", fault.what(), While(fault.doing())),
        {{"exit_code", int64_t{fault.exit_code()}},
         {"doing", fault.doing()},
         {"blames", fault.blames()}});
  const bool blames_other =
      !before_view && fault.blames() != entry.name() && regions_.contains(fault.blames());
  if (!blames_other) return DecideFailure();
  bool any_live = false;
  for (const auto& [name, other] : regions_) any_live |= other.IsLive();
  if (!any_live) return DecideFailure();
  if (state_ == JobState::kFailing) return;
  failing_because_ = absl::StrCat("region ", fault.blames(), "'s own words, because region ",
                                  entry.name(), " lost its connection to it");
  decide_at_ = now_ + kBlameSeconds;
  EnterState(JobState::kFailing);
}

void Core::DecideFailure() {
  // 1. A fault that blames nobody else is the cause.
  const RegionEntry* first = nullptr;
  for (const std::string& name : order_) {
    const RegionEntry& entry = regions_.at(name);
    if (!entry.fault) continue;
    const bool blames = regions_.contains(entry.fault->blames()) && entry.fault->blames() != name;
    if (!blames) {
      const int code = entry.fault->exit_code() > 0 ? entry.fault->exit_code() : 1;
      return Fail(
          absl::StrCat("region ", name, ": ", entry.fault->what(), While(entry.fault->doing())),
          code, name, -1);
    }
    if (first == nullptr || entry.since() < first->since()) first = &entry;
  }
  if (first == nullptr) return;
  // 2. Else the region that others blame and that says nothing.
  const RegionEntry& blamed = regions_.at(first->fault->blames());
  std::vector<std::string> victims;
  for (const auto& [name, entry] : regions_) {
    if (entry.fault) victims.push_back(name);
  }
  if (!blamed.fault) {
    const std::string last_words =
        blamed.left
            ? absl::StrCat("it had left with exit code ", blamed.left->exit_code())
            : absl::StrCat("last heard of at ", TimeOfDay(blamed.heard()), While(blamed.doing()));
    return Fail(
        absl::StrCat("region ", blamed.name(), " is gone (", last_words, "); ", JoinNames(victims),
                     " lost the connection to it: ", first->fault->what()),
        1, blamed.name(), -1);
  }
  // 3. They blame one another: a link broke.
  Fail(absl::StrCat("regions ", JoinNames(victims), " lost their connections to one another: ",
                    first->fault->what(), While(first->fault->doing())),
       1, "", -1);
}

void Core::OnLeft(RegionEntry& entry, const pb::Left& left) {
  if (!entry.IsLive()) return;
  const int code = left.exit_code();
  entry.left = left;
  const bool clean_stop = code == kStoppedCleanly || code == kStoppedUncommitted;
  if (state_ == JobState::kWaiting && clean_stop) {
    entry.Enter(RegionState::kAbsent, "left before the first round", now_);
    RecordRegion(entry);
    Event("region_left", entry.name(), -1,
          absl::StrCat("region ", entry.name(),
                       " left before the first round; it may be started again"));
    return BeginIfReady();  // the others need not wait for it
  }
  if (elastic_) return OnLeftElastic(entry, left);
  entry.Progress("", left.round(), nullptr);
  entry.Enter(RegionState::kLeft,
              absl::StrCat("left after round ", left.round(), ", exit code ", code), now_);
  RecordRegion(entry);
  Event("region_left", entry.name(), left.round(),
        absl::StrCat("region ", entry.name(), " left after round ", left.round()),
        {{"exit_code", int64_t{code}}});
  if (state_ == JobState::kFailing) return;
  if (state_ == JobState::kWaiting || (code != 0 && !clean_stop)) {
    return Fail(absl::StrCat("region ", entry.name(), " left with exit code ", code),
                code > 0 ? code : 1, entry.name(), left.round());
  }
  if (code == 0 && left.round() < view_.last_round() && state_ != JobState::kStopping) {
    return Fail(absl::StrCat("region ", entry.name(), " left after round ", left.round(), " of ",
                             view_.last_round(), ", though nobody had asked it to"),
                1, entry.name(), left.round());
  }
  // A signal at one region reaches the others with the round's data: all finish the same round and
  // leave. The orchestrator may hear of it only now.
  if (clean_stop && state_ != JobState::kStopping && left.round() < view_.last_round()) {
    BeginStop(absl::StrCat("region ", entry.name(), " was told to leave"));
  }
  FinishIfAllLeft();
}

void Core::OnLeftElastic(RegionEntry& entry, const pb::Left& left) {
  const int code = left.exit_code();
  entry.Progress("", left.round(), nullptr);
  Event("region_left", entry.name(), left.round(),
        absl::StrCat("region ", entry.name(), " left after round ", left.round()),
        {{"exit_code", int64_t{code}}});
  if (code != 0 && code != kStoppedCleanly && code != kStoppedUncommitted) {
    return LeaveOut(entry.name(), RegionState::kFailed, absl::StrCat("left with exit code ", code));
  }
  if (!entry.IsFull() || left.never_entered()) {
    return LeaveOut(entry.name(), RegionState::kLeft, "left");
  }
  // It stays a member until its last round is committed: it may be needed to hand that on.
  if (entry.state() != RegionState::kLeaving) entry.Enter(RegionState::kLeaving, "has left", now_);
  RecordRegion(entry);
  FinishIfAllLeft();
}

void Core::BeginStop(const std::string& reason) {
  stop_reason_ = reason;
  Event("stop", "", -1, absl::StrCat("stop: ", reason));
  EnterState(JobState::kStopping);
  for (const std::string& name : order_) {
    const RegionEntry& entry = regions_.at(name);
    if (elastic_ ? !entry.IsLive() : entry.state() != RegionState::kTraining) continue;
    pb::OrchestratorMessage message;
    message.mutable_stop()->set_reason(reason);
    Send(name, std::move(message));
  }
}

void Core::FinishIfAllLeft() {
  bool uncommitted = false;
  std::map<std::string, std::string> rounds;
  if (fence_) return;
  for (const auto& [name, entry] : regions_) {
    if (elastic_ && !entry.IsFull()) continue;
    if (elastic_ ? !entry.left : entry.state() != RegionState::kLeft) return;
    uncommitted |= entry.left->exit_code() == kStoppedUncommitted;
    rounds[name] = absl::StrCat(entry.left->round());
  }
  if (rounds.empty()) return;
  const int64_t committed = ledger_->next_round() - 1;
  const std::vector<std::string> differ = Minority(rounds);
  if (!differ.empty()) {
    Event("left_apart", "", committed,
          absl::StrCat("the regions left after different rounds (", JoinNames(differ),
                       "); a resume takes the newest checkpoint that all have"));
  }
  if (committed == view_.last_round() && !uncommitted) {
    return End(JobState::kDone, absl::StrCat("all ", committed, " rounds are committed"), 0);
  }
  if (state_ != JobState::kStopping && !uncommitted && !elastic_) {
    return Fail(absl::StrCat("all regions left, but only round ", committed, " of ",
                             view_.last_round(), " is committed"),
                1, "", committed);
  }
  if (stop_reason_.empty()) stop_reason_ = "the regions were told to leave";
  End(JobState::kStopped, absl::StrCat(stop_reason_, "; round ", committed, " is committed"),
      uncommitted ? kStoppedUncommitted : kStoppedCleanly);
}

double Core::NextSilence() const {
  double next = std::numeric_limits<double>::infinity();
  for (const auto& [name, entry] : regions_) {
    if (entry.IsLive()) next = std::min(next, entry.SilenceDeadline());
  }
  // Whoever is kept though it is silent is looked at again soon.
  return std::max(next, now_ + 0.5);
}

void Core::CheckSilence() {
  if (IsEnd(state_) || state_ == JobState::kFailing) return;
  // Deadlines only move back, but for regions that have become live.
  if (now_ < silence_at_) return;
  for (const std::string& name : order_) {
    RegionEntry& entry = regions_.at(name);
    if (!entry.IsLive() || now_ < entry.SilenceDeadline()) continue;
    if (elastic_ && entry.IsMember() && IsLastHolder(name)) continue;
    const std::string text =
        absl::StrCat("region ", name, " has not been heard of since ", TimeOfDay(entry.heard()),
                     " (", static_cast<int64_t>(now_ - entry.heard()), " s)", While(entry.doing()));
    if (elastic_) {
      Event("region_silent", name, -1, text);
      LeaveOut(name, RegionState::kAbsent, "no longer heard of");
      continue;
    }
    if (state_ == JobState::kWaiting) {
      entry.Enter(RegionState::kAbsent, "no longer heard of", now_);
      RecordRegion(entry);
      Event("region_silent", name, -1, text + "; it may be started again");
      continue;
    }
    entry.Enter(RegionState::kFailed, "no longer heard of", now_);
    RecordRegion(entry);
    return Fail(text, 1, name, -1);
  }
  silence_at_ = NextSilence();
}

void Core::Fail(const std::string& reason, int exit_code, const std::string& region,
                int64_t round) {
  if (IsEnd(state_)) return;
  End(JobState::kFailed, reason, exit_code, region, round);
}

void Core::End(JobState state, const std::string& reason, int exit_code, const std::string& region,
               int64_t round) {
  job_.reason = reason;
  job_.exit_code = exit_code;
  fence_.reset();
  planned_.clear();
  suspicions_.clear();
  if (ledger_) ReturnSamplesFrom(ledger_->next_round());
  if (state != JobState::kFailed && !fruitless_.empty()) {  // whoever stops a job has no crash
    fruitless_.clear();
    RecordMembership();
  }
  EnterState(state);
  Event("job_ended", region, round, absl::StrCat("job ", JobStateName(state), ": ", reason),
        {{"state", JobStateName(state)}, {"exit_code", int64_t{exit_code}}});
  for (const std::string& name : order_) {
    if (regions_.at(name).state() != RegionState::kAbsent) SendEnded(name);
  }
  actions_.ended = Ended{state, reason, exit_code};
}

}  // namespace atl
