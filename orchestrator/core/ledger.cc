#include "orchestrator/core/ledger.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace atl {

std::string RangesText(const std::vector<Range>& ranges) {
  std::string text;
  for (const Range& range : ranges) {
    absl::StrAppend(&text, text.empty() ? "" : " ", "[", range.begin, ", ", range.end, ")");
  }
  return text.empty() ? "none" : text;
}

const Ledger::Entry* Ledger::Find(int64_t round, const std::string& region) const {
  const auto found = rounds_.find(round);
  if (found == rounds_.end()) return nullptr;
  for (const Entry& entry : found->second) {
    if (entry.region == region) return &entry;
  }
  return nullptr;
}

const std::vector<Ledger::Entry>& Ledger::EntriesOf(int64_t round) const {
  const auto found = rounds_.find(round);
  CHECK(found != rounds_.end()) << "round " << round << " is not assigned";
  return found->second;
}

void Ledger::Assign(std::vector<Entry> entries) {
  CHECK(!entries.empty());
  for (const Entry& entry : entries) {
    CHECK_GT(SizeOf(entry.samples), 0) << entry.region;
    for (const Range& range : entry.samples) pool_.Remove(range);
  }
  rounds_[unassigned_++] = std::move(entries);
}

void Ledger::Restore(int64_t round, Entry entry) {
  rounds_[round].push_back(std::move(entry));
  unassigned_ = std::max(unassigned_, round + 1);
}

void Ledger::Witness(int64_t round, const std::string& region, int64_t view) {
  const auto found = rounds_.find(round);
  if (found == rounds_.end() || Find(round, region) != nullptr) return;
  Entry entry;
  entry.region = region;
  entry.state = SampleState::kDone;
  entry.view = view;
  found->second.push_back(std::move(entry));
}

bool Ledger::Shorten(int64_t round, const std::string& region, int64_t samples) {
  const auto found = rounds_.find(round);
  if (found == rounds_.end()) return false;
  for (Entry& entry : found->second) {
    if (entry.region != region || samples >= SizeOf(entry.samples)) continue;
    for (const Range& range : Suffix(entry.samples, samples)) pool_.Return(range);
    entry.samples = Prefix(entry.samples, samples);
    return true;
  }
  return false;
}

Ledger::Entry* Ledger::FindEntry(int64_t round, const std::string& region) {
  return const_cast<Entry*>(Find(round, region));
}

bool Ledger::Postpone(int64_t round, const std::string& region) {
  Entry* const late = FindEntry(round, region);
  if (late == nullptr || late->samples.empty() || late->state != SampleState::kAssigned) {
    return false;
  }
  Entry* const next = FindEntry(round + 1, region);
  CHECK(next != nullptr) << region << " has no part in round " << round + 1;
  for (const Range& range : next->samples) pool_.Return(range);
  next->samples = std::move(late->samples);
  next->samples_per_step = late->samples_per_step;
  late->samples.clear();
  return true;
}

StatusOr<bool> Ledger::MarkDone(int64_t round, const std::string& region,
                                const std::vector<Range>& samples) {
  const auto found = rounds_.find(round);
  if (found == rounds_.end()) {
    return absl::InvalidArgumentError(absl::StrCat("round ", round, " has no samples assigned"));
  }
  for (Entry& entry : found->second) {
    if (entry.region != region) continue;
    if (entry.samples != samples) {
      return absl::InvalidArgumentError(
          absl::StrCat("region ", region, " trained on samples ", RangesText(samples), " in round ",
                       round, ", but ", RangesText(entry.samples), " were assigned to it"));
    }
    const bool is_new = entry.state == SampleState::kAssigned;
    entry.state = SampleState::kDone;
    return is_new;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("region ", region, " has no part in round ", round));
}

void Ledger::Excuse(const std::string& region) {
  for (auto& [round, entries] : rounds_) {
    for (Entry& entry : entries) {
      if (entry.region == region) entry.awaited = false;
    }
  }
}

bool Ledger::AllDone(int64_t round) const {
  const auto found = rounds_.find(round);
  if (found == rounds_.end()) return false;
  bool any = false;
  for (const Entry& entry : found->second) {
    if (entry.awaited && entry.state != SampleState::kDone) return false;
    any |= entry.awaited;
  }
  return any;
}

Ledger::Entries Ledger::Commit() {
  CHECK(AllDone(next_)) << "round " << next_ << " is not done everywhere";
  Entries committed;
  for (Entry& entry : rounds_[next_]) {
    entry.state = SampleState::kCommitted;
    committed.emplace_back(next_, std::move(entry));
  }
  rounds_.erase(next_);
  ++next_;
  return committed;
}

Ledger::Entries Ledger::ReturnFrom(int64_t round) {
  CHECK_GE(round, next_) << "what is committed stays";
  Entries returned;
  for (auto at = rounds_.lower_bound(round); at != rounds_.end(); at = rounds_.erase(at)) {
    for (Entry& entry : at->second) {
      for (const Range& range : entry.samples) pool_.Return(range);
      entry.state = SampleState::kReturned;
      returned.emplace_back(at->first, std::move(entry));
    }
  }
  unassigned_ = std::min(unassigned_, round);
  return returned;
}

}  // namespace atl
