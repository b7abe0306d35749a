#include "worker/program/leader.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/log.h"

namespace atl {
namespace {

constexpr double kLongestWaitSeconds = 0.25;
constexpr double kLastCommandSeconds = 3;  // to end when the region's part is over

Agent::Link LinkOf(ControlClient::State state) {
  switch (state) {
    case ControlClient::State::kConnected:
      return Agent::Link::kUp;
    case ControlClient::State::kKeyRejected:
      return Agent::Link::kKeyRejected;
    default:
      return Agent::Link::kTrying;
  }
}

}  // namespace

Leader::Leader(AgentOptions options, ControlClient* client, RegionWorker* worker,
               Communicator* control, AbortRegion abort, std::function<const char*()> stop_signal)
    : agent_(std::move(options)),
      client_(client),
      worker_(worker),
      control_(control),
      abort_(std::move(abort)),
      stop_signal_(std::move(stop_signal)),
      thread_([this] { CommandThread(); }) {}

Leader::~Leader() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  changed_.NotifyAll();
  thread_.join();
}

AgentExit Leader::Run(bool* region_ended) {
  Clock* const clock = Clock::Real();
  bool signal_told = false;
  Apply(agent_.Start(clock->MonotonicSeconds()));
  while (!exit_) {
    const auto message = client_->Receive(kLongestWaitSeconds);
    const double now = clock->MonotonicSeconds();
    if (message) Apply(agent_.OnMessage(*message, now));
    Apply(agent_.OnLink(LinkOf(client_->state()), client_->StateText(), now));
    std::deque<StatusOr<std::vector<pb::RegionAnswer>>> answers;
    {
      MutexLock lock(&mutex_);
      answers.swap(answers_);
    }
    // After that, so that a save is told before the answer that waited for it.
    for (const pb::SaveEnded& ended : worker_->TakeEndedSaves()) {
      Apply(agent_.OnSaved(ended, now));
    }
    for (const pb::CheckpointTended& tended : worker_->TakeTended()) {
      Apply(agent_.OnTended(tended, now));
    }
    for (auto& answer : answers) {
      if (answer.ok()) {
        Apply(agent_.OnAnswers(*answer, now));
      } else {
        pb::RegionAnswer failed;
        failed.set_error(std::string(answer.status().message()));
        failed.set_exit_code(static_cast<int>(ExitCodeOf(answer.status())));
        Apply(agent_.OnAnswers({failed}, now));
      }
    }
    if (const char* signal = stop_signal_(); signal != nullptr && !signal_told) {
      signal_told = true;
      Apply(agent_.OnStopRequested(signal, now));
    }
    TellSilence(now);
    Apply(agent_.OnTick(now));
    SendHeartbeat(now);
  }
  *region_ended = FinishRegion(exit_->code);
  return *exit_;
}

void Leader::Apply(AgentActions actions) {
  for (const std::string& line : actions.say) LOG(INFO) << line;
  for (const pb::LeaderMessage& message : actions.send) {
    // The last word on links, for status afterwards; a short job has had no heartbeat yet.
    if (message.has_left()) client_->Send(CurrentHeartbeat());
    client_->Send(message);
  }
  if (actions.abandon_view || actions.interrupt) worker_->Interrupt(submitted_);
  if (actions.mend) worker_->Mend(actions.mend->order, actions.mend->view);
  if (actions.run) Submit(*std::move(actions.run));
  if (actions.exit && !exit_) exit_ = std::move(actions.exit);
}

void Leader::TellSilence(double now) {
  const std::map<std::string, double> silent = worker_->silent();
  for (const auto& [region, since] : silent_) {
    if (!silent.contains(region)) Apply(agent_.OnHeardAgain(region, now));
  }
  for (const auto& [region, seconds] : silent) Apply(agent_.OnSilence(region, seconds, now));
  silent_ = silent;
}

void Leader::SendHeartbeat(double now) {
  if (now - heartbeat_at_ < agent_.heartbeat_seconds() || agent_.state() == Agent::State::kGreeting)
    return;
  heartbeat_at_ = now;
  client_->Send(CurrentHeartbeat());
}

pb::LeaderMessage Leader::CurrentHeartbeat() const {
  pb::LeaderMessage message =
      agent_.Heartbeat(worker_->doing(), worker_->phases(), worker_->links());
  message.mutable_heartbeat()->set_clock(
      absl::ToDoubleSeconds(Clock::Real()->WallTime() - absl::UnixEpoch()));
  return message;
}

void Leader::Submit(pb::RegionCommand command) {
  {
    MutexLock lock(&mutex_);
    command_ = std::move(command);
    ++submitted_;
  }
  changed_.NotifyAll();
}

bool Leader::FinishRegion(ExitCode code) {
  {
    // An observer may still listen, say. What cannot be interrupted ends soon, or is stuck.
    worker_->Interrupt(submitted_);
    const double deadline = Clock::Real()->MonotonicSeconds() + kLastCommandSeconds;
    MutexLock lock(&mutex_);
    while (command_ && Clock::Real()->MonotonicSeconds() < deadline) {
      changed_.WaitFor(&mutex_, kLongestWaitSeconds);
    }
    if (command_) return false;
    answers_.clear();
  }
  pb::RegionCommand finish;
  finish.mutable_finish()->set_exit_code(static_cast<int>(code));
  Submit(std::move(finish));
  MutexLock lock(&mutex_);
  while (command_) changed_.Wait(&mutex_);
  return answers_.empty() || answers_.back().ok();
}

void Leader::CommandThread() {
  for (;;) {
    pb::RegionCommand command;
    {
      MutexLock lock(&mutex_);
      while (!command_ && !stopping_) changed_.Wait(&mutex_);
      if (!command_) return;
      command = *command_;
    }
    auto answers = RunCommand(command, *worker_, *control_, abort_);
    {
      MutexLock lock(&mutex_);
      answers_.push_back(std::move(answers));
      command_.reset();
    }
    changed_.NotifyAll();
    client_->Wake();
  }
}

}  // namespace atl
