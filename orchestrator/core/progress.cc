// Rounds, evaluations and checkpoints, as the members of the view report them.
#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "orchestrator/core/core.h"
#include "proto/round_plan.h"

namespace atl {
namespace {

// The collective keeps regions within a round of one another; what they report while the
// orchestrator is away comes in a burst. Beyond this the report is nonsense.
constexpr int64_t kMaxRoundsAhead = 1 << 20;

}  // namespace

bool Core::InView(const RegionEntry& entry, int64_t view) const {
  if (elastic_) return entry.IsFull() && view > 0 && view <= last_view_;
  return view == view_.id() && entry.state() == RegionState::kTraining;
}

void Core::Assign(std::vector<Ledger::Entry> entries) {
  const int64_t round = ledger_->UnassignedRound();
  for (Ledger::Entry& entry : entries) {
    entry.view = view_.id();
    const RegionEntry& region = regions_.at(entry.region);
    const bool is_out = fence_ && fence_->left_out.contains(entry.region);
    entry.awaited = (region.IsMember() || region.state() == RegionState::kReady) && !is_out;
    actions_.records.push_back(SampleRecord{view_.id(),
                                            round,
                                            entry.region,
                                            entry.samples,
                                            SampleState::kAssigned,
                                            {},
                                            entry.samples_per_step});
  }
  ledger_->Assign(std::move(entries));
  RecordLedger();
}

void Core::AssignThrough(int64_t round) {
  while (ledger_->UnassignedRound() <= std::min(round, view_.last_round())) {
    const int64_t next = ledger_->UnassignedRound();
    std::vector<Ledger::Entry> entries;
    for (int i = 0; i < view_.members_size(); ++i) {
      if (!IsFull(view_.members(i))) continue;
      RoundPlan plan = PlanRound(view_, options_.job, i, next);
      Ledger::Entry entry;
      entry.region = view_.members(i).region();
      entry.samples = std::move(plan.samples);
      entry.samples_per_step = plan.samples_per_step;
      entries.push_back(std::move(entry));
    }
    Assign(std::move(entries));
  }
}

void Core::ReturnSamplesFrom(int64_t round) {
  if (!ledger_) return;
  const Ledger::Entries returned = ledger_->ReturnFrom(round);
  for (const auto& [at, entry] : returned) {
    actions_.records.push_back(
        SampleRecord{entry.view, at, entry.region, entry.samples, SampleState::kReturned, {}});
  }
  facts_.erase(facts_.lower_bound(round), facts_.end());
  reports_.erase(reports_.lower_bound(round), reports_.end());
  if (!returned.empty()) RecordLedger();
}

void Core::Wrong(RegionEntry& entry, const std::string& what, int64_t round) {
  if (!elastic_) return Fail(what, 1, entry.name(), round);
  Event("region_wrong", entry.name(), round, what);
  LeaveOut(entry.name(), RegionState::kJoining, what);
}

bool Core::IsSoundReport(RegionEntry& entry, const pb::RoundReport& report) {
  const int64_t round = report.round();
  if (round < ledger_->next_round()) {
    // Committed: a different word would break P1.
    const auto known = digests_.find(round);
    if (known != digests_.end() && report.digest() != known->second) {
      Wrong(entry,
            absl::StrCat("region ", entry.name(), " reports another digest for round ", round,
                         ", which is committed"),
            round);
    }
    return false;
  }
  if (round > view_.last_round() || round - ledger_->next_round() > kMaxRoundsAhead) {
    Wrong(entry,
          absl::StrCat("region ", entry.name(), " reports round ", round,
                       ", which is not part of view ", view_.id()),
          round);
    return false;
  }
  if ((report.tokens() < 1 && !(elastic_ && report.heard())) || report.digest().empty() ||
      report.wan_bytes_sent() < 0) {
    Wrong(entry,
          absl::StrCat("region ", entry.name(), " reports round ", round,
                       " without tokens or digest"),
          round);
    return false;
  }
  return true;
}

void Core::TakeFacts(const std::string& region, const pb::RoundReport& report) {
  const int64_t round = report.round();
  AssignThrough(round);
  if (!elastic_ || (facts_.contains(round) && facts_.at(round).edge_known)) return;
  const bool first = !facts_.contains(round);
  RoundFacts& facts = facts_[round];
  facts.short_contributions = report.short_contributions();
  facts.next_view = report.next_view();
  facts.leaving.assign(report.leaving().begin(), report.leaving().end());
  // Who leaves need not know the view that follows.
  facts.edge_known =
      std::find(facts.leaving.begin(), facts.leaving.end(), region) == facts.leaving.end();
  if (first) TakeShort(round, facts);
  if (!facts.edge_known) return;
  if (facts.next_view > 0) {
    TakeEdge(round, report.digest(), facts);
  } else if (!facts.leaving.empty() && state_ != JobState::kStopping &&
             round < view_.last_round() && !fence_) {
    StartFence(absl::StrCat(JoinNames(facts.leaving), " left before another view was agreed on"));
    if (fence_) fence_->leavers = facts.leaving;
  }
}

void Core::TakeShort(int64_t round, const RoundFacts& facts) {
  for (const pb::ShortContribution& one : facts.short_contributions) {
    if (one.late()) Postpone(round, one.region());
    if (one.samples() < 1 || !ledger_->Shorten(round, one.region(), one.samples())) continue;
    const Ledger::Entry* entry = ledger_->Find(round, one.region());
    actions_.records.push_back(SampleRecord{entry->view,
                                            round,
                                            one.region(),
                                            entry->samples,
                                            entry->state,
                                            {},
                                            entry->samples_per_step});
    RecordLedger();
  }
  for (const std::string& region : facts.leaving) {
    const auto found = regions_.find(region);
    if (found == regions_.end() || found->second.state() != RegionState::kTraining) continue;
    found->second.Enter(RegionState::kLeaving, "leaves", now_);
    stirred_ = true;
    RecordRegion(found->second);
  }
}

void Core::Postpone(int64_t round, const std::string& region) {
  if (round >= view_.last_round()) return;
  AssignThrough(round + 1);
  if (ledger_->Find(round + 1, region) == nullptr || !ledger_->Postpone(round, region)) return;
  for (const int64_t at : {round, round + 1}) {
    const Ledger::Entry* entry = ledger_->Find(at, region);
    actions_.records.push_back(SampleRecord{
        entry->view, at, region, entry->samples, entry->state, {}, entry->samples_per_step});
  }
  RecordLedger();
  Event("late", region, round,
        absl::StrCat("round ", round, " went on without region ", region,
                     ", which is slower: what it trains counts with round ", round + 1));
}

void Core::GoesOn(RegionEntry& entry, int64_t round) {
  entry.holds_since = 0;
  for (auto& [whom, by] : suspicions_) {
    const auto said = by.find(entry.name());
    if (said != by.end() && said->second.round <= round && !said->second.gone) by.erase(said);
  }
}

void Core::OnHeardRound(RegionEntry& entry, const pb::RoundReport& report) {
  const int64_t round = report.round();
  const Ledger::Entry* part = ledger_->Find(round, entry.name());
  if (part != nullptr && part->state == SampleState::kDone) {
    if (reports_[round][entry.name()].digest() == report.digest()) return;
    return Wrong(entry,
                 absl::StrCat("region ", entry.name(), " reports two digests for round ", round),
                 round);
  }
  if (part == nullptr) {
    ledger_->Witness(round, entry.name(), view_.id());
  } else {
    // Its samples have gone over to the next round.
    const StatusOr<bool> is_new = ledger_->MarkDone(round, entry.name(), {});
    CHECK(is_new.ok() && *is_new) << is_new.status();
  }
  entry.Report(report);
  GoesOn(entry, round);
  reports_[round][entry.name()] = report;
  actions_.records.push_back(SampleRecord{ledger_->Find(round, entry.name())->view,
                                          round,
                                          entry.name(),
                                          {},
                                          SampleState::kDone,
                                          report,
                                          1});
  CommitReady();
}

void Core::TakeHeard(RegionEntry& entry, const pb::RoundReport& report) {
  if (!ledger_ || !report.heard() || report.view() > last_view_ || !IsSoundReport(entry, report)) {
    return;
  }
  TakeFacts(entry.name(), report);
  const Ledger::Entry* part = ledger_->Find(report.round(), entry.name());
  if (part == nullptr || part->samples.empty()) OnHeardRound(entry, report);
}

void Core::OnRoundReport(RegionEntry& entry, const pb::RoundReport& report) {
  if (elastic_ && report.heard() && entry.IsMember()) return TakeHeard(entry, report);
  if (!ledger_ || !InView(entry, report.view()) || !IsSoundReport(entry, report)) return;
  const int64_t round = report.round();
  TakeFacts(entry.name(), report);
  if (elastic_ && ledger_->Find(round, entry.name()) == nullptr) return;  // never had a part in it
  std::vector<Range> samples = FromProto(report.samples());
  if (samples.empty()) samples.push_back({report.first_sample(), report.end_sample()});
  const StatusOr<bool> is_new = ledger_->MarkDone(round, entry.name(), samples);
  if (!is_new.ok()) return Wrong(entry, std::string(is_new.status().message()), round);
  if (!*is_new) {
    if (reports_[round][entry.name()].digest() != report.digest()) {
      Wrong(entry, absl::StrCat("region ", entry.name(), " reports two digests for round ", round),
            round);
    }
    return;
  }
  entry.Report(report);
  GoesOn(entry, round);
  reports_[round][entry.name()] = report;
  const Ledger::Entry* mine = ledger_->Find(round, entry.name());
  actions_.records.push_back(SampleRecord{mine->view, round, entry.name(), samples,
                                          SampleState::kDone, report, mine->samples_per_step});
  if (state_ == JobState::kStarting) EnterState(JobState::kTraining);
  CommitReady();
}

void Core::Reckon() {
  while (reckon_ && ledger_ && !IsEnd(state_)) {
    reckon_ = false;
    CommitReady();
    if (!IsEnd(state_)) FinishIfAllLeft();
  }
}

void Core::CommitReady() {
  while (!IsEnd(state_) && ledger_->AllDone(ledger_->next_round())) {
    if (!Commit(ledger_->next_round())) return;
  }
}

std::string Core::MajorityDigest(int64_t round) {
  std::map<std::string, std::string> digests;
  std::set<std::string> had_part;  // who only heard the round has no vote beside them
  for (const auto& [region, report] : reports_.at(round)) {
    digests[region] = report.digest();
    if (!report.heard()) had_part.insert(region);
  }
  // A region that was late held the state before, as those that contributed did.
  if (const auto facts = facts_.find(round); facts != facts_.end()) {
    for (const pb::ShortContribution& one : facts->second.short_contributions) {
      if (one.late() && digests.contains(one.region())) had_part.insert(one.region());
    }
  }
  const std::vector<std::string> minority = Minority(digests, had_part);
  if (minority.empty()) return digests.begin()->second;
  const bool none = minority.size() == digests.size();
  const std::string what =
      absl::StrCat("after round ", round, " the regions hold different states (P1); ",
                   none ? absl::StrCat("no majority among ", JoinNames(minority))
                        : absl::StrCat(JoinNames(minority), " differs from the others"),
                   ": its memory or transfer is damaged, or its version differs");
  if (!elastic_ || none) {
    Fail(what, 1, minority.size() == 1 ? minority[0] : "", round);
    return "";
  }
  for (const std::string& region : minority) {
    LeaveOut(region, RegionState::kJoining, what);
    digests.erase(region);
  }
  return digests.begin()->second;
}

RoundRecord Core::SumOf(int64_t round, const std::string& digest) {
  RoundRecord record;
  record.round = round;
  record.digest = digest;
  record.time = now_;
  double loss_sum = 0;
  int64_t reported_tokens = 0;
  int64_t parts = 0;
  const std::map<std::string, pb::RoundReport>& reports = reports_.at(round);
  for (const auto& [region, report] : reports) parts += report.heard() ? 0 : 1;
  for (const auto& [region, report] : reports) {
    if (report.heard()) continue;
    loss_sum += report.loss_sum();
    reported_tokens += report.tokens();
    record.seconds = std::max(record.seconds, report.seconds());
    record.wan_seconds = std::max(record.wan_seconds, report.wan_seconds());
    record.wan_bytes_sent += report.wan_bytes_sent();
    record.gradient_norm += report.gradient_norm() / static_cast<double>(parts);
    record.learning_rate = report.learning_rate();
  }
  record.train_loss = reported_tokens > 0 ? loss_sum / static_cast<double>(reported_tokens)
                                          : std::numeric_limits<double>::quiet_NaN();
  record.tokens = reported_tokens;
  // Who is gone has no report, but its samples are in the result.
  for (const Ledger::Entry& entry : ledger_->EntriesOf(round)) {
    if (!entry.samples.empty()) record.view = entry.view;
    if (entry.state == SampleState::kDone) continue;
    record.tokens += SizeOf(entry.samples) * options_.job.data().sequence_length();
  }
  return record;
}

bool Core::Commit(int64_t round) {
  const std::string digest = MajorityDigest(round);
  if (digest.empty()) return false;
  RoundRecord record = SumOf(round, digest);
  NotePaces(round);
  for (const auto& [at, committed] : ledger_->Commit()) {
    committed_samples_ += SizeOf(committed.samples);
    actions_.records.push_back(SampleRecord{
        committed.view, at, committed.region, committed.samples, SampleState::kCommitted, {}});
  }
  record.tokens_total = committed_samples_ * options_.job.data().sequence_length();
  round_seconds_ = std::max(record.seconds, round_seconds_ * 0.8);
  round_time_.OnCommitted(record, reports_.at(round));
  digests_[round] = digest;
  for (const std::string& name : order_) {
    const RegionEntry& entry = regions_.at(name);
    if (!entry.caught_up || entry.caught_up_round != round || entry.caught_up_digest == digest) {
      continue;
    }
    LeaveOut(name, RegionState::kJoining,
             absl::StrCat("it caught up to another state of round ", round));
  }
  actions_.records.push_back(record);
  Event("round_committed", "", round,
        absl::StrCat("round ", round, " committed: loss ", record.train_loss),
        {{"train_loss", record.train_loss}, {"digest", record.digest}});
  reports_.erase(round);
  facts_.erase(round);
  if (ledger_->next_round() <= view_.last_round()) AssignThrough(ledger_->next_round());
  if (!fruitless_.empty()) {
    fruitless_.clear();
    RecordMembership();
  }
  RecordLedger();
  EvenOutSteps();
  return true;
}

int64_t Core::FullMembers() const {
  int64_t full = 0;
  for (const pb::Member& member : view_.members()) full += IsFull(member) ? 1 : 0;
  return full;
}

void Core::OnEvaluation(RegionEntry& entry, const pb::EvaluationReport& report) {
  if (!InView(entry, report.view())) return;
  const int64_t round = report.round();
  if ((!elastic_ && round < view_.first_round() - 1) || round > view_.last_round() ||
      report.tokens() < 0) {
    return Wrong(entry,
                 absl::StrCat("region ", entry.name(), " reports an evaluation of round ", round),
                 round);
  }
  // The members of one view evaluate shares that make a whole; the core may be in a later one.
  const auto full = elastic_ ? full_of_.find(report.view()) : full_of_.end();
  if (elastic_ && full == full_of_.end()) return;
  const int64_t evaluate = elastic_ ? full->second : FullMembers();
  std::map<std::string, Sums>& sums = evaluations_[{report.view(), round}];
  if (!sums.emplace(entry.name(), Sums{report.loss_sum(), report.tokens()}).second) return;
  actions_.records.push_back(
      EvaluationRecord{report.view(), round, entry.name(), report.loss_sum(), report.tokens()});
  if (static_cast<int64_t>(sums.size()) != evaluate) return;
  Sums all;
  for (const auto& [region, sum] : sums) {
    all.loss_sum += sum.loss_sum, all.tokens += sum.tokens;
  }
  // The entry stays, so that a repeated report is known; its size is bounded by the rounds.
  if (all.tokens == 0) return;
  actions_.records.push_back(EvaluationRecord{report.view(), round, "", all.loss_sum, all.tokens});
  const double loss = all.loss_sum / static_cast<double>(all.tokens);
  Event("evaluated", "", round, absl::StrCat("validation loss ", loss, " after round ", round),
        {{"validation_loss", loss}, {"tokens", all.tokens}});
}

void Core::OnCheckpoint(RegionEntry& entry, const pb::CheckpointReport& report) {
  if (!InView(entry, report.view())) return;
  const pb::CheckpointOnDisk& checkpoint = report.checkpoint();
  const int64_t round = checkpoint.round();
  if (report.skipped() > 0) {
    return Event("checkpoint_skipped", entry.name(), round,
                 absl::StrCat("region ", entry.name(), " made no checkpoint of round ", round, ": ",
                              report.failure(), " (", report.skipped(), " skipped so far)"),
                 {{"skipped", report.skipped()}});
  }
  // Training goes on. Where it does not, because this was the last save, a Fault follows.
  if (!report.failure().empty()) {
    return Event("checkpoint_failed", entry.name(), round,
                 absl::StrCat("region ", entry.name(), " could not write the checkpoint of round ",
                              round, ": ", report.failure()));
  }
  // Of a round that was done again while the save was under way.
  if (IsContradicted(checkpoint)) return;
  newest_saved_ = std::max(newest_saved_, std::min(round, view_.last_round()));
  std::map<std::string, pb::CheckpointReport>& reports = checkpoints_[round];
  if (!reports.emplace(entry.name(), report).second) return;
  CheckpointRecord record{view_.id(),       entry.name(), checkpoint, report.bytes(),
                          report.seconds(), now_,         false};
  actions_.records.push_back(record);
  if (static_cast<int64_t>(reports.size()) < CheckpointWriters(view_, options_.job)) return;
  std::map<std::string, std::string> digests;
  int64_t bytes = 0;
  for (const auto& [region, one] : reports) {
    digests[region] = one.checkpoint().digest();
    bytes += one.bytes();
  }
  const std::vector<std::string> minority = Minority(digests);
  if (!minority.empty() && elastic_) return;  // the digests of rounds decide
  if (!minority.empty()) {
    return Fail(absl::StrCat("the checkpoints of round ", round,
                             " differ between regions (P1): ", JoinNames(minority)),
                1, minority.size() == 1 ? minority[0] : "", round);
  }
  for (const auto& [region, one] : reports) {
    actions_.records.push_back(CheckpointRecord{view_.id(), region, one.checkpoint(), one.bytes(),
                                                one.seconds(), now_, true});
  }
  last_checkpoint_ = std::max(last_checkpoint_, round);
  Event("checkpoint_complete", "", round,
        absl::StrCat("checkpoint of round ", round, " is complete in ",
                     static_cast<int64_t>(reports.size()) == FullMembers()
                         ? "every region"
                         : absl::StrCat(reports.size(), " regions")),
        {{"digest", checkpoint.digest()}, {"bytes", bytes}});
  TellReplicaDifferences(round, reports);
  // Older ones need no more words.
  checkpoints_.erase(checkpoints_.begin(), checkpoints_.lower_bound(round));
}

}  // namespace atl
