#include "tools/sim/region.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "base/random.h"
#include "tools/sim/keeper.h"
#include "tools/sim/world.h"

namespace atl::sim {
namespace {

uint64_t Mix(uint64_t one, uint64_t other) {
  return Mix64(one * 0x9E3779B97F4A7C15ull ^ Mix64(other));
}

uint64_t Bits(const std::string& digest) {
  const auto parsed = Digest::FromHex(digest);
  return parsed.ok() ? parsed->low : 0;
}

std::string DigestOf(uint64_t bits) { return Digest{bits, 1}.Hex(); }

uint64_t BitsOf(const std::vector<Range>& samples) {
  uint64_t bits = 0;
  for (const Range& range : samples) {
    for (int64_t at = range.begin; at < range.end; ++at) bits += Mix64(static_cast<uint64_t>(at));
  }
  return bits;
}

}  // namespace

std::string SeedDigest() { return DigestOf(0x5EED); }
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

template <typename Step>
void Region::Do(Step step) {
  if (agent_ == nullptr) return;
  Apply(step(*agent_));
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

void Region::RunSetUp() {
  Later(world_->dice().Uniform(0.2, 3), [this, n = command_number_] {
    if (n != command_number_) return;
    pb::RegionAnswer answer;
    answer.set_parameters(1000);
    answer.set_dataset_samples(1000000);
    answer.set_dataset_fingerprint(7);
    for (const pb::CheckpointOnDisk& checkpoint : disk_) *answer.add_checkpoints() = checkpoint;
    Answer(answer);
  });
}

void Region::RunEnter(const pb::View& view) {
  Later(world_->dice().Uniform(0.1, 1), [this, n = command_number_, view] {
    if (n != command_number_) return;
    pb::RegionAnswer answer;
    Memory fresh;
    fresh.has_state = true;
    fresh.round = view.first_round() - 1;
    fresh.view = view.id();
    if (view.checkpoint().empty()) {
      fresh.digest = SeedDigest();
    } else if (view.checkpoint() == kMemoryCheckpoint) {
      world_->Count("went on from memory");
      fresh.digest = memory_.has_state ? memory_.digest : stale_.second;
    } else {
      for (const pb::CheckpointOnDisk& checkpoint : disk_) {
        if (checkpoint.path() == view.checkpoint()) fresh.digest = checkpoint.digest();
      }
      world_->Count("loaded a checkpoint");
    }
    if (fresh.digest.empty()) {
      answer.set_checkpoint_unusable(true);
      answer.set_error("it is not there");
      return Answer(answer);
    }
    memory_ = fresh;
    answer.set_digest(fresh.digest);
    world_->sea().BeginJoin(index_, view);
    AwaitJoined(view.id(), [this, answer] { Answer(answer); });
  });
}

void Region::AwaitJoined(int64_t view, std::function<void()> then) {
  joining_ = view;
  if (world_->sea().HasJoined(index_, view)) {
    joining_ = 0;
    return Later(0.1, [n = command_number_, this, then = std::move(then)] {
      if (n == command_number_) then();
    });
  }
  Later(0.1, [this, n = command_number_, view, then = std::move(then)] {
    if (n == command_number_) AwaitJoined(view, then);
  });
}

void Region::RunSwitch(const pb::SwitchView& command) {
  const pb::View view = command.view();
  world_->sea().BeginJoin(index_, view);
  AwaitJoined(view.id(), [this, view, fetch = command.fetch()] {
    if (fetch && memory_.has_state) {
      stale_ = {memory_.round, memory_.digest};
      memory_.has_state = false;
      memory_.carries = false;
    }
    memory_.view = view.id();
    bool observers = false;
    for (const pb::Member& member : view.members()) {
      observers |= !IsFull(member);
      if (member.region() == name_) memory_.observes = !IsFull(member);
    }
    // A copy of the state before the first round; made now, or when that state has been taken.
    memory_.served.reset();
    memory_.serves_round = observers && !memory_.observes ? view.first_round() - 1 : -1;
    if (memory_.has_state && memory_.round == memory_.serves_round) {
      memory_.served = {memory_.round, memory_.digest};
    }
    if (fetch) {
      memory_.heard.clear();
      memory_.fetched.reset();
      BeginFetch();
    }
    Answer({});
  });
}

// From whoever serves; a part at a time is not modelled, its time is.
void Region::BeginFetch() {
  const int64_t number = ++fetch_number_;
  const double seconds = world_->dice().Uniform(0.5, 4) *
                         (world_->settings().step_seconds + world_->settings().reduce_seconds);
  Later(seconds, [this, number] {
    if (number != fetch_number_ || memory_.has_state || !memory_.observes) return;
    EndFetch();
    if (!memory_.fetched)
      Later(0.5, [this, number] {
        if (number == fetch_number_) BeginFetch();
      });
  });
}

void Region::EndFetch() {
  for (int other = 0; other < world_->regions(); ++other) {
    const Region& source = world_->region(other);
    if (other == index_ || !source.alive() || !world_->sea().Reaches(index_, other)) continue;
    if (source.memory_.view != memory_.view || !source.memory_.served) continue;
    memory_.fetched = source.memory_.served;
    return;
  }
}

void Region::RunTrain(const pb::TrainRound& command) {
  if (command.first_step() == 0) {
    if (memory_.training == command.round() && memory_.trained_on == memory_.digest &&
        !memory_.trained.empty()) {
      world_->promises().Break("P4", absl::StrCat(name_, " trains round ", command.round(),
                                                  " again, though it holds what it trained"));
    }
    if (memory_.training == command.round() && memory_.carries) {
      world_->promises().Break("P4", absl::StrCat(name_, " forgets what it holds for round ",
                                                  command.round(), " though it was late"));
    }
    memory_.training = command.round();
    memory_.trained.clear();
    memory_.trained_on = memory_.digest;
    memory_.carries = false;
  }
  if (memory_.carries) world_->Count("a late region trained on");
  if (!memory_.has_state || memory_.training != command.round() ||
      command.round() != memory_.round + 1) {
    world_->promises().Break("model", absl::StrCat(name_, " is to train round ", command.round(),
                                                   " at round ", memory_.round));
  }
  StepDone(command.first_step() - 1);
}

void Region::StepDone(int64_t step) {
  const pb::TrainRound& train = command_->train();
  const std::vector<Range> samples = FromProto(train.samples());
  const int64_t per_step = SizeOf(samples) / train.steps();
  if (step >= train.first_step()) {
    for (const Range& range : Prefix(Suffix(samples, step * per_step), per_step)) {
      memory_.trained.push_back(range);
    }
  }
  const int64_t done = step + 1;
  const bool more = done < train.steps() && done > train.first_step();
  const bool quorum = more && train.quorum() > 0 &&
                      world_->sea().Begun(memory_.view, train.position()) >= train.quorum();
  const bool enough = done >= train.steps() || (more && (interrupt_ || quorum));
  if (!enough) {
    return Later(world_->settings().step_seconds * slow_ * world_->dice().Uniform(0.9, 1.2),
                 [this, n = command_number_, done] {
                   if (n == command_number_) StepDone(done);
                 });
  }
  pb::RegionAnswer answer;
  answer.set_steps(done);
  answer.set_quorum(quorum);
  answer.set_tokens((done - train.first_step()) * per_step *
                    world_->job().data().sequence_length());
  answer.set_loss_sum(2.0 * static_cast<double>(answer.tokens()));
  Answer(answer);
}

void Region::RunReduce(const pb::ReduceRound& command) {
  Contribution contribution;
  if (command.mode() == pb::ReduceRound::CONTRIBUTE) {
    const std::string& on = memory_.carries ? memory_.before : memory_.digest;
    if (memory_.training != command.round() || memory_.trained_on != on ||
        SizeOf(memory_.trained) != command.note().samples()) {
      world_->promises().Break(
          "P4", absl::StrCat(name_, " is to contribute ", command.note().samples(),
                             " samples to round ", command.round(), ", but holds ",
                             SizeOf(memory_.trained), " of round ", memory_.training));
    }
    contribution.bits = Mix(Bits(memory_.trained_on), BitsOf(memory_.trained));
    contribution.tokens = command.note().tokens();
    contribution.samples = memory_.trained;
    if (memory_.carries) CountCarried(command);
  }
  if (command.mode() == pb::ReduceRound::LATE &&
      (memory_.training != command.round() || memory_.trained.empty() || memory_.carries)) {
    world_->promises().Break("P4", absl::StrCat(name_, " is late in round ", command.round(),
                                                " with nothing, or for the second time"));
  }
  last_reduction_late_ = command.mode() == pb::ReduceRound::LATE;
  if (command.mode() == pb::ReduceRound::GIVE &&
      (memory_.kept == nullptr || memory_.kept->round != command.round())) {
    world_->promises().Break("P4", absl::StrCat(name_, " is to give the result of round ",
                                                command.round(), ", but does not hold it"));
    return;
  }
  world_->sea().Begin(index_, memory_.view, command, contribution, memory_.kept);
}

void Region::OnReduced(ResultPtr result, const std::vector<pb::RoundNote>& notes) {
  if (!command_ || !command_->has_reduce()) return;
  const pb::ReduceRound::Mode mode = command_->reduce().mode();
  if (mode != pb::ReduceRound::GIVE && mode != pb::ReduceRound::PASS) {
    memory_.pending = std::move(result);
    memory_.kept.reset();  // all have committed the round before
  }
  pb::RegionAnswer answer;
  for (const pb::RoundNote& note : notes) *answer.add_notes() = note;
  answer.set_wan_bytes_sent(100);
  Later(0.005, [this, n = command_number_, answer] {
    if (n == command_number_ && command_) Answer(answer);
  });
}

void Region::CountCarried(const pb::ReduceRound& command) {
  if (memory_.carried_in != memory_.view) world_->Count("a late contribution survived a fence");
  const pb::View& view = agent_->view();
  const int self = MemberOf(view, name_);
  if (command.note().samples() < PlannedSamples(view, world_->job(), self, command.round())) {
    world_->Count("a late contribution was short");
  }
}

bool Region::ApplyResult(const Result& result) {
  if (result.round != memory_.round + 1) {
    world_->promises().Break("model", absl::StrCat(name_, " at round ", memory_.round,
                                                   " applies the result of round ", result.round));
    return false;
  }
  const std::string parent = memory_.digest;
  memory_.before = parent;
  uint64_t bits = Mix(Bits(parent), result.sum);
  bits = Mix(bits, static_cast<uint64_t>(result.tokens) * 1000003 +
                       static_cast<uint64_t>(result.expected_tokens));
  if (damage_) {
    damage_ = false;
    memory_.damaged = true;
    world_->Say(absl::StrCat(name_, "'s state is damaged"));
    bits ^= Mix(static_cast<uint64_t>(index_) + 1, bits);  // of each region differently
  }
  memory_.digest = DigestOf(bits);
  memory_.round = result.round;
  world_->promises().NoteState(memory_.digest, {parent, result.round, result.samples});
  return true;
}

void Region::RunCommit(const pb::CommitRound& command) {
  // Short mostly; but a fence may come while the outer step is under way.
  const double seconds =
      world_->dice().Chance(0.2) ? world_->dice().Uniform(0.02, 1) * slow_ : 0.02;
  Later(seconds, [this, n = command_number_, command] {
    if (n != command_number_) return;
    const ResultPtr result = memory_.pending;
    memory_.pending.reset();
    if (result == nullptr || result->round != command.round() ||
        result->tokens != command.tokens() ||
        result->expected_tokens != command.expected_tokens()) {
      return world_->promises().Break(
          "model",
          absl::StrCat(name_, " is to commit round ", command.round(), " of ", command.tokens(),
                       " tokens of ", command.expected_tokens(), ", but holds ",
                       result ? result->round : -1, ", ", result ? result->tokens : 0, ", ",
                       result ? result->expected_tokens : 0));
    }
    memory_.kept = result;
    pb::RegionAnswer answer;
    if (!memory_.has_state) {
      memory_.heard.push_back(result);
      if (memory_.fetched && memory_.fetched->first + 1 <= memory_.heard.front()->round) {
        memory_.has_state = true;
        memory_.damaged = false;
        memory_.round = memory_.fetched->first;
        memory_.digest = memory_.fetched->second;
        for (const ResultPtr& one : memory_.heard) {
          if (!ApplyResult(*one)) return;
        }
        memory_.heard.clear();
        world_->Count("caught up");
      }
    } else {
      if (!ApplyResult(*result)) return;
      memory_.carries = command.keep_training();
      if (command.keep_training()) {
        if (memory_.training != memory_.round) {
          world_->promises().Break(
              "model", absl::StrCat(name_, " keeps what it trained for round ", memory_.training,
                                    " past round ", memory_.round));
        }
        if (!last_reduction_late_) world_->Count("late, then taken");
        memory_.training = memory_.round + 1;
        memory_.carried_in = memory_.view;
      }
      if (memory_.round == memory_.serves_round) memory_.served = {memory_.round, memory_.digest};
    }
    answer.set_state_round(memory_.has_state ? memory_.round : 0);
    answer.set_digest(memory_.has_state ? memory_.digest : Digest{0, 0}.Hex());
    Answer(answer);
    world_->CheckMembers(index_);
  });
}

// The copy takes a moment, the disk its time behind the next rounds; who saves oftener than the
// disk can take skips.
void Region::RunSave(const pb::SaveCheckpoint& command) {
  Later(0.05 * slow_, [this, n = command_number_, command] {
    if (n != command_number_) return;
    if (command.round() != memory_.round || command.digest() != memory_.digest) {
      world_->promises().Break("model", absl::StrCat(name_, " saves round ", command.round(),
                                                     " but holds ", memory_.round));
    }
    pb::RegionAnswer answer;
    if (!command.wait() && unwritten_.size() >= 2) {
      world_->Count("save skipped");
      answer.set_skipped(true);
      return Answer(answer);
    }
    pb::CheckpointOnDisk checkpoint;
    checkpoint.set_round(command.round());
    checkpoint.set_digest(memory_.digest);
    checkpoint.set_path(absl::StrCat("/", name_, "/", command.round(), "/", memory_.digest));
    checkpoint.set_own(true);
    checkpoint.set_next_sample(command.next_sample());
    *checkpoint.mutable_returned() = command.returned();
    checkpoint.set_inner_steps(command.round() * world_->job().train().inner_steps());
    unwritten_.push_back(checkpoint);
    if (command.wait()) return AwaitWritten(n);
    Later(world_->dice().Uniform(0.2, 4) * slow_, [this] {
      const pb::CheckpointOnDisk written = Write();
      pb::SaveEnded ended;
      ended.set_round(written.round());
      ended.set_path(written.path());
      ended.set_bytes(1000);
      Do([&](Agent& agent) { return agent.OnSaved(ended, Clock()); });
    });
    answer.set_pending(true);
    Answer(answer);
  });
}

void Region::AwaitWritten(int64_t command_number) {
  Later(0.3 * slow_, [this, command_number] {
    if (command_number != command_number_) return;
    if (unwritten_.size() > 1) return AwaitWritten(command_number);
    pb::RegionAnswer answer;
    answer.set_path(Write().path());
    answer.set_bytes(1000);
    Answer(answer);
  });
}

// The oldest save reaches the disk.
pb::CheckpointOnDisk Region::Write() {
  pb::CheckpointOnDisk written = unwritten_.front();
  unwritten_.pop_front();
  disk_.push_back(written);
  if (disk_.size() > 3) disk_.erase(disk_.begin());
  return written;
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
