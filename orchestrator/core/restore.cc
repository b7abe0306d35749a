// A core that goes on where another was stopped (P5): everything that decides is in its records.
//
// What is not kept: who suspects whom (members that hold say so in their heartbeats), answers to a
// fence (it is begun anew, with a higher number).
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "orchestrator/core/core.h"

namespace atl {

void Core::Restore(const History& history) {
  const pb::Membership& membership = *history.membership;
  last_view_ = std::max(last_view_, membership.last_view());
  digests_ = history.digests;
  for (const pb::Start& start : membership.fruitless()) {
    fruitless_[{start.round(), start.digest()}] = start.times();
  }
  if (membership.view().id() == 0 || !history.job || history.job->ended > 0) return;
  elastic_ = restored_ = true;
  job_ = *history.job;
  job_.job = options_.job;
  for (const JobState state : {JobState::kStarting, JobState::kTraining, JobState::kStopping}) {
    if (JobStateName(state) == job_.state) state_ = state;
  }
  for (const RegionRecord& record : history.regions) {
    const auto found = regions_.find(record.name);
    if (found == regions_.end()) continue;
    found->second.Restore(record, job_.since);
    // A job file with another lease: it was made longer, say.
    for (const pb::Region& before : history.job->job.regions()) {
      const bool same = before.lease().SerializeAsString() ==
                        LeaseOf(options_.job, record.name).SerializeAsString();
      if (before.name() == record.name && !same) found->second.TakeLease();
    }
  }
  for (const auto& [name, steps] : membership.inner_steps()) {
    const auto found = regions_.find(name);
    if (found != regions_.end()) found->second.inner_steps = steps;
  }
  view_ = membership.view();
  for (const pb::View& planned : membership.planned()) planned_[planned.id()] = planned;
  absolute_ = membership.absolute();
  full_of_.insert(membership.full().begin(), membership.full().end());
  for (const EvaluationRecord& one : history.open_evaluations) {
    if (!full_of_.contains(one.view)) continue;
    evaluations_[{one.view, one.round}][one.region] = {one.loss_sum, one.tokens};
  }
  stop_reason_ = membership.stop_reason();
  if (membership.resume_size() > 0) {
    resume_.emplace();
    resume_->round = membership.resume_round();
    for (const auto& [name, checkpoint] : membership.resume()) {
      resume_->checkpoints[name] = checkpoint;
    }
  }
  if (membership.fence() > 0) {
    fence_.emplace();
    fence_->id = membership.fence();
    fence_->reason = membership.fence_reason();
    fence_->left_out.insert(membership.left_out().begin(), membership.left_out().end());
  }
  reckon_ = true;
  const pb::LedgerState ledger = history.ledger.value_or(pb::LedgerState());
  ledger_.emplace(SamplePool(FromProto(ledger.returned()), ledger.next_sample()),
                  ledger.next_round());
  committed_samples_ = ledger.next_sample() - ledger_->pool().returned_size();
  for (const SampleRecord& record : history.open_samples) {
    const RegionEntry& region = regions_.at(record.region);
    Ledger::Entry entry{record.region, record.samples,
                        record.state,  record.samples.empty() ? region.IsMember() : region.IsFull(),
                        record.view,   record.samples_per_step};
    committed_samples_ -= SizeOf(entry.samples);
    ledger_->Restore(record.round, std::move(entry));
    if (!record.report) continue;
    reports_[record.round][record.region] = *record.report;
    RoundFacts& facts = facts_[record.round];
    facts.short_contributions = record.report->short_contributions();
    facts.next_view = record.report->next_view();
    facts.leaving.assign(record.report->leaving().begin(), record.report->leaving().end());
    facts.edge_known |=
        std::find(facts.leaving.begin(), facts.leaving.end(), record.region) == facts.leaving.end();
  }
}

std::string Core::DurableState() const {
  std::string text = absl::StrCat("job ", JobStateName(state_), " view ", view_.id(), " absolute ",
                                  absolute_, " first ", view_.first_round());
  for (const auto& [id, view] : planned_) absl::StrAppend(&text, " planned ", id);
  if (fence_) absl::StrAppend(&text, " without ", absl::StrJoin(fence_->left_out, ","));
  for (const auto& [name, entry] : regions_) {
    if (entry.attempt().empty()) continue;
    absl::StrAppend(&text, "\n", name, " ", RegionStateName(entry.state()), " ", entry.attempt(),
                    " ", entry.next_sequence(), entry.caught_up ? " caught up" : "",
                    entry.left ? absl::StrCat(" left ", entry.left->round()) : "",
                    entry.ready ? " ready" : "",
                    entry.inner_steps > 0 ? absl::StrCat(" steps ", entry.inner_steps) : "");
  }
  if (!ledger_) return text;
  for (const auto& [at, sums] : evaluations_) {
    const auto full = full_of_.find(at.first);
    if (full == full_of_.end() || static_cast<int64_t>(sums.size()) == full->second) continue;
    absl::StrAppend(&text, "\nevaluated ", at.first, " ", at.second);
    for (const auto& [region, sum] : sums) absl::StrAppend(&text, " ", region, " ", sum.tokens);
  }
  absl::StrAppend(&text, "\nledger ", ledger_->next_round(), " ", ledger_->UnassignedRound(), " ",
                  ledger_->pool().next(), " ", RangesText(ledger_->pool().returned()), " ",
                  committed_samples_);
  for (int64_t round = ledger_->next_round(); round < ledger_->UnassignedRound(); ++round) {
    std::set<std::string> lines;
    for (const Ledger::Entry& entry : ledger_->EntriesOf(round)) {
      lines.insert(absl::StrCat("\n", round, " ", entry.region, " ", RangesText(entry.samples), " ",
                                static_cast<int>(entry.state), entry.awaited ? " awaited" : ""));
    }
    absl::StrAppend(&text, absl::StrJoin(lines, ""));
  }
  return text;
}

}  // namespace atl
