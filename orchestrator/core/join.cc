// How a job begins: hello, ready, where to resume, the view.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "orchestrator/core/core.h"
#include "proto/round_plan.h"

namespace atl {
namespace {

constexpr int kUsage = static_cast<int>(ExitCode::kUsage);
constexpr int kEnvironment = static_cast<int>(ExitCode::kEnvironment);
constexpr int kViewKeyBytes = 32;
constexpr double kWaitForOthersSeconds = 60;

// What is wrong with a Ready that no working leader would send; empty: nothing.
std::string WhatIsWrong(const pb::Ready& ready, int workers) {
  if (ready.gateways_size() != workers) {
    return absl::StrCat(ready.gateways_size(), " gateways for ", workers, " workers");
  }
  if (ready.parameters() < 1) return "a model without parameters";
  if (ready.dataset_samples() < 1) return "a dataset without samples";
  return "";
}

}  // namespace

std::optional<std::pair<std::string, int>> Core::WhyRefuse(const std::string& region,
                                                           const pb::Hello& hello) const {
  const auto refuse = [](const std::string& why, int code) { return std::pair(why, code); };
  if (hello.protocol() != options_.protocol) {
    return refuse(absl::StrCat("the orchestrator speaks control protocol ", options_.protocol,
                               ", this worker (version ", hello.version(), ") ", hello.protocol(),
                               ": run the same version of atoll everywhere"),
                  kEnvironment);
  }
  if (hello.region() != region) {
    return refuse(
        absl::StrCat("the lease is of region ", region, ", but the worker was started as ",
                     hello.region(), ": give it that region's lease, or --region=", region),
        kUsage);
  }
  const auto found = regions_.find(region);
  if (found == regions_.end()) {
    return refuse(absl::StrCat("region ", region, " is not part of job ", options_.job.name(),
                               " (its regions: ", JoinNames(order_), ")"),
                  kUsage);
  }
  if (hello.attempt().empty() || hello.workers() < 1) {
    return refuse("a hello without attempt or workers", kUsage);
  }
  const RegionEntry& entry = found->second;
  if (hello.attempt() == entry.attempt() && entry.IsLive()) return std::nullopt;
  if (state_ == JobState::kWaiting || elastic_) return std::nullopt;
  return refuse(
      absl::StrCat("region ", region, " already runs in this job (host ", entry.hello().host(),
                   ", pid ", entry.hello().pid(), ", ", RegionStateName(entry.state()),
                   "): a second start of it cannot enter; stop the job and start it again"),
      kEnvironment);
}

void Core::OnHello(const std::string& region, const pb::Hello& hello) {
  if (IsEnd(state_)) return SendEnded(region);
  if (const auto refusal = WhyRefuse(region, hello)) {
    Event("region_refused", region, -1,
          absl::StrCat("region ", region, " refused: ", refusal->first),
          {{"host", hello.host()}, {"pid", hello.pid()}});
    pb::OrchestratorMessage message;
    message.mutable_refused()->set_reason(refusal->first);
    message.mutable_refused()->set_exit_code(refusal->second);
    return Send(region, std::move(message));
  }
  RegionEntry& entry = regions_.at(region);
  if (entry.attempt() == hello.attempt() && !entry.left) {
    // It lost its connection, or our answer.
    entry.Heard(now_);
    Revive(entry);
    Greet(entry);
    if (entry.IsMember() && MemberOf(view_, region) >= 0) {
      Send(region, ViewFor(entry));
      if (!stop_reason_.empty()) {
        pb::OrchestratorMessage stop;
        stop.mutable_stop()->set_reason(stop_reason_);
        Send(region, std::move(stop));
      }
    }
    return;
  }
  if (entry.IsLive()) {
    Event("region_replaced", region, -1,
          absl::StrCat("region ", region, " was started again; the start before (host ",
                       entry.hello().host(), ", pid ", entry.hello().pid(), ") no longer counts"));
  }
  if (elastic_ && entry.IsMember()) {
    LeaveOut(region, RegionState::kAbsent, "it was started again");
  }
  const bool took_fewer = entry.inner_steps > 0;
  entry.Begin(hello, now_);
  if (took_fewer) RecordMembership();
  entry.TakeLease();
  silence_at_ = 0;
  RecordRegion(entry);
  Event("region_hello", region, -1,
        absl::StrCat("region ", region, " is there: ", hello.workers(), " workers, leader on ",
                     hello.host()),
        {{"workers", int64_t{hello.workers()}},
         {"host", hello.host()},
         {"pid", hello.pid()},
         {"version", hello.version()}});
  Greet(entry);
}

void Core::Revive(RegionEntry& entry) {
  if (entry.state() == RegionState::kAbsent) {
    silence_at_ = 0;
    stirred_ = true;
  }
  if (elastic_ && !IsEnd(state_)) {
    if (entry.state() != RegionState::kAbsent || entry.left) return;
    entry.Enter(RegionState::kJoining, "is heard of again", now_);
    RecordRegion(entry);
    return SendDropped(entry, "it was given up because it was silent");
  }
  if (state_ != JobState::kWaiting || entry.state() != RegionState::kAbsent || entry.left) return;
  entry.Enter(RegionState::kJoining, "loads the job", now_);
  RecordRegion(entry);
  Event("region_hello", entry.name(), -1,
        absl::StrCat("region ", entry.name(), " is heard of again"));
  if (entry.ready) OnReady(entry, pb::Ready(*entry.ready));
}

void Core::Greet(const RegionEntry& entry) {
  pb::OrchestratorMessage message;
  *message.mutable_welcome()->mutable_job() = options_.job;
  message.mutable_welcome()->set_heartbeat_seconds(options_.heartbeat_seconds);
  Send(entry.name(), std::move(message));
}

void Core::OnReady(RegionEntry& entry, const pb::Ready& ready) {
  if (!entry.IsLive()) return;
  const std::string wrong = WhatIsWrong(ready, entry.hello().workers());
  if (!wrong.empty()) {
    return Fail(absl::StrCat("region ", entry.name(), " says that it is ready with ", wrong), 1,
                entry.name(), -1);
  }
  if (entry.IsMember()) {
    if (!ready.failed_checkpoint().empty()) {
      OnCheckpointFailure(entry, ready);
    } else if (ready.floor() >= view_.id() ||
               (entry.state() == RegionState::kObserving && !entry.caught_up)) {
      LeaveOut(entry.name(), RegionState::kJoining, "it has lost its place in the view");
    }
    return;
  }
  if (elastic_ && state_ != JobState::kWaiting) {
    const Status agrees = AgreesWithJob(ready);
    if (!agrees.ok()) return Refuse(entry, std::string(agrees.message()));
  }
  const bool is_new = entry.state() == RegionState::kJoining;
  entry.ready = ready;
  entry.checkpoint_failure = ready.failure();
  if (!ready.failed_checkpoint().empty()) {
    entry.unusable_checkpoints.insert(ready.failed_checkpoint());
  }
  if (is_new) entry.Enter(RegionState::kReady, "waits for the other regions", now_);
  RecordRegion(entry, true);
  if (is_new) {
    Event("region_ready", entry.name(), -1,
          absl::StrCat("region ", entry.name(), " is ready: ", entry.hello().workers(), " x ",
                       ready.accelerator(), ", ", ready.checkpoints_size(), " checkpoints"),
          {{"accelerator", ready.accelerator()},
           {"parameters", ready.parameters()},
           {"checkpoints", int64_t{ready.checkpoints_size()}}});
  }
  BeginIfReady();
}

void Core::BeginIfReady() {
  if (state_ != JobState::kWaiting || !AllReady() || !RegionsAgree()) return;
  elastic_ = AllSurvive();
  if (ChooseResume()) MakeView();
}

bool Core::AllSurvive() const {
  for (const std::string& name : ReadyRegions()) {
    if (!regions_.at(name).ready->survives()) return false;
  }
  return true;
}

Status Core::AgreesWithJob(const pb::Ready& ready) const {
  const auto differs = [](const std::string& what) {
    return absl::InvalidArgumentError(
        absl::StrCat("it differs from the job in ", what,
                     ": every region needs the same job, token file and version"));
  };
  if (!ready.survives()) return differs("whether its workers survive changes of the view");
  if (ready.parameters() != job_.parameters) return differs("the number of model parameters");
  if (ready.dataset_samples() != job_.dataset_samples) return differs("the training samples");
  if (ready.dataset_fingerprint() != job_.dataset_fingerprint) {
    return differs("the dataset's fingerprint");
  }
  return OkStatus();
}

void Core::Refuse(RegionEntry& entry, const std::string& why) {
  entry.Enter(RegionState::kFailed, why, now_);
  RecordRegion(entry);
  Event("region_refused", entry.name(), -1,
        absl::StrCat("region ", entry.name(), " refused: ", why));
  pb::OrchestratorMessage message;
  message.mutable_refused()->set_reason(why);
  message.mutable_refused()->set_exit_code(kUsage);
  Send(entry.name(), std::move(message));
}

void Core::OnCheckpointFailure(RegionEntry& entry, const pb::Ready& ready) {
  entry.unusable_checkpoints.insert(ready.failed_checkpoint());
  entry.checkpoint_failure = ready.failure();
  Event("checkpoint_unusable", entry.name(), -1,
        absl::StrCat("region ", entry.name(), " cannot load ", ready.failed_checkpoint(), ": ",
                     ready.failure()),
        {{"path", ready.failed_checkpoint()}});
  if (elastic_) {
    return LeaveOut(entry.name(), RegionState::kJoining,
                    absl::StrCat("it cannot load ", ready.failed_checkpoint()));
  }
  if (state_ != JobState::kStarting || !resume_ ||
      resume_->checkpoints.at(entry.name()).path() != ready.failed_checkpoint()) {
    return;  // of a view that is no more
  }
  if (options_.job.resume() != "auto") {
    return Fail(
        absl::StrCat("region ", entry.name(), " cannot load the checkpoint that --resume names (",
                     ready.failed_checkpoint(), "): ", ready.failure()),
        kUsage, entry.name(), -1);
  }
  if (ChooseResume()) MakeView();
}

std::vector<std::string> Core::ReadyRegions() const {
  std::vector<std::string> ready;
  for (const std::string& name : order_) {
    const RegionEntry& entry = regions_.at(name);
    const bool again = state_ == JobState::kStarting && entry.state() == RegionState::kTraining;
    if (entry.state() == RegionState::kReady || again) ready.push_back(name);
  }
  return ready;
}

bool Core::AllReady() const {
  const size_t ready = ReadyRegions().size();
  size_t expected = 0;
  for (const auto& [name, entry] : regions_) expected += IsExpected(entry) ? 1 : 0;
  if (ready > 0 && ready == expected) return true;
  bool loading = false;
  for (const auto& [name, entry] : regions_) loading |= entry.state() == RegionState::kJoining;
  if (options_.least_regions > 0 && !loading &&
      ready >= static_cast<size_t>(options_.least_regions) && waiting_since_ == 0) {
    return true;
  }
  // After a loss of all members: if the others stay away, who is back goes on, provided that the
  // newest checkpoint is.
  if (waiting_since_ == 0 || loading || now_ < waiting_since_ + kWaitForOthersSeconds) return false;
  for (const std::string& name : ReadyRegions()) {
    for (const pb::CheckpointOnDisk& checkpoint : regions_.at(name).ready->checkpoints()) {
      if (checkpoint.round() >= newest_saved_ && !IsContradicted(checkpoint)) return true;
    }
  }
  return ready > 0 && newest_saved_ == 0;
}

bool Core::RegionsAgree() {
  const auto check = [&](const std::string& what, auto value_of) {
    std::map<std::string, std::string> values;
    std::vector<std::string> listed;
    for (const std::string& name : ReadyRegions()) {
      values[name] = absl::StrCat(value_of(*regions_.at(name).ready));
      listed.push_back(absl::StrCat(name, " ", values[name]));
    }
    const std::vector<std::string> differ = Minority(values);
    if (differ.empty()) return true;
    Fail(absl::StrCat("regions disagree in ", what, " (", absl::StrJoin(listed, ", "),
                      "); look at ", JoinNames(differ),
                      ": every region needs the same job, token file and version"),
         kUsage, differ.size() == 1 ? differ[0] : "", -1);
    return false;
  };
  if (!check("the number of model parameters", [](const pb::Ready& r) { return r.parameters(); }) ||
      !check("the number of training samples",
             [](const pb::Ready& r) { return r.dataset_samples(); }) ||
      !check("the dataset's fingerprint",
             [](const pb::Ready& r) { return r.dataset_fingerprint(); })) {
    return false;
  }
  const pb::Ready& any = *regions_.at(ReadyRegions()[0]).ready;
  job_.parameters = any.parameters();
  job_.dataset_samples = any.dataset_samples();
  job_.dataset_fingerprint = any.dataset_fingerprint();
  return true;
}

void Core::AddMember(pb::View* view, const std::string& region, bool full) const {
  const RegionEntry& entry = regions_.at(region);
  pb::Member* member = view->add_members();
  member->set_region(region);
  member->set_workers(entry.hello().workers());
  member->set_role(full ? pb::Member::FULL : pb::Member::OBSERVER);
  if (full) member->set_inner_steps(entry.inner_steps);
}

Status Core::GiveShares(pb::View* view) const {
  std::vector<int> workers;
  for (const pb::Member& member : view->members()) {
    if (IsFull(member)) workers.push_back(member.workers());
  }
  ASSIGN_OR_RETURN(const std::vector<int64_t> shares,
                   Shares(options_.job.train().global_batch(), workers));
  size_t next = 0;
  for (pb::Member& member : *view->mutable_members()) {
    if (IsFull(member)) member.set_samples_per_step(shares[next++]);
    const pb::Ready& ready = *regions_.at(member.region()).ready;
    for (int lane = 0; lane < view->lanes(); ++lane) {
      member.add_gateways(ready.gateways(WorkerOfLane(lane, view->lanes(), member.workers())));
    }
  }
  return OkStatus();
}

void Core::MakeView() {
  const std::vector<std::string> ready = ReadyRegions();
  if (ledger_) ReturnSamplesFrom(ledger_->next_round());
  int most_workers = 1;
  view_.Clear();
  for (const std::string& name : ready) {
    if (resume_ && !resume_->checkpoints.contains(name)) continue;
    AddMember(&view_, name, true);
    most_workers = std::max(most_workers, regions_.at(name).hello().workers());
  }
  const int64_t lanes = options_.job.sync().lanes();
  view_.set_lanes(lanes > 0 ? static_cast<int>(lanes) : most_workers);
  const Status shared = GiveShares(&view_);
  if (!shared.ok()) return Fail(std::string(shared.message()), kUsage, "", -1);
  view_.set_id(++last_view_);
  view_.set_key(options_.random_bytes(kViewKeyBytes));
  view_.set_restart(elastic_);
  view_.set_last_round(options_.job.train().rounds());
  view_.set_first_round(resume_ ? resume_->round + 1 : 1);
  view_.set_first_sample(resume_ ? resume_->next_sample : 0);
  if (resume_) ToProto(resume_->returned, view_.mutable_returned());
  view_.set_inner_steps_done(resume_ ? resume_->inner_steps : 0);
  // Round 0 is a start made of weights alone: the outer state that follows depends on the method.
  if (resume_ && resume_->round > 0) view_.set_digest(resume_->digest);
  const Status checked = CheckView(view_, options_.job);
  if (!checked.ok()) return Fail(std::string(checked.message()), kUsage, "", -1);
  AnnounceView();
}

void Core::BeginLedger(const SamplePool& pool, int64_t round) {
  ledger_.emplace(pool, round);
  committed_samples_ = pool.next() - pool.returned_size();
  reports_.clear();
  facts_.clear();
  evaluations_.clear();
  full_of_.clear();
  checkpoints_.clear();
  planned_.clear();
  newest_saved_ = std::min(newest_saved_, round - 1);
  digests_.erase(digests_.lower_bound(round), digests_.end());
  if (!view_.digest().empty()) digests_[round - 1] = view_.digest();
}

pb::OrchestratorMessage Core::ViewFor(const RegionEntry& entry) const {
  pb::OrchestratorMessage message;
  *message.mutable_view() = view_;
  const auto copy = resume_ ? resume_->checkpoints.find(entry.name())
                            : std::map<std::string, pb::CheckpointOnDisk>::iterator();
  if (resume_ && view_.first_round() == resume_->round + 1 && copy != resume_->checkpoints.end()) {
    const pb::CheckpointOnDisk& checkpoint = copy->second;
    message.mutable_view()->set_checkpoint(checkpoint.path());
    message.mutable_view()->set_checkpoint_own(checkpoint.own());
  }
  return message;
}

void Core::AnnounceView() {
  NoteResume();
  if (job_.first_view == 0) job_.first_view = now_;
  EnterState(JobState::kStarting);
  const int64_t before = view_.first_round() - 1;
  actions_.records.push_back(SupersedeRecord{before, view_.digest()});
  if (options_.history.last_round > before) {
    Event("rounds_superseded", "", before,
          absl::StrCat("rounds ", before + 1, " to ", options_.history.last_round,
                       " of the run before are trained again"));
  }
  ViewRecord record{view_, {}, now_};
  if (resume_) {
    for (const auto& [name, checkpoint] : resume_->checkpoints) {
      record.checkpoints[name] = checkpoint.path();
    }
  }
  actions_.records.push_back(std::move(record));
  waiting_since_ = 0;
  absolute_ = view_.id();
  BeginLedger(SamplePool(FromProto(view_.returned()), view_.first_sample()), view_.first_round());
  CountStart();
  RecordMembership();
  // What an earlier run kept of a membership that changed holds no longer.
  if (!elastic_ && options_.history.membership) actions_.records.push_back(MembershipRecord());
  AssignThrough(view_.first_round());
  std::vector<std::string> shares;
  for (const pb::Member& member : view_.members()) {
    shares.push_back(absl::StrCat(member.region(), " ", member.samples_per_step()));
  }
  Event("view", "", view_.first_round(),
        absl::StrCat("view ", view_.id(), ": rounds ", view_.first_round(), " to ",
                     view_.last_round(), ", ", view_.lanes(),
                     " lanes, samples a step: ", absl::StrJoin(shares, ", ")),
        {{"view", view_.id()}, {"lanes", int64_t{view_.lanes()}}});
  for (const pb::Member& member : view_.members()) {
    RegionEntry& entry = regions_.at(member.region());
    if (entry.state() == RegionState::kReady) {
      entry.Enter(RegionState::kTraining, "", now_);
      RecordRegion(entry);
    }
    Send(entry.name(), ViewFor(entry));
  }
}

}  // namespace atl
