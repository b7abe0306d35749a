#include "orchestrator/core/ledger.h"

#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace atl {

void Ledger::Assign(const std::vector<Entry>& entries) {
  CHECK(!entries.empty());
  std::vector<Entry>& round = rounds_[UnassignedRound()];
  for (const Entry& entry : entries) {
    CHECK_EQ(entry.samples.begin, end_) << "a gap or an overlap in the ledger";
    CHECK(!entry.samples.empty());
    round.push_back({entry.region, entry.samples, SampleState::kAssigned});
    end_ = entry.samples.end;
  }
}

StatusOr<bool> Ledger::MarkDone(int64_t round, const std::string& region, Range samples) {
  const auto found = rounds_.find(round);
  if (found == rounds_.end()) {
    return absl::InvalidArgumentError(absl::StrCat("round ", round, " has no samples assigned"));
  }
  for (Entry& entry : found->second) {
    if (entry.region != region) continue;
    if (entry.samples != samples) {
      return absl::InvalidArgumentError(
          absl::StrCat("region ", region, " trained on samples [", samples.begin, ", ", samples.end,
                       ") in round ", round, ", but [", entry.samples.begin, ", ",
                       entry.samples.end, ") were assigned to it"));
    }
    const bool is_new = entry.state == SampleState::kAssigned;
    entry.state = SampleState::kDone;
    return is_new;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("region ", region, " has no part in round ", round));
}

bool Ledger::AllDone(int64_t round) const {
  const auto found = rounds_.find(round);
  if (found == rounds_.end()) return false;
  for (const Entry& entry : found->second) {
    if (entry.state != SampleState::kDone) return false;
  }
  return true;
}

Ledger::Entries Ledger::Commit() {
  CHECK(AllDone(next_)) << "round " << next_ << " is not done everywhere";
  Entries committed;
  for (Entry& entry : rounds_[next_]) {
    CHECK_EQ(entry.samples.begin, cursor_);
    cursor_ = entry.samples.end;
    entry.state = SampleState::kCommitted;
    committed.emplace_back(next_, entry);
  }
  rounds_.erase(next_);
  ++next_;
  return committed;
}

Ledger::Entries Ledger::ReturnRest() {
  Entries returned;
  for (auto& [round, entries] : rounds_) {
    for (Entry& entry : entries) {
      entry.state = SampleState::kReturned;
      returned.emplace_back(round, entry);
    }
  }
  rounds_.clear();
  end_ = cursor_;
  return returned;
}

}  // namespace atl
