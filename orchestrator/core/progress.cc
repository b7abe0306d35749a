// Rounds, evaluations and checkpoints, as the members of the view report them.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "orchestrator/core/core.h"
#include "proto/round_plan.h"

namespace atl {
namespace {

// The collective keeps regions within a round of one another; what they report while the
// orchestrator is away comes in a burst. Beyond this the report is nonsense.
constexpr int64_t kMaxRoundsAhead = 1 << 20;

int MemberOf(const pb::View& view, const std::string& region) {
  for (int i = 0; i < view.members_size(); ++i) {
    if (view.members(i).region() == region) return i;
  }
  return -1;
}

}  // namespace

bool Core::InView(const RegionEntry& entry, int64_t view) const {
  return view == view_.id() && MemberOf(view_, entry.name()) >= 0 &&
         (entry.state() == RegionState::kTraining);
}

void Core::AssignThrough(int64_t round) {
  while (ledger_->UnassignedRound() <= round) {
    const int64_t next = ledger_->UnassignedRound();
    std::vector<Ledger::Entry> entries;
    for (int i = 0; i < view_.members_size(); ++i) {
      const RoundPlan plan = PlanRound(view_, options_.job, i, next);
      entries.push_back({view_.members(i).region(), plan.region_samples, SampleState::kAssigned});
      actions_.records.push_back(SampleRecord{view_.id(),
                                              next,
                                              entries.back().region,
                                              entries.back().samples,
                                              SampleState::kAssigned,
                                              {}});
    }
    ledger_->Assign(entries);
  }
}

void Core::ReturnSamples() {
  if (!ledger_) return;
  for (const auto& [round, entry] : ledger_->ReturnRest()) {
    actions_.records.push_back(
        SampleRecord{view_.id(), round, entry.region, entry.samples, SampleState::kReturned, {}});
  }
}

void Core::OnRoundReport(RegionEntry& entry, const pb::RoundReport& report) {
  if (!InView(entry, report.view())) return;
  const int64_t round = report.round();
  if (round < ledger_->next_round()) {
    // Committed. The newest one's digest is at hand: a second, different word would break P1.
    if (round == ledger_->next_round() - 1 && report.digest() != committed_digest_) {
      Fail(absl::StrCat("region ", entry.name(), " reports another digest for round ", round,
                        ", which is committed"),
           1, entry.name(), round);
    }
    return;
  }
  if (round > view_.last_round() || round - ledger_->next_round() > kMaxRoundsAhead) {
    return Fail(absl::StrCat("region ", entry.name(), " reports round ", round,
                             ", which is not part of view ", view_.id()),
                1, entry.name(), round);
  }
  AssignThrough(round);
  const Range samples{report.first_sample(), report.end_sample()};
  const StatusOr<bool> is_new = ledger_->MarkDone(round, entry.name(), samples);
  if (!is_new.ok()) return Fail(std::string(is_new.status().message()), 1, entry.name(), round);
  if (report.tokens() < 1 || report.digest().empty() || report.wan_bytes_sent() < 0) {
    return Fail(absl::StrCat("region ", entry.name(), " reports round ", round,
                             " without tokens or digest"),
                1, entry.name(), round);
  }
  if (!*is_new) {
    if (reports_[round][entry.name()].digest() != report.digest()) {
      Fail(absl::StrCat("region ", entry.name(), " reports two digests for round ", round), 1,
           entry.name(), round);
    }
    return;
  }
  entry.Report(report);
  reports_[round][entry.name()] = report;
  actions_.records.push_back(
      SampleRecord{view_.id(), round, entry.name(), samples, SampleState::kDone, report});
  if (state_ == JobState::kStarting) EnterState(JobState::kTraining);
  CommitReady();
}

void Core::CommitReady() {
  while (!IsEnd(state_) && ledger_->AllDone(ledger_->next_round())) {
    if (!Commit(ledger_->next_round())) return;
  }
}

bool Core::Commit(int64_t round) {
  const std::map<std::string, pb::RoundReport>& reports = reports_.at(round);
  std::map<std::string, std::string> digests;
  for (const auto& [region, report] : reports) digests[region] = report.digest();
  const std::vector<std::string> minority = Minority(digests);
  if (!minority.empty()) {
    Fail(absl::StrCat("after round ", round, " the regions hold different states (P1); ",
                      minority.size() < digests.size()
                          ? absl::StrCat(JoinNames(minority), " differs from the others")
                          : absl::StrCat("no majority among ", JoinNames(minority)),
                      ": its memory or transfer is damaged, or its version differs"),
         1, minority.size() == 1 ? minority[0] : "", round);
    return false;
  }
  RoundRecord record;
  record.view = view_.id();
  record.round = round;
  record.digest = reports.begin()->second.digest();
  record.time = now_;
  double loss_sum = 0;
  for (const auto& [region, report] : reports) {
    loss_sum += report.loss_sum();
    record.tokens += report.tokens();
    record.seconds = std::max(record.seconds, report.seconds());
    record.wan_seconds = std::max(record.wan_seconds, report.wan_seconds());
    record.wan_bytes_sent += report.wan_bytes_sent();
    record.gradient_norm += report.gradient_norm() / static_cast<double>(reports.size());
    record.learning_rate = report.learning_rate();
  }
  record.train_loss = loss_sum / static_cast<double>(record.tokens);
  for (const auto& [at, committed] : ledger_->Commit()) {
    actions_.records.push_back(SampleRecord{
        view_.id(), at, committed.region, committed.samples, SampleState::kCommitted, {}});
  }
  record.tokens_total = ledger_->cursor() * options_.job.data().sequence_length();
  committed_digest_ = record.digest;
  actions_.records.push_back(record);
  Event("round_committed", "", round,
        absl::StrCat("round ", round, " committed: loss ", record.train_loss),
        {{"train_loss", record.train_loss}, {"digest", record.digest}});
  reports_.erase(round);
  if (ledger_->next_round() <= view_.last_round()) AssignThrough(ledger_->next_round());
  return true;
}

void Core::OnEvaluation(RegionEntry& entry, const pb::EvaluationReport& report) {
  if (!InView(entry, report.view())) return;
  const int64_t round = report.round();
  if (round < view_.first_round() - 1 || round > view_.last_round() || report.tokens() < 0) {
    return Fail(absl::StrCat("region ", entry.name(), " reports an evaluation of round ", round), 1,
                entry.name(), round);
  }
  std::map<std::string, Sums>& sums = evaluations_[round];
  if (!sums.emplace(entry.name(), Sums{report.loss_sum(), report.tokens()}).second) return;
  actions_.records.push_back(
      EvaluationRecord{view_.id(), round, entry.name(), report.loss_sum(), report.tokens()});
  if (static_cast<int>(sums.size()) < view_.members_size()) return;
  Sums all;
  for (const auto& [region, sum] : sums) {
    all.loss_sum += sum.loss_sum, all.tokens += sum.tokens;
  }
  // The entry stays, so that a repeated report is known; its size is bounded by the rounds.
  if (all.tokens == 0) return;
  actions_.records.push_back(EvaluationRecord{view_.id(), round, "", all.loss_sum, all.tokens});
  const double loss = all.loss_sum / static_cast<double>(all.tokens);
  Event("evaluated", "", round, absl::StrCat("validation loss ", loss, " after round ", round),
        {{"validation_loss", loss}, {"tokens", all.tokens}});
}

void Core::OnCheckpoint(RegionEntry& entry, const pb::CheckpointReport& report) {
  if (!InView(entry, report.view())) return;
  const pb::CheckpointOnDisk& checkpoint = report.checkpoint();
  const int64_t round = checkpoint.round();
  if (!report.failure().empty()) {
    return Fail(absl::StrCat("region ", entry.name(), " could not write the checkpoint of round ",
                             round, ": ", report.failure()),
                report.exit_code() > 0 ? report.exit_code() : 1, entry.name(), round);
  }
  std::map<std::string, pb::CheckpointReport>& reports = checkpoints_[round];
  if (!reports.emplace(entry.name(), report).second) return;
  CheckpointRecord record{view_.id(),       entry.name(), checkpoint, report.bytes(),
                          report.seconds(), now_,         false};
  actions_.records.push_back(record);
  if (static_cast<int>(reports.size()) < view_.members_size()) return;
  std::map<std::string, std::string> digests;
  int64_t bytes = 0;
  for (const auto& [region, one] : reports) {
    digests[region] = one.checkpoint().digest();
    bytes += one.bytes();
  }
  const std::vector<std::string> minority = Minority(digests);
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
        absl::StrCat("checkpoint of round ", round, " is complete in every region"),
        {{"digest", checkpoint.digest()}, {"bytes", bytes}});
  // Older ones need no more words.
  checkpoints_.erase(checkpoints_.begin(), checkpoints_.lower_bound(round));
}

}  // namespace atl
