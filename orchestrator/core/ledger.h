// The ledger of training samples (P3): which range is whose in which round, and what became of it.
//
//   assigned -> done (the region has reported) -> committed (all regions have, with equal digests)
//   assigned or done -> returned (the view ended before; the samples come again)
//
// Invariants: samples before cursor() are committed, each exactly once; what is assigned begins at
// the cursor, without gap or overlap, in the order of rounds. Pure; one thread.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/range.h"
#include "base/status.h"
#include "orchestrator/core/records.h"

namespace atl {

class Ledger {
 public:
  struct Entry {
    std::string region;
    Range samples;
    SampleState state = SampleState::kAssigned;
  };
  using Entries = std::vector<std::pair<int64_t, Entry>>;  // (round, entry)

  // Begins a view: all samples before `cursor` are committed, `round` comes next.
  Ledger(int64_t cursor, int64_t round) : cursor_(cursor), end_(cursor), next_(round) {}

  int64_t cursor() const { return cursor_; }
  int64_t next_round() const { return next_; }
  bool IsAssigned(int64_t round) const { return rounds_.contains(round); }
  // First round that is not assigned yet.
  int64_t UnassignedRound() const { return next_ + static_cast<int64_t>(rounds_.size()); }

  // The ranges of UnassignedRound(), adjacent to one another and to what is assigned. Anything else
  // is a programmer error (CHECK).
  void Assign(const std::vector<Entry>& entries);
  // The region has trained on `samples` in an assigned round. kInvalidArgument if these are not
  // the ones that it was assigned. True if this was new.
  StatusOr<bool> MarkDone(int64_t round, const std::string& region, Range samples);
  bool AllDone(int64_t round) const;
  // Commits next_round(), all of which is done (CHECK), and moves the cursor.
  Entries Commit();
  // Ends the view: all that is not committed goes back.
  Entries ReturnRest();

 private:
  int64_t cursor_;
  int64_t end_;   // of what is assigned
  int64_t next_;  // round to commit next
  std::map<int64_t, std::vector<Entry>> rounds_;
};

}  // namespace atl
