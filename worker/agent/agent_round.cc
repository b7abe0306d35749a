// A round, as the leader sees it: what is due next, and what the answers mean.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/agent/agent.h"
#include "worker/agent/answers.h"

namespace atl {

namespace {

// Of what a round took longest, to the next one.
constexpr double kForget = 0.8;
// Kept free at the end of a lease.
constexpr double kReserveSeconds = 1;
constexpr double kReserveShare = 0.05;  // of a round
constexpr double kSwitchSeconds = 5;    // to leave takes so long at least

// The view whose plan says what is trained in `round`: the one that takes over, if it has it.
const pb::View& PlanOf(const pb::View& present, const std::optional<pb::View>& next,
                       int64_t round) {
  const bool has_it = next && next->first_round() > 0 && next->first_round() <= round;
  return has_it ? *next : present;
}

}  // namespace

void Agent::Next(double now, AgentActions* actions) {
  if (busy_ || state_ == State::kOver || state_ == State::kFailed || state_ == State::kGreeting) {
    return;
  }
  if (options_.survives && ChangeView(now, actions)) return;
  if (view_.id() == 0 || (!has_state_ && !Observes())) return;
  if (has_state_ && SaveOrEvaluate(actions)) return;
  if (Finished()) {
    if (pending_saves_.empty()) return Leave(now, actions);
    state_ = State::kSaving;
    return;
  }
  if (Observes()) {
    if (Held()) {
      state_ = State::kHolding;
      return;
    }
    return RunReduction(pb::ReduceRound::OBSERVE, committed_ + 1, actions);
  }
  if (!begun_) {
    // The view that says which samples may still be on its way: a newer fence has come first.
    const pb::View& view = PlanOf(view_, next_view_, committed_ + 1);
    if (committed_ + 1 < view.first_round() || committed_ + 1 > view.last_round()) {
      state_ = State::kHolding;
      return;
    }
    BeginRound(now);
    WatchLease(now, actions);
  }
  const bool cut = leave_wanted_ && !leave_after_round_ && steps_done_ > 0;
  const bool awaited = quorum_begun_ && steps_done_ > 0 && !Held();
  const bool trained = steps_done_ >= plan_.inner_steps || offered_;
  if (!trained && !cut && !awaited) return Train(now, actions);
  if (Held()) {
    state_ = State::kHolding;
    return;
  }
  const bool late = !trained && !cut && MayBeLate();
  Reduce(late ? pb::ReduceRound::LATE : pb::ReduceRound::CONTRIBUTE, now, actions);
}

bool Agent::Finished() const {
  return stopping_ || left_round_ || (has_state_ && committed_ >= view_.last_round());
}

bool Agent::IsLastSave() const { return stopping_ || committed_ >= view_.last_round(); }

bool Agent::SaveOrEvaluate(AgentActions* actions) {
  const bool last = IsLastSave();
  const auto due = [&](int64_t every) { return every > 0 && committed_ % every == 0; };
  if (Observes()) return false;
  // A replica elsewhere is enough (checkpoint.replicas).
  if (!WritesCheckpoints(view_, job_, options_.hello.region())) saved_ = true;
  if (!saved_ && (last || due(job_.checkpoint().every()))) {
    const SamplePool pool = PoolAfterParts(view_, job_, committed_, parts_);
    pb::RegionCommand command;
    command.mutable_save()->set_round(committed_);
    command.mutable_save()->set_digest(digest_);
    command.mutable_save()->set_next_sample(pool.next());
    ToProto(pool.returned(), command.mutable_save()->mutable_returned());
    command.mutable_save()->set_wait(last);
    Run(State::kSaving, std::move(command), actions);
    return true;
  }
  const bool evaluate =
      committed_ == 0 || committed_ >= view_.last_round() || due(job_.train().evaluate_every());
  if (!evaluated_ && evaluate && !stopping_ && !left_round_) {
    pb::RegionCommand command;
    command.mutable_evaluate()->set_round(committed_);
    Run(State::kEvaluating, std::move(command), actions);
    return true;
  }
  return false;
}

void Agent::BeginRound(double now) {
  begun_ = true;
  offered_ = false;
  steps_done_ = 0;
  if (round_ == committed_ && round_began_ > 0) {
    round_seconds_ = std::max(now - round_began_, kForget * round_seconds_);
  }
  round_began_ = now;
  round_ = committed_ + 1;
  round_started_at_ = now;
  const pb::View& view = PlanOf(view_, next_view_, round_);
  plan_ = PlanRound(view, job_, MemberOf(view, options_.hello.region()), round_);
  report_.Clear();
  report_.set_round(round_);
}

// The orchestrator plans the same (orchestrator/core/leases.cc), sees more and says so, with a
// larger reserve, so that its word comes first. This is for when it is away.
void Agent::WatchLease(double now, AgentActions* actions) {
  if (!options_.survives || lease_end_ <= 0 || round_seconds_ <= 0) return;
  const double left = lease_end_ - now - options_.wall_offset - kReserveSeconds -
                      std::max(0.0, kSwitchSeconds - round_seconds_);
  if (leave_wanted_) {
    // It could not leave after the last round that fitted.
    leave_after_round_ = leave_after_round_ && left >= round_seconds_;
    return;
  }
  if (left >= (2 + kReserveShare) * round_seconds_) return;
  pb::Drain drain;
  drain.set_reason("its lease ends");
  drain.set_finish_round(left >= round_seconds_);
  OnDrain(drain, now, actions);
}

void Agent::Train(double now, AgentActions* actions) {
  train_started_at_ = now;
  pb::RegionCommand command;
  command.mutable_train()->set_round(round_);
  command.mutable_train()->set_first_step(steps_done_);
  // Who leaves does one step more at most.
  const bool leaves = leave_wanted_ && !leave_after_round_;
  command.mutable_train()->set_steps(leaves ? steps_done_ + 1 : plan_.inner_steps);
  ToProto(Prefix(plan_.samples, command.train().steps() * plan_.samples_per_step),
          command.mutable_train()->mutable_samples());
  quorum_begun_ = false;
  const bool in_view = !next_view_ && !Held() && view_.first_round() > 0;
  if (in_view && !leave_wanted_) {
    command.mutable_train()->set_quorum(Quorum());
    command.mutable_train()->set_position(position_ + 1);
  }
  Run(State::kTraining, std::move(command), actions);
}

int Agent::Quorum() const {
  const pb::SlowRegions& slow = job_.sync().slow();
  if (!options_.survives || slow.policy() != pb::SlowRegions::QUORUM) return 0;
  int full = 0;
  for (const pb::Member& member : view_.members()) full += IsFull(member) ? 1 : 0;
  const int64_t enough = slow.quorum() > 0 ? slow.quorum() : full - 1;
  return enough >= 1 && enough < full ? static_cast<int>(enough) : 0;
}

// Late once, then never again before it has contributed; and every second round has nobody late, so
// that there is an edge.
bool Agent::MayBeLate() const {
  return !carries_late_ && late_.empty() && round_ < view_.last_round() && !stop_reason_ &&
         !leave_wanted_;
}

void Agent::ForgetLateness() {
  parts_.clear();
  late_.clear();
  quorum_begun_ = keeps_training_ = false;
}

void Agent::AfterTrain(const std::vector<pb::RegionAnswer>& answers, double now,
                       AgentActions* actions) {
  for (const pb::RegionAnswer& answer : answers) {
    report_.set_loss_sum(report_.loss_sum() + answer.loss_sum());
    report_.set_tokens(report_.tokens() + answer.tokens());
  }
  report_.set_train_seconds(report_.train_seconds() + now - train_started_at_);
  report_.set_gradient_norm(answers.front().gradient_norm());
  report_.set_learning_rate(answers.front().learning_rate());
  quorum_begun_ = answers.front().quorum();
  steps_done_ = options_.survives ? answers.front().steps() : plan_.inner_steps;
  Next(now, actions);
}

void Agent::Reduce(pb::ReduceRound::Mode mode, double now, AgentActions* actions) {
  reduce_started_at_ = now;
  suspected_.clear();
  offered_ = mode == pb::ReduceRound::CONTRIBUTE;
  RunReduction(mode, round_, actions);
}

void Agent::RunReduction(pb::ReduceRound::Mode mode, int64_t round, AgentActions* actions) {
  mode_ = mode;
  pb::RegionCommand command;
  pb::ReduceRound* reduce = command.mutable_reduce();
  reduce->set_round(round);
  reduce->set_mode(mode);
  reduce->set_position(position_ + 1);
  pb::RoundNote* note = reduce->mutable_note();
  if (mode == pb::ReduceRound::CONTRIBUTE) {
    reduce->set_expected_tokens(PlannedSamples(view_, job_, round) * job_.data().sequence_length());
    note->set_tokens(report_.tokens());
    note->set_samples(steps_done_ * plan_.samples_per_step);
    note->set_leave(leave_wanted_);
  }
  note->set_late(mode == pb::ReduceRound::LATE);
  note->set_round(round);
  note->set_stop(stop_reason_.has_value());
  // An observer that does not know the view's samples could not follow the planned one.
  if (!planned_.empty() && view_.first_round() > 0 && IsPreparedFor(planned_.rbegin()->second) &&
      planned_.rbegin()->second.after() == view_.id()) {
    note->set_next_view(planned_.rbegin()->first);
  }
  Run(State::kReducing, std::move(command), actions);
}

// What all members read alike: who contributed less, who goes, whether this is the edge.
void Agent::ReadContribution(int i, const pb::RoundNote& note, bool was_late) {
  const std::string& region = view_.members(i).region();
  // An observer that does not know what was planned says of each what it was.
  const bool unknown = view_.first_round() == 0;
  // What a member was given for the round before, if it was late then.
  const int64_t given_for = round_ - (was_late ? 1 : 0);
  const bool less =
      unknown || note.late() || note.samples() < PlannedSamples(view_, job_, i, given_for);
  if (was_late) {
    for (PartOfRound& part : parts_) {
      if (part.region == region && part.round == given_for) part.samples = note.samples();
    }
    parts_.push_back({round_, region, 0});
  } else if (less) {
    parts_.push_back({round_, region, note.samples()});
  }
  if (note.late()) late_.insert(region);
  if (!less) return;
  pb::ShortContribution* one = short_.Add();
  one->set_region(region);
  one->set_samples(note.samples());
  one->set_late(note.late());
}

void Agent::ReadNotes(const std::vector<pb::RoundNote>& notes) {
  const std::set<std::string> were_late = std::exchange(late_, {});
  short_.Clear();
  leaving_.clear();
  result_tokens_ = 0;
  int64_t next = -1;
  bool all_leave = true;
  for (int i = 0; i < static_cast<int>(notes.size()); ++i) {
    const pb::RoundNote& note = notes[i];
    stopping_ = stopping_ || note.stop();
    result_tokens_ += note.tokens();
    if (!options_.survives || i >= view_.members_size()) continue;
    const pb::Member& member = view_.members(i);
    if (note.leave()) {
      leaving_.push_back(member.region());
    } else {
      next = next < 0 || next == note.next_view() ? note.next_view() : 0;
    }
    if (!IsFull(member)) continue;
    all_leave = all_leave && note.leave();
    ReadContribution(i, note, were_late.contains(member.region()));
  }
  result_expected_ = view_.first_round() > 0 && round_ >= view_.first_round()
                         ? PlannedSamples(view_, job_, round_) * job_.data().sequence_length()
                         : PlannedSamples(view_, job_, -1) * job_.data().sequence_length();
  edge_view_ = 0;
  const auto planned = planned_.find(next);
  // Who is late holds samples that the next view could not know of.
  if (planned != planned_.end() && round_ < view_.last_round() && late_.empty()) {
    edge_view_ = next;
    for (const std::string& region : leaving_) {
      if (MemberOf(planned->second, region) >= 0) edge_view_ = 0;
    }
  }
  // Unless another one has caught up by now, and goes on in the view that follows.
  if (options_.survives && !notes.empty() && all_leave && edge_view_ == 0) stopping_ = true;
}

void Agent::AfterReduce(const std::vector<pb::RegionAnswer>& answers, double now,
                        AgentActions* actions) {
  ++position_;
  quorum_begun_ = false;
  report_.set_wan_seconds(report_.wan_seconds() + now - reduce_started_at_);
  for (const pb::RegionAnswer& answer : answers) {
    report_.set_wan_bytes_sent(report_.wan_bytes_sent() + answer.wan_bytes_sent());
  }
  ReadNotes(NotesOf(answers));
  keeps_training_ = mode_ == pb::ReduceRound::LATE;
  pb::RegionCommand command;
  command.mutable_commit()->set_keep_training(keeps_training_);
  command.mutable_commit()->set_round(round_);
  command.mutable_commit()->set_tokens(result_tokens_);
  command.mutable_commit()->set_expected_tokens(result_expected_);
  Run(State::kCommitting, std::move(command), actions);
}

void Agent::ReportHeard(double now, AgentActions* actions) {
  heard_.Clear();
  heard_.set_heard(true);
  heard_.set_view(view_.id());
  heard_.set_round(committed_);
  heard_.set_digest(digest_);
  *heard_.mutable_short_contributions() = short_;
  heard_.set_next_view(edge_view_);
  for (const std::string& region : leaving_) heard_.add_leaving(region);
  pb::LeaderMessage message;
  *message.mutable_round() = heard_;
  Report(std::move(message), now, actions);
}

void Agent::AfterCommit(const std::vector<pb::RegionAnswer>& answers, double now,
                        AgentActions* actions) {
  auto digest = SumOfDigests(answers);
  if (!digest.ok())
    return Fail(std::string(digest.status().message()), ExitCode::kFailed, "", now, actions);
  digest_ = *digest;
  committed_ = round_;
  const bool keeps = std::exchange(keeps_training_, false);
  const bool had_part = report_.round() == round_ && report_.tokens() > 0 && !keeps;
  if (!had_part) {
    ReportHeard(now, actions);
  } else {
    ReportCommitted(answers, now, actions);
  }
  saved_ = evaluated_ = false;
  begun_ = carries_late_ = keeps;
  if (keeps) {
    round_ = plan_.round = committed_ + 1;
    report_.set_round(round_);
    round_started_at_ = now;
  }
  suspected_.clear();
  left_round_ =
      std::find(leaving_.begin(), leaving_.end(), options_.hello.region()) != leaving_.end();
  if (!stopping_ && !left_round_) {
    if (edge_view_ > 0) {
      TakeEdge();
    } else if (!leaving_.empty()) {
      broken_ = true;  // somebody goes, and not all were ready for the view without it
    }
  }
  Next(now, actions);
}

void Agent::ReportCommitted(const std::vector<pb::RegionAnswer>& answers, double now,
                            AgentActions* actions) {
  report_.set_view(view_.id());
  report_.set_digest(digest_);
  report_.set_seconds(now - round_started_at_);
  *report_.mutable_phases() = answers.front().phases();
  const std::vector<Range> samples = Prefix(plan_.samples, steps_done_ * plan_.samples_per_step);
  if (samples.size() == 1) {
    report_.set_first_sample(samples[0].begin);
    report_.set_end_sample(samples[0].end);
  } else {
    ToProto(samples, report_.mutable_samples());
  }
  *report_.mutable_short_contributions() = short_;
  report_.set_next_view(edge_view_);
  for (const std::string& region : leaving_) report_.add_leaving(region);
  pb::LeaderMessage message;
  *message.mutable_round() = report_;
  Report(std::move(message), now, actions);
}

void Agent::AfterEvaluate(const std::vector<pb::RegionAnswer>& answers, double now,
                          AgentActions* actions) {
  pb::LeaderMessage message;
  auto* report = message.mutable_evaluation();
  report->set_view(view_.id());
  report->set_round(committed_);
  for (const pb::RegionAnswer& answer : answers) {
    report->set_loss_sum(report->loss_sum() + answer.loss_sum());
    report->set_tokens(report->tokens() + answer.tokens());
  }
  Report(std::move(message), now, actions);
  evaluated_ = true;
  Next(now, actions);
}

void Agent::Leave(double now, AgentActions* actions) {
  if (state_ == State::kLeaving) return;
  if (Observes()) {  // the others end the job
    state_ = State::kLeaving;
    heard_at_ = now;
    return;
  }
  const bool done = has_state_ && committed_ >= view_.last_round();
  pb::LeaderMessage message;
  message.mutable_left()->set_round(committed_);
  message.mutable_left()->set_exit_code(
      static_cast<int>(done ? ExitCode::kDone : ExitCode::kStoppedCleanly));
  state_ = State::kLeaving;
  heard_at_ = left_at_ = now;
  Report(std::move(message), now, actions);
}

}  // namespace atl
