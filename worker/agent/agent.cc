#include "worker/agent/agent.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/units.h"
#include "proto/round_plan.h"

namespace atl {
namespace {

constexpr double kHelloSeconds = 2;        // between repetitions
constexpr double kKeyRejectedSeconds = 2;  // rejected this long: not a passing fault
constexpr double kFaultSeconds =
    15;  // a failed region waits this long to be told how the job ended

int MemberOf(const pb::View& view, const std::string& region) {
  for (int member = 0; member < view.members_size(); ++member) {
    if (view.members(member).region() == region) return member;
  }
  return -1;
}

// The first rank that failed, if any; a rank that only follows from a peer's failure comes last.
const pb::RegionAnswer* FirstFailure(const std::vector<pb::RegionAnswer>& answers, int* rank) {
  const pb::RegionAnswer* found = nullptr;
  for (size_t i = 0; i < answers.size(); ++i) {
    if (answers[i].error().empty()) continue;
    if (found == nullptr || (!found->blames().empty() && answers[i].blames().empty())) {
      found = &answers[i];
      *rank = static_cast<int>(i);
    }
  }
  return found;
}

StatusOr<std::string> SumOfDigests(const std::vector<pb::RegionAnswer>& answers) {
  Digest sum;
  for (const pb::RegionAnswer& answer : answers) {
    ASSIGN_OR_RETURN(const Digest digest, Digest::FromHex(answer.digest()));
    sum.Add(digest);
  }
  return sum.Hex();
}

}  // namespace

pb::LeaderMessage Agent::Greeting() const {
  pb::LeaderMessage message;
  *message.mutable_hello() = options_.hello;
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
  return message;
}

void Agent::Report(pb::LeaderMessage message, double now, AgentActions* actions) {
  message.set_attempt(options_.hello.attempt());
  actions->send.push_back(outbox_.Add(std::move(message), now));
}

void Agent::Run(State state, pb::RegionCommand command, AgentActions* actions) {
  state_ = state;
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
  fault->set_doing(state_ == State::kReducing    ? absl::StrCat("all-reduce of round ", round_)
                   : state_ == State::kTraining  ? absl::StrCat("inner steps of round ", round_)
                   : state_ == State::kSettingUp ? "setting up"
                   : state_ == State::kEntering  ? absl::StrCat("entering view ", view_.id())
                                                 : absl::StrCat("round ", round_));
  state_ = State::kFailed;
  Report(std::move(message), now, actions);
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
      actions = OnStopRequested(message.stop().reason(), now);
      break;
    case pb::OrchestratorMessage::kEnded:
      OnEnded(message.ended(), &actions);
      break;
    case pb::OrchestratorMessage::BODY_NOT_SET:
      break;
  }
  return actions;
}

void Agent::OnWelcome(const pb::Welcome& welcome, AgentActions* actions) {
  job_ = welcome.job();
  if (welcome.heartbeat_seconds() > 0) heartbeat_seconds_ = welcome.heartbeat_seconds();
  actions->say.push_back(
      absl::StrCat("joined job ", job_.name(), " as region ", options_.hello.region()));
  pb::RegionCommand command;
  *command.mutable_set_up()->mutable_job() = job_;
  Run(State::kSettingUp, std::move(command), actions);
}

