#include "worker/agent/agent.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/units.h"
#include "proto/lease_terms.h"
#include "worker/agent/answers.h"

namespace atl {
namespace {

constexpr double kHelloSeconds = 2;        // between repetitions
constexpr double kKeyRejectedSeconds = 2;  // rejected this long: not a passing fault
constexpr double kLastSeconds = 1.5;  // of a lease: to end the processes; ticks are a second apart
constexpr double kFaultSeconds =
    15;  // a failed region waits this long to be told how the job ended

}  // namespace

pb::LeaderMessage Agent::Greeting() const {
  pb::LeaderMessage message;
  *message.mutable_hello() = options_.hello;
  message.mutable_hello()->set_first_sequence(outbox_.first());
  message.set_attempt(options_.hello.attempt());
  return message;
}

pb::LeaderMessage Agent::Heartbeat(const std::string& doing, const pb::PhaseSeconds& phases,
                                   const std::vector<pb::WanLink>& links) const {
  pb::LeaderMessage message;
  message.set_attempt(options_.hello.attempt());
  message.mutable_heartbeat()->set_round(round_);
  message.mutable_heartbeat()->set_doing(doing);
  *message.mutable_heartbeat()->mutable_phases() = phases;
  for (const pb::WanLink& link : links) *message.mutable_heartbeat()->add_links() = link;
  if (!rejoin_) {
    const bool next = next_view_ && next_view_->first_round() > 0;
    const int64_t present = view_.first_round() > 0 ? view_.id() : 0;
    message.mutable_heartbeat()->set_view(next ? next_view_->id() : present);
    const int64_t planned = planned_.empty() ? 0 : planned_.rbegin()->first;
    message.mutable_heartbeat()->set_planned(
        std::max({planned, view_.id(), next_view_ ? next_view_->id() : 0}));
  }
  message.mutable_heartbeat()->set_fence(fence_);
  if (Observes() && has_state_) {
    pb::CaughtUp* caught_up = message.mutable_heartbeat()->mutable_caught_up();
    caught_up->set_view(view_.id());
    caught_up->set_round(committed_);
    caught_up->set_digest(digest_);
  }
  message.mutable_heartbeat()->set_first_sequence(outbox_.first());
  // A view that could not be connected leads no further.
  message.mutable_heartbeat()->set_holds(broken_ &&
                                         (!next_view_ || next_view_->id() <= broken_view_));
  return message;
}

void Agent::Report(pb::LeaderMessage message, double now, AgentActions* actions) {
  message.set_attempt(options_.hello.attempt());
  actions->send.push_back(outbox_.Add(std::move(message), now));
}

void Agent::Run(State state, pb::RegionCommand command, AgentActions* actions) {
  state_ = state;
  busy_ = true;
  interrupted_ = false;
  actions->run = std::move(command);
}

void Agent::Exit(ExitCode code, const std::string& why, bool is_cause, AgentActions* actions) {
  state_ = State::kOver;
  actions->exit = AgentExit{code, why, is_cause};
}

void Agent::Fail(const std::string& what, ExitCode code, const std::string& blames, double now,
                 AgentActions* actions) {
  failure_ = AgentExit{code, what, blames.empty()};
  failed_at_ = now;
  pb::LeaderMessage message;
  auto* fault = message.mutable_fault();
  fault->set_what(what);
  fault->set_exit_code(static_cast<int>(code));
  fault->set_blames(blames);
  fault->set_doing(DoingText());
  state_ = State::kFailed;
  Report(std::move(message), now, actions);
}

std::string Agent::DoingText() const {
  switch (state_) {
    case State::kReducing:
      return absl::StrCat("all-reduce of round ", round_);
    case State::kTraining:
      return absl::StrCat("inner steps of round ", round_);
    case State::kSettingUp:
      return "setting up";
    case State::kEntering:
    case State::kSwitching:
      return absl::StrCat("entering view ", next_view_ ? next_view_->id() : view_.id());
    default:
      return absl::StrCat("round ", round_);
  }
}

AgentActions Agent::Start(double now) {
  AgentActions actions;
  started_at_ = hello_at_ = heard_at_ = link_since_ = now;
  actions.send.push_back(Greeting());
  return actions;
}

AgentActions Agent::OnMessage(const pb::OrchestratorMessage& message, double now) {
  AgentActions actions;
  heard_at_ = now;
  if (state_ == State::kOver) return actions;
  switch (message.body_case()) {
    case pb::OrchestratorMessage::kWelcome:
      if (state_ == State::kGreeting) OnWelcome(message.welcome(), &actions);
      break;
    case pb::OrchestratorMessage::kRefused:
      Exit(message.refused().exit_code() == 0
               ? ExitCode::kFailed
               : static_cast<ExitCode>(message.refused().exit_code()),
           absl::StrCat("the orchestrator refused region ", options_.hello.region(), ": ",
                        message.refused().reason()),
           true, &actions);
      break;
    case pb::OrchestratorMessage::kView:
      OnView(message.view(), now, &actions);
      break;
    case pb::OrchestratorMessage::kAck:
      outbox_.Acknowledge(message.ack().sequence());
      break;
    case pb::OrchestratorMessage::kStop:
      if (!options_.survives) actions = OnStopRequested(message.stop().reason(), now);
      if (stop_reason_) break;
      stop_reason_ = message.stop().reason();
      if (IsBeforeAnyView()) {
        LeaveBeforeAnyView(*stop_reason_, now, &actions);
      } else if (options_.survives && EntersWithoutState()) {
        Interrupt(&actions);  // some other region may never come
      }
      break;
    case pb::OrchestratorMessage::kEnded:
      OnEnded(message.ended(), &actions);
      break;
    case pb::OrchestratorMessage::kFence:
      if (options_.survives) OnFence(message.fence(), now, &actions);
      break;
    case pb::OrchestratorMessage::kDropped:
      if (options_.survives) OnDropped(message.dropped(), now, &actions);
      break;
    case pb::OrchestratorMessage::kDrain:
      if (options_.survives) OnDrain(message.drain(), now, &actions);
      break;
    case pb::OrchestratorMessage::kMend:
      // Of another view: there are no links of it any more.
      if (message.mend().view() == view_.id()) actions.mend = AgentMend{message.mend(), view_};
      break;
    case pb::OrchestratorMessage::BODY_NOT_SET:
      break;
  }
  return actions;
}

void Agent::OnWelcome(const pb::Welcome& welcome, AgentActions* actions) {
  job_ = welcome.job();
  lease_end_ = LeaseEnd(TermsOf(LeaseOf(job_, options_.hello.region())), options_.hello);
  if (welcome.heartbeat_seconds() > 0) heartbeat_seconds_ = welcome.heartbeat_seconds();
  actions->say.push_back(
      absl::StrCat("joined job ", job_.name(), " as region ", options_.hello.region()));
  pb::RegionCommand command;
  *command.mutable_set_up()->mutable_job() = job_;
  Run(State::kSettingUp, std::move(command), actions);
}

void Agent::OnView(const pb::View& view, double now, AgentActions* actions) {
  if (options_.survives) return OnChangingView(view, now, actions);
  if (view.id() <= view_.id()) return;  // repeated, or late
  const Status sound = CheckView(view, job_);
  if (state_ != State::kWaiting && state_ != State::kEntering) return;
  if (!sound.ok() || MemberOf(view, options_.hello.region()) < 0) {
    Fail(absl::StrCat("the orchestrator sent a view that does not hold together: ",
                      sound.ok() ? "this region is not in it" : std::string(sound.message())),
         ExitCode::kFailed, "", now, actions);
  } else if (state_ == State::kWaiting) {
    Enter(view, actions);
  } else {
    next_view_ = view;
    actions->abandon_view = true;
    actions->say.push_back(
        absl::StrCat("view ", view_.id(), " is no more: view ", view.id(), " follows"));
  }
}

void Agent::Enter(const pb::View& view, AgentActions* actions) {
  view_ = view;
  next_view_.reset();
  round_ = committed_ = view.first_round() - 1;
  has_state_ = false;
  begun_ = broken_ = handed_ = left_round_ = stopping_ = false;
  steps_done_ = position_ = 0;
  ForgetLateness();
  carries_late_ = false;
  round_began_ = 0;
  short_.Clear();
  actions->say.push_back(absl::StrCat("view ", view.id(), ": ", view.members_size(), " regions, ",
                                      view.lanes(), " lanes, round ", view.first_round(), " next"));
  pb::RegionCommand command;
  *command.mutable_enter_view()->mutable_view() = view;
  Run(State::kEntering, std::move(command), actions);
}

void Agent::OnEnded(const pb::JobEnded& ended, AgentActions* actions) {
  const auto code = static_cast<ExitCode>(ended.exit_code());
  if (state_ == State::kFailed) {
    Exit(failure_.is_cause ? failure_.code : code, failure_.why, failure_.is_cause, actions);
    return;
  }
  const bool well = code == ExitCode::kDone || code == ExitCode::kStoppedCleanly;
  Exit(code, well ? "" : absl::StrCat("the job ended: ", ended.reason()), false, actions);
  actions->say.push_back(absl::StrCat("the job is ", ended.state(),
                                      ended.reason().empty() ? "" : ": ", ended.reason()));
}

bool Agent::IsBeforeAnyView() const {
  if (state_ == State::kFailed || state_ == State::kLeaving) return false;
  const bool waits =
      state_ == State::kGreeting || state_ == State::kSettingUp || state_ == State::kWaiting;
  return options_.survives ? view_.id() == 0 && !next_view_ : waits;
}

bool Agent::EntersWithoutState() const {
  return !has_state_ && busy_ && (state_ == State::kEntering || state_ == State::kSwitching);
}

void Agent::LeaveBeforeAnyView(const std::string& reason, double now, AgentActions* actions) {
  pb::LeaderMessage message;
  message.mutable_left()->set_exit_code(static_cast<int>(ExitCode::kStoppedCleanly));
  message.mutable_left()->set_round(round_);
  message.mutable_left()->set_never_entered(view_.id() > 0 && !has_state_);
  Report(std::move(message), now, actions);
  Exit(ExitCode::kStoppedCleanly, absl::StrCat("stopped before the first round: ", reason), false,
       actions);
}

AgentActions Agent::OnStopRequested(const std::string& reason, double now) {
  AgentActions actions;
  if (stop_reason_ || leave_wanted_ || state_ == State::kOver || state_ == State::kFailed ||
      state_ == State::kLeaving)
    return actions;
  if (IsBeforeAnyView()) {
    stop_reason_ = reason;
    LeaveBeforeAnyView(reason, now, &actions);
    return actions;
  }
  if (options_.survives) {
    pb::Drain drain;
    drain.set_reason(reason);
    OnDrain(drain, now, &actions);
    return actions;
  }
  stop_reason_ = reason;
  // Some other region may never come. If all have come by now, the round's notes tell them.
  if (state_ == State::kEntering) actions.abandon_view = true;
  actions.say.push_back(
      absl::StrCat("stopping after round ", std::max(round_, view_.first_round()), ": ", reason));
  return actions;
}

AgentActions Agent::OnLink(Link link, const std::string& text, double now) {
  AgentActions actions;
  if (link != link_) {
    link_ = link;
    link_since_ = now;
  }
  if (text != link_text_) {
    link_text_ = text;
    actions.say.push_back(text);
  }
  return actions;
}

bool Agent::LeaseIsOver(double now) const {
  return lease_end_ > 0 && now + options_.wall_offset > lease_end_ - kLastSeconds;
}

AgentActions Agent::OnTick(double now) {
  AgentActions actions;
  if (state_ == State::kOver) return actions;
  for (pb::LeaderMessage& message : outbox_.Due(now)) actions.send.push_back(std::move(message));
  if (state_ == State::kGreeting) {
    if (link_ == Link::kKeyRejected && now - link_since_ >= kKeyRejectedSeconds) {
      Exit(ExitCode::kUsage, link_text_, true, &actions);
    } else if (now - started_at_ >= options_.orchestrator_wait_seconds) {
      Exit(ExitCode::kOrchestratorLost,
           absl::StrCat(
               link_text_.empty() ? "the orchestrator does not answer" : link_text_,
               "; gave up after ", FormatDuration(now - started_at_),
               " (is it running, is the address right? --orchestrator_wait changes how long)"),
           true, &actions);
    } else if (now - hello_at_ >= kHelloSeconds) {
      hello_at_ = now;
      actions.send.push_back(Greeting());
    }
  } else if (state_ == State::kFailed) {
    if (now - failed_at_ >= kFaultSeconds)
      Exit(failure_.code, failure_.why, failure_.is_cause, &actions);
  } else if (state_ == State::kLeaving && leave_wanted_ &&
             (now - left_at_ >= options_.leave_seconds || LeaseIsOver(now))) {
    Exit(ExitCode::kStoppedCleanly, "", false, &actions);
  } else if ((state_ == State::kWaiting || state_ == State::kLeaving ||
              state_ == State::kHolding) &&
             now - heard_at_ >= options_.orchestrator_lost_seconds) {
    Exit(ExitCode::kOrchestratorLost,
         absl::StrCat("nothing heard from the orchestrator for ", FormatDuration(now - heard_at_),
                      "; round ", round_, " is committed here"),
         true, &actions);
  }
  return actions;
}

AgentActions Agent::OnAnswers(const std::vector<pb::RegionAnswer>& answers, double now) {
  AgentActions actions;
  busy_ = false;
  if (state_ == State::kOver || state_ == State::kFailed) return actions;
  int64_t prepared = answers.front().prepared_view();
  for (const pb::RegionAnswer& answer : answers) {
    prepared = std::min(prepared, answer.prepared_view());
    if (!answer.stop_requested() || stop_reason_ || leave_wanted_) continue;
    if (!options_.survives) {
      stop_reason_ = "a worker of this region got a signal";
      continue;
    }
    AgentActions stop = OnStopRequested("a worker of this region got a signal", now);
    std::move(stop.send.begin(), stop.send.end(), std::back_inserter(actions.send));
    std::move(stop.say.begin(), stop.say.end(), std::back_inserter(actions.say));
    if (!stop.exit) continue;
    actions.exit = std::move(stop.exit);
    return actions;
  }
  prepared_ = std::max(prepared_, prepared);
  if (rejoin_) {
    if (state_ == State::kSettingUp) AfterSetUp(answers, now, &actions);
    if (state_ == State::kSaving && answers.front().pending()) {
      pending_saves_.push_back(SaveReport());
      TellSaves(now, &actions);
    }
    Rejoin(now, &actions);
    return actions;
  }
  const bool entered = state_ != State::kEntering && state_ != State::kSwitching;
  if (!entered && !(options_.survives && has_state_) && (stop_reason_ || leave_wanted_) &&
      std::any_of(answers.begin(), answers.end(),
                  [](const pb::RegionAnswer& answer) { return answer.interrupted(); })) {
    LeaveBeforeAnyView(stop_reason_.value_or("told to leave"), now, &actions);
    return actions;
  }
  if (!options_.survives && state_ == State::kEntering && next_view_) {
    Enter(pb::View(*next_view_), &actions);
    return actions;
  }
  int rank = 0;
  const pb::RegionAnswer* failure = FirstFailure(answers, &rank);
  if (failure != nullptr && !(state_ == State::kEntering && failure->checkpoint_unusable()) &&
      state_ != State::kSaving && !(options_.survives && failure->interrupted())) {
    const std::string where = answers.size() > 1 ? absl::StrCat("rank ", rank, ": ") : "";
    Fail(absl::StrCat(where, failure->error()), static_cast<ExitCode>(failure->exit_code()),
         failure->blames(), now, &actions);
    return actions;
  }
  const bool asked = interrupted_;
  interrupted_ = false;
  if (failure != nullptr && failure->interrupted()) {
    if (!asked) Broken(*failure, now, &actions);
    // What was given up in this view cannot be begun again in it.
    if (asked && state_ == State::kReducing) broken_ = true;
    Next(now, &actions);
    return actions;
  }
  Handle(answers, now, &actions);
  return actions;
}

void Agent::Handle(const std::vector<pb::RegionAnswer>& answers, double now,
                   AgentActions* actions) {
  switch (state_) {
    case State::kSettingUp:
      return AfterSetUp(answers, now, actions);
    case State::kEntering:
      return AfterEnterView(answers, now, actions);
    case State::kPreparing:
      return Next(now, actions);
    case State::kSwitching:
      return AfterSwitch(answers, now, actions);
    case State::kTraining:
      return AfterTrain(answers, now, actions);
    case State::kReducing:
      switch (mode_) {
        case pb::ReduceRound::CONTRIBUTE:
        case pb::ReduceRound::LATE:
          return AfterReduce(answers, now, actions);
        case pb::ReduceRound::OBSERVE:
          return AfterObserve(answers, actions);
        default:
          return AfterHanding(answers, now, actions);
      }
    case State::kCommitting:
      return mode_ == pb::ReduceRound::OBSERVE && Observes()
                 ? AfterObservedCommit(answers, now, actions)
                 : AfterCommit(answers, now, actions);
    case State::kSaving:
      return AfterSave(answers, now, actions);
    case State::kEvaluating:
      return AfterEvaluate(answers, now, actions);
    default:
      return;  // an answer to a command of a state that was left by a message
  }
}

void Agent::AfterSetUp(const std::vector<pb::RegionAnswer>& answers, double now,
                       AgentActions* actions) {
  ready_.Clear();
  for (const pb::RegionAnswer& answer : answers) ready_.add_gateways(answer.gateway());
  const pb::RegionAnswer& leader = answers.front();
  ready_.set_parameters(leader.parameters());
  ready_.set_dataset_samples(leader.dataset_samples());
  ready_.set_dataset_fingerprint(leader.dataset_fingerprint());
  ready_.set_accelerator(leader.accelerator());
  *ready_.mutable_checkpoints() = leader.checkpoints();
  ready_.set_failure(leader.ignored_checkpoints());
  ready_.set_survives(options_.survives);
  SendReady(now, actions);
}

void Agent::SendReady(double now, AgentActions* actions) {
  state_ = State::kWaiting;
  heard_at_ = now;
  pb::LeaderMessage message;
  *message.mutable_ready() = ready_;
  message.mutable_ready()->set_floor(floor_);
  Report(std::move(message), now, actions);
  actions->say.push_back("ready; waiting for the other regions");
}

void Agent::AfterEnterView(const std::vector<pb::RegionAnswer>& answers, double now,
                           AgentActions* actions) {
  std::string unusable;
  int rank = 0;
  if (const pb::RegionAnswer* failure = FirstFailure(answers, &rank)) {
    unusable = failure->error();
  } else {
    auto digest = SumOfDigests(answers);
    if (!digest.ok())
      return Fail(std::string(digest.status().message()), ExitCode::kFailed, "", now, actions);
    digest_ = *digest;
    if (!view_.digest().empty() && view_.digest() != digest_) {
      unusable = absl::StrCat(view_.checkpoint(), " holds an outer state with digest ", digest_,
                              ", but its manifest says ", view_.digest());
    }
  }
  if (!unusable.empty()) {
    actions->say.push_back(absl::StrCat("can't use the checkpoint: ", unusable));
    ready_.set_failed_checkpoint(view_.checkpoint());
    ready_.set_failure(unusable);
    return SendReady(now, actions);
  }
  has_state_ = true;
  saved_ = true;  // what was loaded is on disk already
  evaluated_ = round_ > 0;
  Next(now, actions);
}

}  // namespace atl
