#include "tools/sim/promises.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace atl::sim {
namespace {

// Sorted, neighbours joined.
std::vector<Range> Canonical(std::vector<Range> ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](const Range& one, const Range& two) { return one.begin < two.begin; });
  std::vector<Range> joined;
  for (const Range& range : ranges) {
    if (range.empty()) continue;
    if (!joined.empty() && joined.back().end == range.begin) {
      joined.back().end = range.end;
    } else {
      joined.push_back(range);
    }
  }
  return joined;
}

bool Overlap(const std::vector<Range>& sorted) {
  for (size_t i = 1; i < sorted.size(); ++i) {
    if (sorted[i].begin < sorted[i - 1].end) return true;
  }
  return false;
}

std::string Text(const std::vector<Range>& ranges) {
  std::string text;
  for (const Range& range : ranges) absl::StrAppend(&text, "[", range.begin, ",", range.end, ")");
  return text;
}

}  // namespace

Promises::Promises(std::string seed_state) : seed_state_(std::move(seed_state)) {
  origins_[seed_state_] = {};
}

void Promises::Break(const std::string& promise, const std::string& what) {
  if (broken_.empty()) broken_ = absl::StrCat(promise, ": ", what);
}

void Promises::NoteState(const std::string& digest, const Origin& origin) {
  origins_.emplace(digest, origin);
}

std::string Promises::Ancestor(const std::string& digest, int64_t round) const {
  std::string at = digest;
  while (true) {
    const auto found = origins_.find(at);
    if (found == origins_.end() || found->second.round < round) return "";
    if (found->second.round == round) return at;
    at = found->second.parent;
  }
}

std::string Promises::DigestOf(int64_t round) const {
  const auto found = committed_.find(round);
  return found == committed_.end() ? "" : found->second;
}

void Promises::CheckMember(const std::string& region, const std::string& digest, int64_t round) {
  const int64_t newest = std::min(round, committed_round());
  const std::string committed = DigestOf(newest);
  if (committed.empty() || Ancestor(digest, newest) == committed) return;
  Break("P1", absl::StrCat("region ", region, " holds another state of round ", newest,
                           " than the one that is committed"));
}

void Promises::OnRecords(const std::vector<Record>& records) {
  for (const Record& record : records) {
    if (const auto* sample = std::get_if<SampleRecord>(&record)) {
      if (sample->state != SampleState::kCommitted) continue;
      std::vector<Range>& ranges = pending_[sample->round];
      ranges.insert(ranges.end(), sample->samples.begin(), sample->samples.end());
    } else if (const auto* round = std::get_if<RoundRecord>(&record)) {
      OnRound(*round);
    } else if (const auto* supersede = std::get_if<SupersedeRecord>(&record)) {
      OnSupersede(*supersede);
    }
  }
}

void Promises::OnSupersede(const SupersedeRecord& record) {
  if (record.round < committed_round()) ++rollbacks_;
  committed_.erase(committed_.upper_bound(record.round), committed_.end());
  of_round_.erase(of_round_.upper_bound(record.round), of_round_.end());
  pending_.clear();
  const std::string digest = record.digest.empty() ? seed_state_ : record.digest;
  const std::string known = DigestOf(record.round);
  if (known == digest || (record.round == 0 && digest == seed_state_)) return;
  // A checkpoint of a round that was never committed: what leads to it is history now.
  base_round_ = 0;
  std::string at = digest;
  for (int64_t round = record.round; round > 0; --round) {
    const auto origin = origins_.find(at);
    if (origin == origins_.end()) {
      return Break(
          "P1", absl::StrCat("the job goes on from a state of round ", round, " that nobody made"));
    }
    committed_[round] = at;
    of_round_[round] = Canonical(origin->second.samples);
    at = origin->second.parent;
  }
}

void Promises::OnRound(const RoundRecord& record) {
  if (record.round != committed_round() + 1) {
    return Break("P2", absl::StrCat("round ", record.round, " is committed after round ",
                                    committed_round()));
  }
  const auto origin = origins_.find(record.digest);
  if (origin == origins_.end()) {
    return Break("P1", absl::StrCat("round ", record.round,
                                    " is committed with a state that no "
                                    "region ever held"));
  }
  const std::string before = record.round == 1 ? seed_state_ : DigestOf(record.round - 1);
  if (origin->second.parent != before) {
    Break("P2", absl::StrCat("the state of round ", record.round,
                             " does not come from the one that was committed before"));
  }
  const std::vector<Range> said = Canonical(pending_[record.round]);
  pending_.erase(record.round);
  const std::vector<Range> truth = Canonical(origin->second.samples);
  if (said != truth) {
    Break("P3", absl::StrCat("the ledger says that round ", record.round, " has samples ",
                             Text(said), ", but its state was made from ", Text(truth)));
  }
  std::vector<Range> all = truth;
  for (const auto& [round, ranges] : of_round_) all.insert(all.end(), ranges.begin(), ranges.end());
  std::sort(all.begin(), all.end(),
            [](const Range& one, const Range& two) { return one.begin < two.begin; });
  if (Overlap(all)) {
    Break("P3", absl::StrCat("round ", record.round,
                             " commits samples that were committed before: ", Text(truth)));
  }
  committed_[record.round] = record.digest;
  of_round_[record.round] = truth;
}

void Promises::CheckEnd(int64_t rounds) {
  if (committed_round() != rounds) {
    Break("P4", absl::StrCat("the job is done, but round ", committed_round(), " of ", rounds,
                             " is the last one committed"));
  }
}

}  // namespace atl::sim
