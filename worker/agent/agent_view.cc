// Views that change, as the leader of a region lives through them (docs/protocols/membership.md).
//
// - Fence: whatever is being reduced or connected is interrupted; then Fenced says where we stand.
// - An absolute view: switch to it at once if a result is to be handed on, else when the inner
//   steps
//   are done; they go on meanwhile.
// - A planned view: connect in the background, say so in the notes, switch at the edge that the
//   notes agree on.
// - An observer hears round after round, and says when it has caught up.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "worker/agent/agent.h"
#include "worker/agent/answers.h"

namespace atl {

bool Agent::Held() const { return broken_ || fence_ > std::max(view_.id(), floor_); }

bool Agent::Observes() const {
  const int self = MemberOf(view_, options_.hello.region());
  return self >= 0 && !IsFull(view_.members(self));
}

bool Agent::IsPreparedFor(const pb::View& view) const { return prepared_ >= view.id(); }

bool Agent::IsNewcomer() const {
  return view_.id() == 0 || (view_.first_round() == 0 && !heard_any_);
}

void Agent::Interrupt(AgentActions* actions) {
  if (!busy_ || interrupted_) return;
  switch (state_) {
    case State::kEntering:
      actions->abandon_view = true;
      [[fallthrough]];
    case State::kSwitching:
    case State::kTraining:
    case State::kReducing:
      interrupted_ = true;
      actions->interrupt = true;
      return;
    default:
      return;  // it ends soon, or may go on
  }
}

void Agent::OnChangingView(const pb::View& view, double now, AgentActions* actions) {
  if (state_ == State::kGreeting || state_ == State::kSettingUp || rejoin_ ||
      state_ == State::kFailed || view.id() <= floor_) {
    return;
  }
  const Status sound = CheckView(view, job_);
  const int self = MemberOf(view, options_.hello.region());
  if (!sound.ok() || self < 0) {
    return Fail(absl::StrCat("the orchestrator sent a view that does not hold together: ",
                             sound.ok() ? "this region is not in it" : sound.message()),
                ExitCode::kFailed, "", now, actions);
  }
  if (view.first_round() == 0) return OnPlannedView(view, now, actions);
  if (view.after() > 0) {
    // Planned and begun by now: an observer learns from it what the others know.
    if (view.id() == view_.id() && view_.first_round() == 0) {
      const bool given_up = abandoned_ == view.id();
      if (next_view_ && next_view_->after() != view.id()) next_view_.reset();
      view_ = view;
      if (given_up) return LosePlace(now, actions);
      Next(now, actions);
    } else if (IsNewcomer() && view.id() <= abandoned_) {
      LosePlace(now, actions);
    } else if (next_view_ && next_view_->id() == view.id()) {
      next_view_ = view;
    } else if (IsNewcomer() && !IsFull(view.members(self))) {
      // Of several planned views the members took this one.
      next_view_ = view;
      Interrupt(actions);
      Next(now, actions);
    }
    return;
  }
  // A planned view that follows this one may have come first.
  const bool overtaken = next_view_ && next_view_->first_round() == 0;
  if (view.id() <= view_.id() || (next_view_ && !overtaken && view.id() <= next_view_->id())) {
    return;
  }
  planned_.clear();
  if (overtaken && next_view_->after() == view.id()) planned_[next_view_->id()] = *next_view_;
  next_view_ = view;
  actions->say.push_back(absl::StrCat(
      "view ", view.id(), " follows view ", view_.id(),
      view.take_round() > 0
          ? absl::StrCat(", round ", view.take_round(), " is handed on by ", view.take_from())
          : ""));
  Interrupt(actions);
  Next(now, actions);
}

void Agent::OnPlannedView(const pb::View& view, double now, AgentActions* actions) {
  if (view.id() <= std::max(view_.id(), next_view_ ? next_view_->id() : 0) ||
      planned_.contains(view.id())) {
    return;
  }
  if (IsNewcomer() && view.after() != view_.id()) {
    const int self = MemberOf(view, options_.hello.region());
    if (IsFull(view.members(self))) return;  // the view before it is still on its way
    // Into nothing, or in place of a planned view that has not begun.
    if (has_state_ && view_.id() > 0 && !Observes()) return;
    next_view_ = view;
    Interrupt(actions);
  } else {
    planned_[view.id()] = view;
    if (state_ == State::kTraining) Interrupt(actions);
  }
  Next(now, actions);
}

void Agent::OnFence(const pb::Fence& fence, double now, AgentActions* actions) {
  if (fence.id() <= fence_ || fence.id() <= floor_ || rejoin_) return;
  if (fence.id() <= std::max(view_.id(), next_view_ ? next_view_->id() : 0)) return;
  fence_ = fence.id();
  actions->say.push_back(absl::StrCat("view ", view_.id(), " ends: ", fence.reason()));
  if (state_ == State::kReducing || state_ == State::kSwitching || state_ == State::kEntering) {
    Interrupt(actions);
  }
  AnswerFence(now, actions);
}

void Agent::AnswerFence(double now, AgentActions* actions) {
  if (fence_ <= fenced_ || fence_ <= floor_) return;
  const bool changing = busy_ && (state_ == State::kReducing || state_ == State::kCommitting ||
                                  state_ == State::kSwitching || state_ == State::kEntering);
  if (changing || state_ == State::kFailed || state_ == State::kOver) return;
  if (!busy_ && view_.id() > 0 && has_state_ && saved_ && Finished()) Leave(now, actions);
  fenced_ = fence_;
  pb::LeaderMessage message;
  pb::Fenced* fenced = message.mutable_fenced();
  fenced->set_id(fence_);
  fenced->set_view(view_.id());
  fenced->set_has_state(has_state_);
  fenced->set_round(committed_);
  if (has_state_) fenced->set_digest(digest_);
  fenced->set_tokens(result_tokens_);
  fenced->set_expected_tokens(result_expected_);
  if (has_state_ && heard_.round() == committed_ && heard_.digest() == digest_) {
    *fenced->mutable_heard() = heard_;
  }
  Report(std::move(message), now, actions);
}

void Agent::OnDropped(const pb::Dropped& dropped, double now, AgentActions* actions) {
  // Of an earlier start, late.
  if (!dropped.attempt().empty() && dropped.attempt() != options_.hello.attempt()) return;
  if (state_ == State::kLeaving) {
    const bool done = has_state_ && committed_ >= view_.last_round();
    return Exit(done ? ExitCode::kDone : ExitCode::kStoppedCleanly, "", false, actions);
  }
  if (state_ == State::kGreeting || state_ == State::kSettingUp || state_ == State::kFailed ||
      rejoin_) {
    return;
  }
  int64_t known = std::max(view_.id(), next_view_ ? next_view_->id() : 0);
  if (!planned_.empty()) known = std::max(known, planned_.rbegin()->first);
  if (dropped.view() < known) return;  // of former days
  floor_ = dropped.view();
  actions->say.push_back(absl::StrCat("no member any more: ", dropped.reason()));
  if (leave_wanted_) return LeaveBeforeAnyView(dropped.reason(), now, actions);
  rejoin_ = true;
  Interrupt(actions);
  if (!busy_) Rejoin(now, actions);
}

// What is held in memory counts like a checkpoint, until another state takes its place.
void Agent::ListMemory() {
  if (!has_state_ || view_.first_round() == 0 || committed_ < 1) return;
  for (int i = ready_.checkpoints_size() - 1; i >= 0; --i) {
    if (ready_.checkpoints(i).path() == kMemoryCheckpoint) {
      ready_.mutable_checkpoints()->DeleteSubrange(i, 1);
    }
  }
  const SamplePool pool = PoolAfterParts(view_, job_, committed_, parts_);
  pb::CheckpointOnDisk* memory = ready_.add_checkpoints();
  memory->set_round(committed_);
  memory->set_digest(digest_);
  memory->set_path(kMemoryCheckpoint);
  memory->set_own(true);
  memory->set_next_sample(pool.next());
  ToProto(pool.returned(), memory->mutable_returned());
  memory->set_inner_steps(view_.inner_steps_done() +
                          (committed_ - view_.first_round() + 1) * InnerSteps(job_));
}

void Agent::Rejoin(double now, AgentActions* actions) {
  rejoin_ = false;
  ListMemory();
  view_.Clear();
  next_view_.reset();
  planned_.clear();
  has_state_ = begun_ = broken_ = handed_ = caught_up_ = heard_any_ = carries_late_ = false;
  ForgetLateness();
  saved_ = true;
  steps_done_ = position_ = 0;
  round_ = committed_ = 0;
  round_began_ = 0;
  state_ = State::kWaiting;
  if (stop_reason_) return LeaveBeforeAnyView(*stop_reason_, now, actions);
  actions->send.push_back(Greeting());
  SendReady(now, actions);
}

void Agent::OnDrain(const pb::Drain& drain, double now, AgentActions* actions) {
  if (leave_wanted_ || (view_.id() == 0 && !EntersWithoutState())) return;
  leave_wanted_ = true;
  if (EntersWithoutState()) Interrupt(actions);
  leave_after_round_ = drain.finish_round();
  actions->say.push_back(absl::StrCat("leaving after round ", round_, ": ", drain.reason()));
  if (state_ == State::kTraining && !leave_after_round_) Interrupt(actions);
  pb::LeaderMessage message;
  message.mutable_leaving()->set_reason(drain.reason());
  Report(std::move(message), now, actions);
}

AgentActions Agent::OnSilence(const std::string& region, double seconds, double now) {
  AgentActions actions;
  const bool waits = state_ == State::kReducing || state_ == State::kSwitching;
  if (!options_.survives || !busy_ || !waits) return actions;
  const pb::View& view = state_ == State::kSwitching && next_view_ ? *next_view_ : view_;
  // What the workers wait for may still be of the view before.
  if (MemberOf(view, region) < 0 || !suspected_.insert(region).second) return actions;
  pb::LeaderMessage message;
  pb::Suspect* suspect = message.mutable_suspect();
  suspect->set_view(view.id());
  suspect->set_round(committed_ + 1);
  suspect->set_region(region);
  suspect->set_silent_seconds(seconds);
  suspect->set_what(absl::StrCat("silent while waited for in the ", DoingText()));
  Report(std::move(message), now, &actions);
  return actions;
}

AgentActions Agent::OnHeardAgain(const std::string& region, double now) {
  AgentActions actions;
  if (suspected_.erase(region) == 0 || !busy_) return actions;
  pb::LeaderMessage message;
  pb::Suspect* suspect = message.mutable_suspect();
  suspect->set_view(state_ == State::kSwitching && next_view_ ? next_view_->id() : view_.id());
  suspect->set_round(committed_ + 1);
  suspect->set_region(region);
  suspect->set_silent_seconds(-1);
  suspect->set_what("heard again");
  Report(std::move(message), now, &actions);
  return actions;
}

void Agent::Broken(const pb::RegionAnswer& answer, double now, AgentActions* actions) {
  actions->say.push_back(absl::StrCat("broken off: ", answer.error()));
  if (state_ == State::kSwitching && IsNewcomer() &&
      (!next_view_ || next_view_->first_round() == 0)) {
    // The planned view is sent again while it is wanted; nobody waits for us yet.
    next_view_.reset();
    broken_ = view_.id() > 0;
    state_ = broken_ ? State::kHolding : State::kWaiting;
    return;
  }
  pb::LeaderMessage message;
  pb::Suspect* suspect = message.mutable_suspect();
  suspect->set_view(state_ == State::kSwitching && next_view_ ? next_view_->id() : view_.id());
  suspect->set_round(committed_ + 1);
  suspect->set_region(answer.blames());
  suspect->set_gone(answer.gone());
  suspect->set_what(answer.error());
  broken_ = true;
  if (state_ == State::kSwitching || state_ == State::kEntering) {
    broken_view_ = next_view_ ? next_view_->id() : view_.id();
    state_ = State::kHolding;
  }
  Report(std::move(message), now, actions);
}

bool Agent::ChangeView(double now, AgentActions* actions) {
  AnswerFence(now, actions);
  if (next_view_ && next_view_->id() >= fence_ && next_view_->id() > broken_view_) {
    const pb::View& next = *next_view_;
    const int self = MemberOf(next, options_.hello.region());
    const bool full = IsFull(next.members(self));
    if (full && (next.restart() || !has_state_)) {
      Enter(pb::View(next), actions);
      return true;
    }
    // Inner steps go on while connections are made; nothing waits for this region meanwhile.
    const bool may_train = full && next.take_round() == 0 && has_state_ && !Finished() && begun_ &&
                           steps_done_ < plan_.inner_steps && !offered_ && !leave_wanted_;
    if (!may_train) {
      SwitchTo(next, actions);
      return true;
    }
    if (preparing_ < next.id()) {
      preparing_ = next.id();
      pb::RegionCommand command;
      *command.mutable_prepare_view()->mutable_view() = next;
      Run(State::kPreparing, std::move(command), actions);
      return true;
    }
    Train(now, actions);
    return true;
  }
  if (view_.id() == 0) return false;
  if (!Held() && view_.take_round() > 0 && !handed_) {
    const bool takes = committed_ < view_.take_round();
    const bool gives = view_.take_from() == options_.hello.region();
    round_ = takes ? view_.take_round() : round_;
    RunReduction(takes   ? pb::ReduceRound::TAKE
                 : gives ? pb::ReduceRound::GIVE
                         : pb::ReduceRound::PASS,
                 view_.take_round(), actions);
    return true;
  }
  if (!planned_.empty() && preparing_ < planned_.rbegin()->first && !Held() &&
      planned_.rbegin()->second.after() == view_.id()) {
    preparing_ = planned_.rbegin()->first;
    pb::RegionCommand command;
    *command.mutable_prepare_view()->mutable_view() = planned_.rbegin()->second;
    Run(State::kPreparing, std::move(command), actions);
    return true;
  }
  return false;
}

// The members took a planned view that this newcomer had given up for another one.
void Agent::LosePlace(double now, AgentActions* actions) {
  rejoin_ = true;
  Interrupt(actions);
  if (!busy_) Rejoin(now, actions);
}

void Agent::SwitchTo(const pb::View& view, AgentActions* actions) {
  if (IsNewcomer() && view_.id() > 0) abandoned_ = view_.id();
  suspected_.clear();
  switching_ = view;
  pb::RegionCommand command;
  *command.mutable_switch_view()->mutable_view() = view;
  command.mutable_switch_view()->set_fetch(!has_state_);
  Run(State::kSwitching, std::move(command), actions);
}

void Agent::AfterSwitch(const std::vector<pb::RegionAnswer>& answers, double now,
                        AgentActions* actions) {
  (void)answers;
  if (next_view_) {
    // It was done before the word of a newer view could interrupt it: as if it had been given up,
    // but for a newcomer, with whom the others may take that planned view.
    const bool late = next_view_->id() != switching_.id();
    if (late && !(IsNewcomer() && switching_.first_round() == 0)) return Next(now, actions);
    const bool absolute = !late && next_view_->after() == 0;
    view_ = late ? switching_ : *next_view_;
    if (!late) next_view_.reset();
    position_ = 0;
    handed_ = broken_ = false;
    short_.Clear();
    ForgetLateness();
    for (auto at = planned_.begin(); at != planned_.end();) {
      at = at->second.after() == view_.id() ? std::next(at) : planned_.erase(at);
    }
    if (absolute) left_round_ = stopping_ = false;  // said again, by the notes of this view
    if (Observes() && !has_state_) {
      heard_any_ = caught_up_ = false;
      committed_ = view_.first_round() > 0 ? view_.first_round() - 1 : 0;
    }
    if (begun_ && view_.first_round() == committed_ + 1) {
      const RoundPlan plan =
          PlanRound(view_, job_, MemberOf(view_, options_.hello.region()), round_);
      if (Prefix(plan.samples, steps_done_ * plan.samples_per_step) !=
          Prefix(plan_.samples, steps_done_ * plan_.samples_per_step)) {
        begun_ = carries_late_ = false;
      } else {
        plan_ = plan;
      }
    }
  }
  Next(now, actions);
}

void Agent::TakeEdge() {
  next_view_ = ContinueView(planned_.at(edge_view_), view_, job_, committed_, digest_,
                            PoolAfterParts(view_, job_, committed_, parts_));
  planned_.clear();
}

bool Agent::TrainedForNext() const {
  const int64_t next = view_.first_round();
  if (!begun_ || steps_done_ == 0 || !view_.carried() || next != committed_ + 2 ||
      next > view_.last_round()) {
    return false;
  }
  const RoundPlan plan = PlanRound(view_, job_, MemberOf(view_, options_.hello.region()), next);
  const int64_t samples = steps_done_ * plan_.samples_per_step;
  return plan.samples_per_step == plan_.samples_per_step &&
         Prefix(plan.samples, samples) == Prefix(plan_.samples, samples);
}

void Agent::AfterHanding(const std::vector<pb::RegionAnswer>& answers, double now,
                         AgentActions* actions) {
  (void)answers;
  ++position_;
  handed_ = true;
  if (mode_ != pb::ReduceRound::TAKE) return Next(now, actions);
  edge_view_ = 0;
  leaving_.clear();
  short_.Clear();
  result_tokens_ = view_.take_tokens();
  result_expected_ = view_.take_expected_tokens();
  if (Observes() && !has_state_) return Next(now, actions);
  // It was to be late in that round, whose result the others have.
  keeps_training_ = TrainedForNext();
  pb::RegionCommand command;
  command.mutable_commit()->set_keep_training(keeps_training_);
  command.mutable_commit()->set_round(round_);
  command.mutable_commit()->set_tokens(result_tokens_);
  command.mutable_commit()->set_expected_tokens(result_expected_);
  Run(State::kCommitting, std::move(command), actions);
}

void Agent::AfterObserve(const std::vector<pb::RegionAnswer>& answers, AgentActions* actions) {
  ++position_;
  heard_any_ = true;
  const std::vector<pb::RoundNote> notes = NotesOf(answers);
  for (const pb::RoundNote& note : notes) round_ = std::max(round_, note.round());
  ReadNotes(notes);
  pb::RegionCommand command;
  command.mutable_commit()->set_round(round_);
  command.mutable_commit()->set_tokens(result_tokens_);
  command.mutable_commit()->set_expected_tokens(result_expected_);
  Run(State::kCommitting, std::move(command), actions);
}

void Agent::AfterObservedCommit(const std::vector<pb::RegionAnswer>& answers, double now,
                                AgentActions* actions) {
  committed_ = round_;
  if (answers.front().state_round() == round_) {
    const auto digest = SumOfDigests(answers);
    if (!digest.ok()) {
      return Fail(std::string(digest.status().message()), ExitCode::kFailed, "", now, actions);
    }
    has_state_ = saved_ = evaluated_ = true;
    digest_ = *digest;
    ReportHeard(now, actions);
    if (!caught_up_) {
      caught_up_ = true;
      pb::LeaderMessage message;
      message.mutable_caught_up()->set_view(view_.id());
      message.mutable_caught_up()->set_round(committed_);
      message.mutable_caught_up()->set_digest(digest_);
      Report(std::move(message), now, actions);
    }
  }
  if (!stopping_ && edge_view_ > 0) {
    TakeEdge();
  } else if (!stopping_ && !leaving_.empty()) {
    broken_ = true;
  }
  Next(now, actions);
}

}  // namespace atl
