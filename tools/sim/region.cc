#include "tools/sim/region.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "base/random.h"
#include "tools/sim/keeper.h"
#include "tools/sim/world.h"

namespace atl::sim {
std::string NameOf(int region) { return absl::StrCat("r", region); }

Region::Region(World* world, int index)
    : world_(world), index_(index), name_(NameOf(index)), workers_(1 + index % 3 / 2) {
  const double spread = world_->settings().clock_spread;
  clock_rate_ = 1 + world_->dice().Uniform(-spread, spread);
  clock_offset_ = world_->dice().Uniform(0, 1000);
  const double skew = world_->settings().clock_skew;
  skew_ = Dice(DeriveSeed(world_->settings().seed, absl::StrCat("sim:skew:", index)))
              .Uniform(-skew, skew);
}

double Region::world_time() const { return world_->now(); }
double Region::Calendar() const { return world_->now() + skew_; }
double Region::Clock() const { return clock_offset_ + clock_rate_ * world_->now(); }

// In this life; not while stopped.
void Region::Later(double seconds, std::function<void()> what) {
  const int64_t life = life_;
  world_->events().In(seconds, [this, life, what = std::move(what)] {
    if (life != life_ || agent_ == nullptr) return;
    if (world_->now() < paused_until_) return Later(paused_until_ - world_->now(), what);
    what();
  });
}

void Region::Start() {
  ++life_;
  memory_ = Memory();
  stale_ = {};
  command_.reset();
  unwritten_.clear();
  joining_ = 0;
  AgentOptions options;
  options.hello.set_protocol(1);
  options.hello.set_region(name_);
  options.hello.set_attempt(absl::StrCat(name_, ".", life_));
  options.hello.set_workers(workers_);
  options.hello.set_host(name_);
  options.wall_offset = Calendar() - Clock();
  if (lease_seconds_ > 0) {
    options.hello.set_lease_end(Calendar() + lease_seconds_);
    world_->events().In(lease_seconds_, [this, life = life_] {
      if (life == life_ && agent_ != nullptr) EndLease();
    });
  }
  lease_seconds_ = 0;
  options.survives = true;
  options.orchestrator_wait_seconds = 1e9;
  options.orchestrator_lost_seconds = 1e9;
  agent_ = std::make_unique<Agent>(std::move(options));
  world_->Say(absl::StrCat(name_, " starts (", life_, ")"));
  Do([&](Agent& agent) { return agent.Start(Clock()); });
  Later(world_->dice().Uniform(0, 1), [this] { Tick(); });
  Later(world_->dice().Uniform(0, 1), [this] { Beat(); });
}

void Region::Tick() {
  Do([&](Agent& agent) { return agent.OnTick(Clock()); });
  Later(0.9, [this] { Tick(); });
}

// The site asks nobody.
void Region::EndLease() {
  world_->Count("a lease ended under a region");
  if (memory_.has_state && !memory_.observes && memory_.training > memory_.round) {
    world_->Count("a lease ended inside a round");
    world_->Say(absl::StrCat(name_, " is in round ", memory_.training, " when its lease ends"));
  }
  Crash(world_->dice().Uniform(5, 30), false);
}

void Region::Beat() {
  if (agent_->state() != Agent::State::kGreeting) {
    pb::LeaderMessage message = agent_->Heartbeat("", pb::PhaseSeconds());
    message.mutable_heartbeat()->set_clock(Calendar());
    world_->ToOrchestrator(index_, message);
  }
  Later(1, [this] { Beat(); });
}

void Region::Die() {
  world_->Trouble();
  agent_.reset();
  ++life_;
  command_.reset();
  joining_ = 0;
}

void Region::Crash(double seconds_away, bool loses_disk) {
  if (agent_ == nullptr) return;
  world_->Say(absl::StrCat(name_, " is killed", loses_disk ? ", and loses its disk" : ""));
  Die();
  if (loses_disk) disk_.clear();
  if (seconds_away <= 0) return;
  world_->events().In(seconds_away, [this] {
    if (agent_ == nullptr) Start();
  });
}

void Region::Pause(double seconds) {
  if (agent_ == nullptr) return;
  world_->Say(absl::StrCat(name_, " is stopped for ", seconds, " s"));
  paused_until_ = std::max(paused_until_, world_->now() + seconds);
}

void Region::Leave() {
  if (!IsRunning() || agent_->view().id() == 0) return;
  world_->Say(absl::StrCat(name_, " gets SIGTERM"));
  Do([&](Agent& agent) { return agent.OnStopRequested("SIGTERM", Clock()); });
}

void Region::OnMessage(int64_t life, const pb::OrchestratorMessage& message) {
  if (life != life_ || agent_ == nullptr) return;
  if (world_->now() < paused_until_) {
    return Later(paused_until_ - world_->now(),
                 [this, life, message] { OnMessage(life, message); });
  }
  if (message.has_dropped()) world_->Say(absl::StrCat(name_, " hears that it is dropped"));
  Do([&](Agent& agent) { return agent.OnMessage(message, Clock()); });
}

void Region::Apply(AgentActions actions) {
  for (const std::string& text : actions.say) world_->Say(absl::StrCat(name_, ": ", text));
  for (const pb::LeaderMessage& message : actions.send) world_->ToOrchestrator(index_, message);
  if (actions.run) Run(*actions.run);
  if (actions.interrupt) Interrupt();
  if (!actions.exit) return;
  const int code = static_cast<int>(actions.exit->code);
  world_->Say(absl::StrCat(name_, " exits with ", code, " ", actions.exit->why));
  world_->Count(absl::StrCat("exit ", code));
  const bool failed = code != 0 && code != 75;
  if (command_ && command_->has_reduce()) world_->sea().GiveUp(index_);
  Die();
  // A scheduler starts it again.
  if (!world_->keeper().ended()) {
    world_->events().In(failed ? world_->dice().Uniform(2, 20) : world_->dice().Uniform(5, 60),
                        [this] {
                          if (agent_ == nullptr && !world_->keeper().ended()) Start();
                        });
  }
}

void Region::Run(const pb::RegionCommand& command) {
  command_ = command;
  ++command_number_;
  interrupt_ = false;
  switch (command.body_case()) {
    case pb::RegionCommand::kSetUp:
      return RunSetUp();
    case pb::RegionCommand::kEnterView:
      return RunEnter(command.enter_view().view());
    case pb::RegionCommand::kPrepareView:
      world_->sea().BeginJoin(index_, command.prepare_view().view());
      memory_.preparing.emplace_back(command.prepare_view().view().id(), 0);
      return Later(0.01, [this, n = command_number_] {
        if (n == command_number_) Answer({});
      });
    case pb::RegionCommand::kSwitchView:
      return RunSwitch(command.switch_view());
    case pb::RegionCommand::kTrain:
      return RunTrain(command.train());
    case pb::RegionCommand::kReduce:
      return RunReduce(command.reduce());
    case pb::RegionCommand::kCommit:
      return RunCommit(command.commit());
    case pb::RegionCommand::kSave:
      return RunSave(command.save());
    default:
      return Later(0.1 * slow_, [this, n = command_number_] {
        if (n != command_number_) return;
        pb::RegionAnswer answer;
        answer.set_loss_sum(1);
        answer.set_tokens(1);
        Answer(answer);
      });
  }
}

int64_t Region::Prepared() const {
  int64_t prepared = 0;
  for (const auto& [view, unused] : memory_.preparing) {
    if (world_->sea().HasJoined(index_, view)) prepared = std::max(prepared, view);
  }
  return prepared;
}

void Region::Answer(pb::RegionAnswer answer) {
  const bool set_up = command_->has_set_up();
  command_.reset();
  joining_ = 0;
  answer.set_prepared_view(Prepared());
  std::vector<pb::RegionAnswer> answers(workers_, answer);
  for (int rank = 0; rank < workers_; ++rank) {
    if (set_up) answers[rank].set_gateway(absl::StrCat(name_, ":", life_ * 1000 + rank));
    if (rank == 0) continue;
    if (!answer.digest().empty()) answers[rank].set_digest(Digest{0, 0}.Hex());
    answers[rank].set_tokens(0);
    answers[rank].set_loss_sum(0);
  }
  Do([&](Agent& agent) { return agent.OnAnswers(answers, Clock()); });
}

void Region::AnswerInterrupted(const std::string& what) {
  ++command_number_;
  pb::RegionAnswer answer;
  answer.set_interrupted(true);
  answer.set_error(what);
  Later(0.02, [this, n = command_number_, answer] {
    if (n == command_number_ && command_) Answer(answer);
  });
}

void Region::Interrupt() {
  if (!command_ || interrupt_) return;
  interrupt_ = true;
  if (command_->has_reduce()) {
    world_->sea().GiveUp(index_);
    AnswerInterrupted("interrupted");
  } else if (command_->has_enter_view() || command_->has_switch_view()) {
    const pb::View& view =
        command_->has_enter_view() ? command_->enter_view().view() : command_->switch_view().view();
    if (world_->sea().HasJoined(index_, view.id()) && world_->dice().Chance(0.5)) {
      return world_->Count("an interrupt came when it was done");
    }
    AnswerInterrupted("interrupted");
  }
}

void Region::OnBroken(const std::string& by, bool gone, const std::string& what) {
  if (!command_ || !(command_->has_reduce() || joining_ > 0)) return;
  ++command_number_;
  pb::RegionAnswer answer;
  answer.set_interrupted(true);
  answer.set_gone(gone);
  answer.set_blames(by);
  answer.set_error(absl::StrCat(by, ": ", what));
  Later(0.01, [this, n = command_number_, answer] {
    if (n == command_number_ && command_) Answer(answer);
  });
}

void Region::OnSilence(const std::string& whom, double seconds) {
  Do([&](Agent& agent) { return agent.OnSilence(whom, seconds, Clock()); });
}

void Region::OnHeardAgain(const std::string& whom) {
  Do([&](Agent& agent) { return agent.OnHeardAgain(whom, Clock()); });
}

bool Region::IsMemberWithState() const {
  return agent_ != nullptr && agent_->has_state() && memory_.has_state;
}

std::string Region::Describe() const {
  if (agent_ == nullptr) return name_ + " is not running";
  return absl::StrCat(name_, ": state ", static_cast<int>(agent_->state()), ", view ",
                      agent_->view().id(), ", committed ", agent_->committed(),
                      agent_->has_state() ? "" : " without state", ", command ",
                      command_ ? command_->ShortDebugString().substr(0, 100) : "none", ", joining ",
                      joining_, IsRunning() ? "" : ", stopped");
}

}  // namespace atl::sim
