#include "orchestrator/core/core.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"

namespace atl {
namespace {

// A step that comes later than asked by more than this: the orchestrator was stopped or starved.
constexpr double kOwnPauseSeconds = 2;
// While something is wrong.
constexpr double kWatchSeconds = 0.5;
constexpr double kNever = std::numeric_limits<double>::infinity();

}  // namespace

Core::Core(Options options)
    : options_(std::move(options)),
      last_event_(options_.history.last_event),
      last_view_(options_.history.last_view) {
  CHECK(options_.random_bytes != nullptr);
  CHECK(options_.job.regions_size() > 0);
  for (const pb::Region& region : options_.job.regions()) {
    CHECK(regions_.try_emplace(region.name(), region.name()).second) << region.name();
    RegionEntry& entry = regions_.at(region.name());
    entry.terms = TermsOf(region.lease());
    entry.TakeLease();
    order_.push_back(region.name());
  }
  job_.run = options_.history.run + 1;
  job_.job = options_.job;
  job_.state = JobStateName(state_);
  if (options_.history.membership) Restore(options_.history);
}

Actions Core::Start(double now) {
  BeginStep(now);
  if (restored_) {
    for (auto& [name, entry] : regions_) entry.ForgiveSilence(now);
    if (fence_) {
      fence_->id = ++last_view_;
      fence_->began = now;
      RecordMembership();
    }
    Event("orchestrator_back", "", ledger_->next_round(),
          absl::StrCat("the orchestrator is back: view ", view_.id(), ", round ",
                       ledger_->next_round(), " is to be committed next"),
          {{"view", view_.id()}});
    return EndStep();
  }
  job_.started = job_.since = now;
  RecordJob();
  for (const std::string& name : order_) RecordRegion(regions_.at(name));
  Event("job_started", "", -1,
        absl::StrCat("job ", options_.job.name(), ": run ", job_.run, " with regions ",
                     JoinNames(order_)),
        {{"run", job_.run}, {"rounds", options_.job.train().rounds()}});
  return EndStep();
}

Actions Core::OnMessage(const std::string& region, const pb::LeaderMessage& message, double now) {
  BeginStep(now);
  const auto found = regions_.find(region);
  if (message.has_hello()) {
    OnHello(region, message.hello());
    return EndStep();
  }
  // Not greeted yet, or of an attempt that another has replaced: it says hello or is no more.
  if (found == regions_.end()) return EndStep();
  if (found->second.attempt().empty()) {
    // A leader that greeted the orchestrator before this one.
    if (!message.attempt().empty()) {
      SendDropped(found->second, "say hello again", message.attempt());
    }
    return EndStep();
  }
  RegionEntry& entry = found->second;
  if (!message.attempt().empty() && message.attempt() != entry.attempt()) {
    // Of an earlier start, late; or of the present one, whose hello an earlier one's overtook.
    if (message.has_heartbeat() && (elastic_ || state_ == JobState::kWaiting)) {
      SendDropped(entry, "say hello again", message.attempt());
    }
    return EndStep();
  }
  entry.Heard(now);
  Revive(entry);
  if (message.has_heartbeat() && entry.SkipTo(message.heartbeat().first_sequence())) {
    // A hello from before that overtook later ones told us to wait for what will not come again.
    RecordRegion(entry);
    SendDropped(entry, "say ready again");
  }
  // A fault is heard at once, even where a report before it got lost: the sender may be gone before
  // it can repeat anything. Handling it again in its turn changes nothing.
  if (message.has_fault()) Dispatch(entry, message);
  const std::vector<pb::LeaderMessage> admitted = entry.Admit(message);
  for (const pb::LeaderMessage& next : admitted) {
    Dispatch(entry, next);
    if (next.sequence() == 0) continue;
    pb::OrchestratorMessage ack;
    ack.mutable_ack()->set_sequence(next.sequence());
    Send(region, std::move(ack));
  }
  const bool repeated =
      admitted.empty() && message.sequence() > 0 && message.sequence() < entry.next_sequence();
  if (repeated) {
    pb::OrchestratorMessage ack;
    ack.mutable_ack()->set_sequence(message.sequence());
    Send(region, std::move(ack));
  }
  if (!admitted.empty()) RecordRegion(entry);
  return EndStep();
}

Actions Core::OnStop(const std::string& reason, double now) {
  BeginStep(now);
  if (state_ == JobState::kWaiting) {
    Event("stop", "", -1, absl::StrCat("stop before the first round: ", reason));
    End(JobState::kStopped, reason, 75);
  } else if (state_ == JobState::kStarting || state_ == JobState::kTraining) {
    BeginStop(reason);
  }
  return EndStep();
}

Actions Core::OnTick(double now) {
  BeginStep(now);
  stirred_ = true;
  return EndStep();
}

Actions Core::OnOwnFailure(const std::string& what, int exit_code, double now) {
  BeginStep(now);
  if (!IsEnd(state_))
    Fail(absl::StrCat("the orchestrator cannot go on: ", what), exit_code, "", -1);
  return EndStep();
}

bool Core::EveryoneGone() const {
  if (!IsEnd(state_)) return false;
  for (const auto& [name, entry] : regions_) {
    if (entry.IsLive()) return false;
  }
  return true;
}

void Core::BeginStep(double now) {
  CHECK_GE(now, now_) << "time went back";
  now_ = now;
  actions_ = Actions();
  if (wake_at_ && now > *wake_at_ + kOwnPauseSeconds) {
    const double pause = now - *wake_at_;
    for (auto& [name, entry] : regions_) entry.ForgiveSilence(now);
    Event("paused", "", -1,
          absl::StrCat("the orchestrator itself stood still for ", pause,
                       " s; no region is blamed for that silence"),
          {{"seconds", pause}});
  }
}

Actions Core::EndStep() {
  if (state_ == JobState::kFailing && now_ >= decide_at_) DecideFailure();
  CheckSilence();
  // What looks at all regions is not done for each heartbeat and report of each.
  if (stirred_ || fence_ || now_ >= watch_at_) {
    if (elastic_ && !IsEnd(state_)) WatchAll();
    ExplainWaiting();
    stirred_ = false;
    watch_at_ = now_ + kWatchSeconds;
  }
  wake_at_ = WakeAt();
  actions_.wake_at = wake_at_;
  return std::exchange(actions_, Actions());
}

void Core::WatchAll() {
  WatchFence();
  Reckon();
  if (state_ == JobState::kWaiting) BeginIfReady();
  if (!ledger_ || IsEnd(state_)) return;
  ReleaseLeavers();
  PlanView();
  WatchLeases();
}

void Core::Event(const std::string& kind, const std::string& region, int64_t round,
                 const std::string& text, Details details) {
  stirred_ = true;
  EventRecord event;
  event.number = ++last_event_;
  event.time = now_;
  event.kind = kind;
  event.region = region;
  event.round = round;
  event.text = text;
  event.details = std::move(details);
  actions_.records.push_back(std::move(event));
}

void Core::Send(const std::string& region, pb::OrchestratorMessage message) {
  actions_.messages.push_back({region, std::move(message)});
}

void Core::SendEnded(const std::string& region) {
  pb::OrchestratorMessage message;
  message.mutable_ended()->set_state(job_.state);
  message.mutable_ended()->set_reason(job_.reason);
  message.mutable_ended()->set_exit_code(job_.exit_code);
  Send(region, std::move(message));
}

void Core::RecordRegion(const RegionEntry& entry, bool with_ready) {
  RegionRecord record = entry.ToRecord();
  if (with_ready) record.ready = entry.ready;
  actions_.records.push_back(std::move(record));
}

void Core::RecordJob() { actions_.records.push_back(job_); }

void Core::EnterState(JobState state) {
  stirred_ = true;
  CHECK(MayFollow(state_, state)) << JobStateName(state_) << " -> " << JobStateName(state);
  state_ = state;
  job_.state = JobStateName(state);
  job_.since = now_;
  if (IsEnd(state)) job_.ended = now_;
  RecordJob();
}

void Core::Dispatch(RegionEntry& entry, const pb::LeaderMessage& message) {
  if (IsEnd(state_)) return AnswerAfterEnd(entry, message);
  switch (message.body_case()) {
    case pb::LeaderMessage::kReady:
      return OnReady(entry, message.ready());
    case pb::LeaderMessage::kRound:
      return OnRoundReport(entry, message.round());
    case pb::LeaderMessage::kEvaluation:
      return OnEvaluation(entry, message.evaluation());
    case pb::LeaderMessage::kCheckpoint:
      return OnCheckpoint(entry, message.checkpoint());
    case pb::LeaderMessage::kTended:
      return OnTended(entry, message.tended());
    case pb::LeaderMessage::kHeartbeat:
      entry.TakeLinks(message.heartbeat().links(), order_);
      round_time_.OnLinks(entry.name(), entry.UpRate());
      TakeClock(entry, message.heartbeat().clock());
      SendWhatLacks(entry, message.heartbeat());
      return entry.Progress(
          message.heartbeat().doing(), 0,
          message.heartbeat().has_phases() ? &message.heartbeat().phases() : nullptr);
    case pb::LeaderMessage::kFault:
      return OnFault(entry, message.fault());
    case pb::LeaderMessage::kLeft:
      return OnLeft(entry, message.left());
    case pb::LeaderMessage::kSuspect:
      return OnSuspect(entry, message.suspect());
    case pb::LeaderMessage::kFenced:
      return OnFenced(entry, message.fenced());
    case pb::LeaderMessage::kCaughtUp:
      return OnCaughtUp(entry, message.caught_up());
    case pb::LeaderMessage::kLeaving:
      return OnLeaving(entry, message.leaving());
    case pb::LeaderMessage::kHello:
    case pb::LeaderMessage::BODY_NOT_SET:
      return;
  }
}

void Core::AnswerAfterEnd(RegionEntry& entry, const pb::LeaderMessage& message) {
  if (!entry.IsLive()) return;
  if (message.has_left()) {
    entry.left = message.left();
    entry.Enter(RegionState::kLeft,
                absl::StrCat("left after the job's end, exit code ", message.left().exit_code()),
                now_);
    Event("region_left", entry.name(), message.left().round(),
          absl::StrCat("region ", entry.name(), " left after the job's end"),
          {{"exit_code", int64_t{message.left().exit_code()}}});
  } else if (message.has_fault()) {
    entry.fault = message.fault();
    entry.Enter(RegionState::kFailed, message.fault().what(), now_);
    Event("fault", entry.name(), -1,
          absl::StrCat("region ", entry.name(), ", after the job's end: ", message.fault().what()));
  } else {
    SendEnded(entry.name());
  }
}

std::string Core::WaitingText() const {
  if (state_ == JobState::kTraining && ledger_->next_round() <= view_.last_round()) return "";
  std::vector<std::string> absent, joining, members;
  for (const std::string& name : order_) {
    const RegionState state = regions_.at(name).state();
    if (state == RegionState::kAbsent && IsExpected(regions_.at(name))) absent.push_back(name);
    if (state == RegionState::kJoining) joining.push_back(name);
    if (state == RegionState::kTraining || state == RegionState::kLeaving) members.push_back(name);
  }
  std::vector<std::string> parts;
  switch (state_) {
    case JobState::kWaiting:
      if (!absent.empty()) parts.push_back(JoinNames(absent) + " to start");
      if (!joining.empty()) parts.push_back(JoinNames(joining) + " to load the job");
      if (parts.empty()) return "";
      return absl::StrCat(absl::StrJoin(parts, " and for "),
                          "; when all regions are ready, the first round begins");
    case JobState::kStarting:
      return absl::StrCat(JoinNames(members),
                          view_.digest().empty() ? " to initialise the model"
                                                 : absl::StrCat(" to load the checkpoint of round ",
                                                                view_.first_round() - 1),
                          " and to finish round ", view_.first_round());
    case JobState::kTraining:
      if (members.empty()) return "";
      return absl::StrCat(JoinNames(members),
                          " to evaluate, to commit the last checkpoint and to leave; then the job "
                          "is done");
    case JobState::kStopping:
      if (members.empty()) return "";
      return absl::StrCat(JoinNames(members),
                          " to finish the round, to commit a checkpoint and to leave; then the job "
                          "is stopped");
    case JobState::kFailing:
      return absl::StrCat(failing_because_, "; will fail with what is known at ",
                          TimeOfDay(decide_at_));
    case JobState::kDone:
    case JobState::kStopped:
    case JobState::kFailed:
      return "";
  }
  return "";
}

void Core::ExplainWaiting() {
  std::string text = WaitingText();
  if (text == waiting_) return;
  waiting_ = std::move(text);
  if (waiting_.empty()) return;
  Event("waiting", "", -1, absl::StrCat("since ", TimeOfDay(job_.since), " waiting for ", waiting_),
        {{"since", job_.since}});
}

std::optional<double> Core::WakeAt() const {
  if (IsEnd(state_)) return std::nullopt;
  std::optional<double> wake;
  const auto at = [&](double time) { wake = wake ? std::min(*wake, time) : time; };
  if (state_ != JobState::kFailing && silence_at_ < kNever) at(std::max(silence_at_, now_));
  if (fence_ || !suspicions_.empty() || waiting_since_ > 0) at(now_ + kWatchSeconds);
  if (state_ == JobState::kFailing) at(decide_at_);
  return wake;
}

}  // namespace atl
