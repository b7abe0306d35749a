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
  if (state_ == JobState::kWaiting) return std::nullopt;
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
    if (entry.state() == RegionState::kTraining) {
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
  entry.Begin(hello, now_);
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
  if (entry.state() == RegionState::kTraining) {
    if (!ready.failed_checkpoint().empty()) OnCheckpointFailure(entry, ready);
    return;
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
  if (!AllReady() || !RegionsAgree() || !ChooseResume()) return;
  MakeView();
}

void Core::OnCheckpointFailure(RegionEntry& entry, const pb::Ready& ready) {
  entry.unusable_checkpoints.insert(ready.failed_checkpoint());
  entry.checkpoint_failure = ready.failure();
  Event("checkpoint_unusable", entry.name(), -1,
        absl::StrCat("region ", entry.name(), " cannot load ", ready.failed_checkpoint(), ": ",
                     ready.failure()),
        {{"path", ready.failed_checkpoint()}});
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

bool Core::AllReady() const {
  for (const auto& [name, entry] : regions_) {
    if (entry.state() != RegionState::kReady) return false;
  }
  return true;
}

bool Core::RegionsAgree() {
  const auto check = [&](const std::string& what, auto value_of) {
    std::map<std::string, std::string> values;
    std::vector<std::string> listed;
    for (const std::string& name : order_) {
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
  const pb::Ready& any = *regions_.at(order_[0]).ready;
  job_.parameters = any.parameters();
  job_.dataset_samples = any.dataset_samples();
  job_.dataset_fingerprint = any.dataset_fingerprint();
  return true;
}

bool Core::ChooseResume() {
  resume_.reset();
  std::map<std::string, RegionCheckpoints> listed;
  for (const auto& [name, entry] : regions_) {
    RegionCheckpoints& region = listed[name];
    region.listed.assign(entry.ready->checkpoints().begin(), entry.ready->checkpoints().end());
    region.unusable = entry.unusable_checkpoints;
  }
  const std::string& resume = options_.job.resume();
  if (resume == "never") {
    if (AnyCheckpoint(listed)) {
      Event(
          "checkpoints_ignored", "", -1,
          "there are checkpoints, but the job starts from its seed, because it says resume: never");
    }
    return true;
  }
  resume_ = ChooseResumePoint(listed);
  if (!resume_) return HandleNoResumePoint(listed);
  Event("resume", "", resume_->round,
        absl::StrCat("the job goes on from round ", resume_->round,
                     ", the newest checkpoint that every region has"),
        {{"digest", resume_->digest}, {"next_sample", resume_->next_sample}});
  for (const auto& [name, checkpoint] : resume_->checkpoints) {
    if (checkpoint.own()) continue;
    Event("resume", name, resume_->round,
          absl::StrCat("region ", name, " loads ", checkpoint.path(),
                       ", which another region wrote: its inner optimizer starts afresh"),
          {{"path", checkpoint.path()}});
  }
  if (resume_->round < options_.job.train().rounds()) return true;
  NoteResume();
  actions_.records.push_back(SupersedeRecord{resume_->round, resume_->digest});
  End(JobState::kDone,
      absl::StrCat("nothing to do: the checkpoint of round ", resume_->round,
                   " is there and train.rounds is ", options_.job.train().rounds()),
      0);
  return false;
}

bool Core::HandleNoResumePoint(const std::map<std::string, RegionCheckpoints>& listed) {
  std::string failures;
  for (const std::string& name : order_) {
    const std::string& failure = regions_.at(name).checkpoint_failure;
    if (!failure.empty()) absl::StrAppend(&failures, "; region ", name, ": ", failure);
  }
  if (options_.job.resume() != "auto") {
    Fail(absl::StrCat("cannot resume from ", options_.job.resume(),
                      ": no checkpoint there that every region can load (",
                      ExplainNoCommonCheckpoint(listed), ")", failures),
         kUsage, "", -1);
    return false;
  }
  if (!AnyCheckpoint(listed)) {
    Event("resume", "", 0, "no checkpoints: the job starts from its seed");
    return true;
  }
  Fail(absl::StrCat("no checkpoint that every region has (", ExplainNoCommonCheckpoint(listed), ")",
                    failures,
                    "; copy one of these checkpoints to the regions that lack it, or start afresh "
                    "with --resume=never"),
       kUsage, "", -1);
  return false;
}

void Core::MakeView() {
  std::vector<int> workers;
  int most_workers = 1;
  for (const std::string& name : order_) {
    workers.push_back(regions_.at(name).hello().workers());
    most_workers = std::max(most_workers, workers.back());
  }
  const StatusOr<std::vector<int64_t>> shares =
      Shares(options_.job.train().global_batch(), workers);
  if (!shares.ok()) {
    return Fail(std::string(shares.status().message()), kUsage, "", -1);
  }
  ReturnSamples();
  view_.Clear();
  view_.set_id(++last_view_);
  const int64_t lanes = options_.job.sync().lanes();
  view_.set_lanes(lanes > 0 ? static_cast<int>(lanes) : most_workers);
  view_.set_key(options_.random_bytes(kViewKeyBytes));
  for (size_t i = 0; i < order_.size(); ++i) {
    pb::Member* member = view_.add_members();
    member->set_region(order_[i]);
    member->set_workers(workers[i]);
    member->set_samples_per_step((*shares)[i]);
    const pb::Ready& ready = *regions_.at(order_[i]).ready;
    for (int lane = 0; lane < view_.lanes(); ++lane) {
      member->add_gateways(ready.gateways(WorkerOfLane(lane, view_.lanes(), workers[i])));
    }
  }
  view_.set_last_round(options_.job.train().rounds());
  view_.set_first_round(resume_ ? resume_->round + 1 : 1);
  view_.set_first_sample(resume_ ? resume_->next_sample : 0);
  view_.set_inner_steps_done(resume_ ? resume_->inner_steps : 0);
  if (resume_) view_.set_digest(resume_->digest);
  const Status checked = CheckView(view_, options_.job);
  if (!checked.ok()) return Fail(std::string(checked.message()), kUsage, "", -1);
  AnnounceView();
}

pb::OrchestratorMessage Core::ViewFor(const RegionEntry& entry) const {
  pb::OrchestratorMessage message;
  *message.mutable_view() = view_;
  if (resume_) {
    const pb::CheckpointOnDisk& checkpoint = resume_->checkpoints.at(entry.name());
    message.mutable_view()->set_checkpoint(checkpoint.path());
    message.mutable_view()->set_checkpoint_own(checkpoint.own());
  }
  return message;
}

void Core::NoteResume() {
  job_.resumed_from = resume_ ? resume_->round : 0;
  job_.resumed_digest = resume_ ? resume_->digest : "";
  job_.resumed_sample = resume_ ? resume_->next_sample : 0;
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
  ledger_.emplace(view_.first_sample(), view_.first_round());
  reports_.clear();
  evaluations_.clear();
  checkpoints_.clear();
  committed_digest_ = view_.digest();
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
  for (const std::string& name : order_) {
    RegionEntry& entry = regions_.at(name);
    if (entry.state() == RegionState::kReady) {
      entry.Enter(RegionState::kTraining, "", now_);
      RecordRegion(entry);
    }
    Send(name, ViewFor(entry));
  }
}

}  // namespace atl
