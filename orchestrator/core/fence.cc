// The fence: how a view ends that lost a member, and how the next one begins
// (docs/protocols/membership.md, "Failure").
//
// 1. StartFence, LeaveOut   who is left out; the next view's number is drawn, and recorded
// 2. AskFenced              Fence to all others, repeated until they answer
// 3. OnFenced               where each stands; nothing is committed there any more
// 4. DecideFence            all have answered: the newest round m that anybody committed; who lacks
//                           it takes it; samples of round m+1 stay with those that had them. Who
//                           left in round m is given some seconds to say that it has
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "orchestrator/core/core.h"
#include "proto/round_plan.h"

namespace atl {
namespace {

constexpr double kAskAgainSeconds = 1;
constexpr double kLeaverSeconds = 5;  // for a leaver to write its checkpoint and say that it left
constexpr int kViewKeyBytes = 32;
// Members may evaluate in a view that the core has left, if it was away meanwhile.
constexpr size_t kViewsWithEvaluations = 16;

}  // namespace

void Core::StartFence(const std::string& reason) {
  if (fence_ || IsEnd(state_) || view_.id() == 0) return;
  fence_.emplace();
  fence_->id = ++last_view_;
  fence_->reason = reason;
  fence_->began = now_;
  fence_->asked = 0;
  suspicions_.clear();
  for (auto& [name, entry] : regions_) entry.holds_since = 0;
  RecordMembership();
  Event("fence", "", ledger_->next_round(), absl::StrCat("view ", view_.id(), " ends: ", reason),
        {{"view", view_.id()}, {"fence", fence_->id}});
}

void Core::LeaveOut(const std::string& region, RegionState state, const std::string& reason) {
  RegionEntry& entry = regions_.at(region);
  const bool was_member = entry.IsMember() && MemberOf(view_, region) >= 0;
  if (entry.state() != state) entry.Enter(state, reason, now_);
  entry.caught_up = false;
  entry.Miss();
  silence_at_ = 0;
  RecordRegion(entry);
  if (ledger_) ledger_->Excuse(region);
  reckon_ = stirred_ = true;
  if (!was_member || IsEnd(state_)) return;
  StartFence(reason);
  fence_->left_out.insert(region);
  fence_->answers.erase(region);
  RecordMembership();
  Event("left_out", region, -1, absl::StrCat("region ", region, " is left out: ", reason));
  if (state == RegionState::kJoining) SendDropped(entry, reason);
}

std::vector<std::string> Core::Scope() const {
  std::vector<std::string> scope;
  for (const pb::Member& member : view_.members()) {
    if (regions_.at(member.region()).IsMember() && !fence_->left_out.contains(member.region())) {
      scope.push_back(member.region());
    }
  }
  return scope;
}

void Core::AskFenced() {
  if (fence_->asked > 0 && now_ < fence_->asked + kAskAgainSeconds) return;
  fence_->asked = now_;
  for (const std::string& name : Scope()) {
    if (fence_->answers.contains(name)) continue;
    pb::OrchestratorMessage message;
    message.mutable_fence()->set_id(fence_->id);
    message.mutable_fence()->set_reason(fence_->reason);
    Send(name, std::move(message));
  }
}

void Core::OnFenced(RegionEntry& entry, const pb::Fenced& fenced) {
  if (!fence_ || fenced.id() != fence_->id || !entry.IsMember()) return;
  if (fenced.has_heard() && fenced.heard().round() == fenced.round()) {
    TakeHeard(entry, fenced.heard());
    if (!fence_ || !entry.IsMember() || fence_->left_out.contains(entry.name())) return;
  }
  fence_->answers[entry.name()] = fenced;
}

// Who left in the newest round says so once its checkpoint is written. A next view with it would
// have it leave once more, and so on for as long as a round is quicker than a planned view.
bool Core::AwaitsLeaver() const {
  if (now_ >= fence_->began + kLeaverSeconds) return false;
  const int64_t newest = NewestAnswer();
  return std::any_of(fence_->leavers.begin(), fence_->leavers.end(), [&](const std::string& name) {
    const auto answer = fence_->answers.find(name);
    return answer != fence_->answers.end() && answer->second.round() >= newest &&
           !regions_.at(name).left;
  });
}

void Core::ReleaseNotNeeded() {
  int64_t newest = -1;
  for (const std::string& name : Scope()) {
    const pb::Fenced& answer = fence_->answers.at(name);
    if (!regions_.at(name).left && answer.has_state()) newest = std::max(newest, answer.round());
  }
  for (const std::string& name : Scope()) {
    RegionEntry& entry = regions_.at(name);
    if (entry.left && fence_->answers.at(name).round() <= newest) Release(entry);
  }
}

bool Core::LeaveOutMinority(int64_t newest) {
  std::map<std::string, std::string> digests;
  std::set<std::string> full;  // observers have no vote beside them
  for (const std::string& name : Scope()) {
    const pb::Fenced& answer = fence_->answers.at(name);
    if (!answer.has_state() || answer.round() != newest) continue;
    digests[name] = answer.digest();
    if (regions_.at(name).IsFull()) full.insert(name);
  }
  const std::vector<std::string> minority = Minority(digests, full);
  if (minority.size() == digests.size() && !minority.empty()) {
    Fail(absl::StrCat("after round ", newest,
                      " the regions hold different states (P1); no "
                      "majority among ",
                      JoinNames(minority)),
         1, "", newest);
    return true;
  }
  for (const std::string& region : minority) {
    LeaveOut(region, RegionState::kJoining,
             absl::StrCat("it holds another state than the others after round ", newest));
  }
  return !minority.empty();
}

int64_t Core::NewestAnswer() const {
  int64_t newest = -1;
  for (const std::string& name : Scope()) {
    const pb::Fenced& answer = fence_->answers.at(name);
    if (answer.has_state()) newest = std::max(newest, answer.round());
  }
  return newest;
}

void Core::DecideFence() {
  AskFenced();
  for (const std::string& name : Scope()) {
    if (!fence_->answers.contains(name)) return;
  }
  // Who leaves has a word in what the right state is, and then goes if nobody needs it.
  if (const int64_t newest = NewestAnswer(); newest >= 0 && LeaveOutMinority(newest)) return;
  if (AwaitsLeaver()) return;
  ReleaseNotNeeded();
  const int64_t newest = NewestAnswer();
  if (newest < 0 || !IsAccounted(newest)) return WaitForCheckpoints(fence_->reason);
  bool anybody_far_behind = false;
  for (const std::string& name : Scope()) {
    const pb::Fenced& answer = fence_->answers.at(name);
    // Cannot be (the lemma), but for a region that lost its mind.
    if (!answer.has_state() || answer.round() >= newest - 1) continue;
    LeaveOut(name, RegionState::kJoining, "it is rounds behind the others");
    anybody_far_behind = true;
  }
  if (anybody_far_behind) return;
  std::string giver;
  for (const std::string& name : Scope()) {
    const pb::Fenced& answer = fence_->answers.at(name);
    if (giver.empty() && answer.has_state() && answer.round() == newest) giver = name;
  }
  TakeUp(ViewAfterFence(newest, giver));
}

bool Core::IsAccounted(int64_t newest) const {
  // Observers alone are left, and lack what all full members had committed.
  if (newest < ledger_->next_round() - 1) return false;
  const std::vector<std::string> scope = Scope();
  for (int64_t round = ledger_->next_round(); round <= newest; ++round) {
    const bool known =
        ledger_->IsAssigned(round) &&
        std::any_of(scope.begin(), scope.end(), [&](const std::string& name) {
          const Ledger::Entry* entry = ledger_->Find(round, name);
          return entry != nullptr && entry->awaited && entry->state == SampleState::kDone;
        });
    if (!known) return false;
  }
  return true;
}

pb::View Core::ViewAfterFence(int64_t newest, const std::string& giver) {
  AssignThrough(newest + 1);
  const pb::View before = view_;
  std::map<std::string, Ledger::Entry> held;
  pb::View view;
  view.set_id(fence_->id);
  view.set_lanes(before.lanes());
  view.set_key(options_.random_bytes(kViewKeyBytes));
  const pb::Fenced& given = fence_->answers.at(giver);
  for (const std::string& name : order_) {
    const auto answer = fence_->answers.find(name);
    if (answer == fence_->answers.end() || !regions_.at(name).IsMember()) continue;
    // A first view's members that are still loading go on to load the same.
    const bool loads = !answer->second.has_state() && regions_.at(name).IsFull();
    AddMember(&view, name, answer->second.has_state() || loads);
    if (answer->second.has_state() && answer->second.round() < newest) {
      view.set_take_round(newest);
      view.set_take_from(giver);
      view.set_take_tokens(given.tokens());
      view.set_take_expected_tokens(given.expected_tokens());
    }
    const Ledger::Entry* entry = ledger_->Find(newest + 1, name);
    // That round went on without it, but who said so is gone: it is part of that round again.
    if (entry != nullptr && entry->samples.empty()) entry = ledger_->Find(newest + 2, name);
    if (entry != nullptr) held[name] = *entry;
  }
  const Status shared = GiveShares(&view);
  if (!shared.ok()) {
    Fail(std::string(shared.message()), 2, "", newest);
    return view;
  }
  view.set_first_round(newest + 1);
  view.set_carried(true);
  view.set_last_round(before.last_round());
  view.set_digest(given.digest());
  view.set_inner_steps_done(before.inner_steps_done() +
                            (newest - before.first_round() + 1) * InnerSteps(options_.job));
  for (const std::string& name : fence_->left_out) ledger_->Excuse(name);
  for (const pb::Member& member : before.members()) {
    if (MemberOf(view, member.region()) < 0) ledger_->Excuse(member.region());
  }
  ReturnSamplesFrom(newest + 1);
  if (newest < view.last_round()) {
    std::vector<Ledger::Entry> entries = CarriedEntries(&view, held);
    view_ = view;  // the entries are of this view
    Assign(std::move(entries));
  }
  const SamplePool& pool = ledger_->pool();
  view.set_first_sample(pool.next());
  ToProto(pool.returned(), view.mutable_returned());
  return view;
}

std::vector<Ledger::Entry> Core::CarriedEntries(
    pb::View* view, const std::map<std::string, Ledger::Entry>& held) const {
  SamplePool pool = ledger_->pool();
  for (const auto& [name, entry] : held) {
    for (const Range& range : entry.samples) pool.Remove(range);
  }
  std::vector<Ledger::Entry> entries;
  for (pb::Member& member : *view->mutable_members()) {
    if (!IsFull(member)) continue;
    Ledger::Entry entry;
    entry.region = member.region();
    const auto had = held.find(member.region());
    if (had != held.end()) {
      entry.samples = had->second.samples;
      entry.samples_per_step = had->second.samples_per_step;
      member.set_first_steps(SizeOf(entry.samples) / entry.samples_per_step);
    } else {
      const int64_t steps = InnerSteps(options_.job, member);
      entry.samples = pool.Take(member.samples_per_step() * steps);
      entry.samples_per_step = member.samples_per_step();
      member.set_first_steps(steps);
    }
    ToProto(entry.samples, member.mutable_first_samples());
    entries.push_back(std::move(entry));
  }
  return entries;
}

void Core::TakeUp(pb::View view) {
  if (IsEnd(state_)) return;
  const Status sound = CheckView(view, options_.job);
  CHECK(sound.ok()) << sound.message();
  const std::string reason = fence_->reason;
  std::vector<std::string> dropped;
  for (const std::string& name : fence_->left_out) {
    if (regions_.at(name).state() == RegionState::kJoining) dropped.push_back(name);
  }
  const double seconds = now_ - fence_->began;
  view_ = std::move(view);
  absolute_ = view_.id();
  planned_.clear();
  fence_.reset();
  actions_.records.push_back(ViewRecord{view_, {}, now_});
  RecordMembership();
  RecordLedger();
  Event("view", "", view_.first_round(),
        absl::StrCat("view ", view_.id(), ": round ", view_.first_round(), " next, ",
                     view_.members_size(), " members",
                     view_.take_round() > 0 ? absl::StrCat("; round ", view_.take_round(),
                                                           " is taken from ", view_.take_from())
                                            : ""),
        {{"view", view_.id()}, {"fence_seconds", seconds}});
  for (const pb::Member& member : view_.members()) {
    RegionEntry& entry = regions_.at(member.region());
    if (IsFull(member) && entry.state() == RegionState::kObserving) {
      entry.Enter(RegionState::kTraining, "", now_);
      RecordRegion(entry);
    }
    Send(member.region(), ViewFor(entry));
  }
  for (const std::string& name : dropped) SendDropped(regions_.at(name), reason);
  CommitReady();
}

void Core::SendDropped(const RegionEntry& entry, const std::string& reason,
                       const std::string& attempt) {
  pb::OrchestratorMessage message;
  // Not those that it is to come back with.
  int64_t floor = last_view_;
  for (const auto& [id, view] : planned_) {
    if (MemberOf(view, entry.name()) >= 0) floor = std::min(floor, id - 1);
  }
  message.mutable_dropped()->set_view(floor);
  message.mutable_dropped()->set_reason(reason);
  message.mutable_dropped()->set_attempt(attempt.empty() ? entry.attempt() : attempt);
  Send(entry.name(), std::move(message));
}

void Core::WaitForCheckpoints(const std::string& reason) {
  if (state_ == JobState::kStopping) {
    // Before the first round of a restart all is as it was.
    const bool begun = !view_.restart() || !ledger_ || ledger_->next_round() > view_.first_round();
    return End(JobState::kStopped, absl::StrCat(stop_reason_, "; no region is left: ", reason),
               static_cast<int>(begun ? ExitCode::kStoppedUncommitted : ExitCode::kStoppedCleanly));
  }
  Event("no_members", "", -1,
        absl::StrCat("no region holds the state any more (", reason,
                     "): the job waits for its regions and goes on from a checkpoint"));
  ReturnSamplesFrom(ledger_->next_round());
  for (auto& [name, entry] : regions_) {
    if (!entry.IsMember()) continue;
    entry.Enter(RegionState::kJoining, "the view is no more", now_);
    entry.caught_up = false;
    RecordRegion(entry);
    SendDropped(entry, reason);
  }
  fence_.reset();
  planned_.clear();
  suspicions_.clear();
  view_.Clear();
  ledger_.reset();
  waiting_since_ = now_;
  EnterState(JobState::kWaiting);
  RecordMembership();
}

void Core::RecordMembership() {
  if (!elastic_) return;
  stirred_ = true;
  MembershipRecord record;
  pb::Membership& membership = record.membership;
  if (view_.id() > 0) {
    *membership.mutable_view() = view_;
    full_of_[view_.id()] = FullMembers();
  }
  while (full_of_.size() > kViewsWithEvaluations) full_of_.erase(full_of_.begin());
  membership.mutable_full()->insert(full_of_.begin(), full_of_.end());
  for (const auto& [id, view] : planned_) *membership.add_planned() = view;
  membership.set_absolute(absolute_);
  if (fence_) {
    membership.set_fence(fence_->id);
    membership.set_fence_reason(fence_->reason);
    for (const std::string& name : fence_->left_out) membership.add_left_out(name);
  }
  membership.set_last_view(last_view_);
  membership.set_stop_reason(stop_reason_);
  for (const auto& [name, entry] : regions_) {
    if (entry.inner_steps > 0) (*membership.mutable_inner_steps())[name] = entry.inner_steps;
  }
  for (const auto& [checkpoint, times] : fruitless_) {
    pb::Start* const start = membership.add_fruitless();
    start->set_round(checkpoint.first);
    start->set_digest(checkpoint.second);
    start->set_times(times);
  }
  if (resume_) {
    membership.set_resume_round(resume_->round);
    for (const auto& [name, checkpoint] : resume_->checkpoints) {
      (*membership.mutable_resume())[name] = checkpoint;
    }
  }
  actions_.records.push_back(std::move(record));
}

void Core::RecordLedger() {
  if (!elastic_ || !ledger_) return;
  LedgerRecord record;
  record.ledger.set_next_round(ledger_->next_round());
  record.ledger.set_next_sample(ledger_->pool().next());
  ToProto(ledger_->pool().returned(), record.ledger.mutable_returned());
  actions_.records.push_back(std::move(record));
}

}  // namespace atl