void Agent::OnView(const pb::View& view, double now, AgentActions* actions) {
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
  round_ = view.first_round() - 1;
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

AgentActions Agent::OnStopRequested(const std::string& reason, double now) {
  AgentActions actions;
  if (stop_reason_ || state_ == State::kOver || state_ == State::kFailed ||
      state_ == State::kLeaving)
    return actions;
  stop_reason_ = reason;
  if (state_ == State::kGreeting || state_ == State::kSettingUp || state_ == State::kWaiting) {
    LeaveBeforeFirstRound(now, &actions);
    return actions;
  }
  // Some other region may never come. If all have come by now, the round's notes tell them.
  if (state_ == State::kEntering) actions.abandon_view = true;
  actions.say.push_back(
      absl::StrCat("stopping after round ", std::max(round_, view_.first_round()), ": ", reason));
  return actions;
}

void Agent::LeaveBeforeFirstRound(double now, AgentActions* actions) {
  pb::LeaderMessage message;
  message.mutable_left()->set_exit_code(static_cast<int>(ExitCode::kStoppedCleanly));
  message.mutable_left()->set_round(round_);
  Report(std::move(message), now, actions);
  Exit(ExitCode::kStoppedCleanly, absl::StrCat("stopped before the first round: ", *stop_reason_),
       false, actions);
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
  } else if ((state_ == State::kWaiting || state_ == State::kLeaving) &&
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
  if (state_ == State::kOver || state_ == State::kFailed) return actions;
  for (const pb::RegionAnswer& answer : answers) {
    if (answer.stop_requested() && !stop_reason_)
      stop_reason_ = "a worker of this region got a signal";
  }
  if (state_ == State::kEntering && stop_reason_ &&
      std::any_of(answers.begin(), answers.end(),
                  [](const pb::RegionAnswer& answer) { return answer.interrupted(); })) {
    LeaveBeforeFirstRound(now, &actions);
    return actions;
  }
  if (state_ == State::kEntering && next_view_) {
    Enter(pb::View(*next_view_), &actions);
    return actions;
  }
  int rank = 0;
  const pb::RegionAnswer* failure = FirstFailure(answers, &rank);
  if (failure != nullptr && !(state_ == State::kEntering && failure->checkpoint_unusable()) &&
      state_ != State::kSaving) {
    const std::string where = answers.size() > 1 ? absl::StrCat("rank ", rank, ": ") : "";
    Fail(absl::StrCat(where, failure->error()), static_cast<ExitCode>(failure->exit_code()),
         failure->blames(), now, &actions);
    return actions;
  }
  switch (state_) {
    case State::kSettingUp:
      AfterSetUp(answers, now, &actions);
      break;
    case State::kEntering:
      AfterEnterView(answers, now, &actions);
      break;
    case State::kTraining:
      AfterTrain(answers, now, &actions);
      break;
    case State::kReducing:
      AfterReduce(answers, now, &actions);
      break;
    case State::kCommitting:
      AfterCommit(answers, now, &actions);
      break;
    case State::kSaving:
      AfterSave(answers, now, &actions);
      break;
    case State::kEvaluating:
      AfterEvaluate(answers, now, &actions);
      break;
    default:
      break;  // an answer to a command of a state that was left by a message
  }
  return actions;
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
  SendReady(now, actions);
}

void Agent::SendReady(double now, AgentActions* actions) {
  state_ = State::kWaiting;
  heard_at_ = now;
  pb::LeaderMessage message;
  *message.mutable_ready() = ready_;
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
  saved_ = true;  // what was loaded is on disk already
  evaluated_ = round_ > 0;
  Continue(now, actions);
}

void Agent::AfterTrain(const std::vector<pb::RegionAnswer>& answers, double now,
                       AgentActions* actions) {
  for (const pb::RegionAnswer& answer : answers) {
    report_.set_loss_sum(report_.loss_sum() + answer.loss_sum());
    report_.set_tokens(report_.tokens() + answer.tokens());
  }
  report_.set_gradient_norm(answers.front().gradient_norm());
  report_.set_learning_rate(answers.front().learning_rate());
  reduce_started_at_ = now;
  pb::RegionCommand command;
  command.mutable_reduce()->set_round(round_);
  command.mutable_reduce()->mutable_note()->set_tokens(report_.tokens());
  command.mutable_reduce()->mutable_note()->set_stop(stop_reason_.has_value());
  Run(State::kReducing, std::move(command), actions);
}

void Agent::AfterReduce(const std::vector<pb::RegionAnswer>& answers, double now,
                        AgentActions* actions) {
  report_.set_wan_seconds(now - reduce_started_at_);
  for (const pb::RegionAnswer& answer : answers) {
    report_.set_wan_bytes_sent(report_.wan_bytes_sent() + answer.wan_bytes_sent());
    for (const pb::RoundNote& note : answer.notes()) stopping_ = stopping_ || note.stop();
  }
  pb::RegionCommand command;
  command.mutable_commit()->set_round(round_);
  Run(State::kCommitting, std::move(command), actions);
}

void Agent::AfterCommit(const std::vector<pb::RegionAnswer>& answers, double now,
                        AgentActions* actions) {
  auto digest = SumOfDigests(answers);
  if (!digest.ok())
    return Fail(std::string(digest.status().message()), ExitCode::kFailed, "", now, actions);
  digest_ = *digest;
  report_.set_digest(digest_);
  report_.set_seconds(now - round_started_at_);
  *report_.mutable_phases() = answers.front().phases();
  pb::LeaderMessage message;
  *message.mutable_round() = report_;
  Report(std::move(message), now, actions);
  saved_ = evaluated_ = false;
  Continue(now, actions);
}

void Agent::AfterSave(const std::vector<pb::RegionAnswer>& answers, double now,
                      AgentActions* actions) {
  const RoundPlan plan = PlanRound(view_, job_, MemberOf(view_, options_.hello.region()), round_);
  pb::LeaderMessage message;
  auto* report = message.mutable_checkpoint();
  report->set_view(view_.id());
  auto* checkpoint = report->mutable_checkpoint();
  checkpoint->set_round(round_);
  checkpoint->set_digest(digest_);
  checkpoint->set_path(answers.front().path());
  checkpoint->set_own(true);
  checkpoint->set_next_sample(plan.job_samples.end);
  checkpoint->set_inner_steps(view_.inner_steps_done() +
                              (round_ - view_.first_round() + 1) * plan.inner_steps);
  report->set_bytes(answers.front().bytes());
  report->set_seconds(answers.front().seconds());
  int rank = 0;
  const pb::RegionAnswer* failure = FirstFailure(answers, &rank);
  if (failure != nullptr) {
    report->set_failure(failure->error());
    report->set_exit_code(failure->exit_code());
  }
  Report(std::move(message), now, actions);
  if (failure != nullptr) {
    Fail(failure->error(), static_cast<ExitCode>(failure->exit_code()), "", now, actions);
    return;
  }
  saved_ = true;
  Continue(now, actions);
}

void Agent::AfterEvaluate(const std::vector<pb::RegionAnswer>& answers, double now,
                          AgentActions* actions) {
  pb::LeaderMessage message;
  auto* report = message.mutable_evaluation();
  report->set_view(view_.id());
  report->set_round(round_);
  for (const pb::RegionAnswer& answer : answers) {
    report->set_loss_sum(report->loss_sum() + answer.loss_sum());
    report->set_tokens(report->tokens() + answer.tokens());
  }
  Report(std::move(message), now, actions);
  evaluated_ = true;
  Continue(now, actions);
}

void Agent::Continue(double now, AgentActions* actions) {
  const bool last = stopping_ || round_ >= view_.last_round();
  const auto due = [&](int64_t every) { return every > 0 && round_ % every == 0; };
  if (!saved_ && (last || due(job_.checkpoint().every()))) {
    pb::RegionCommand command;
    command.mutable_save()->set_round(round_);
    command.mutable_save()->set_digest(digest_);
    return Run(State::kSaving, std::move(command), actions);
  }
  const bool evaluate =
      round_ == 0 || round_ >= view_.last_round() || due(job_.train().evaluate_every());
  if (!evaluated_ && evaluate && !stopping_) {
    pb::RegionCommand command;
    command.mutable_evaluate()->set_round(round_);
    return Run(State::kEvaluating, std::move(command), actions);
  }
  if (last) {
    const bool done = round_ >= view_.last_round();
    pb::LeaderMessage message;
    message.mutable_left()->set_round(round_);
    message.mutable_left()->set_exit_code(
        static_cast<int>(done ? ExitCode::kDone : ExitCode::kStoppedCleanly));
    state_ = State::kLeaving;
    heard_at_ = now;
    Report(std::move(message), now, actions);
    return;
  }
  ++round_;
  round_started_at_ = now;
  const RoundPlan plan = PlanRound(view_, job_, MemberOf(view_, options_.hello.region()), round_);
  report_.Clear();
  report_.set_view(view_.id());
  report_.set_round(round_);
  report_.set_first_sample(plan.region_samples.begin);
  report_.set_end_sample(plan.region_samples.end);
  pb::RegionCommand command;
  command.mutable_train()->set_round(round_);
  Run(State::kTraining, std::move(command), actions);
}

}  // namespace atl
