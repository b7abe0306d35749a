// The ledger of training samples (P3): which samples are whose in which round, what became of them,
// and which nobody has (the pool).
//
//   assigned -> done (the region has reported) -> committed (all that are awaited have)
//   assigned or done -> returned (to the pool; the samples come again under another view)
//
// Invariants: what is committed, assigned or done, and the pool are disjoint, and together all
// samples; rounds are assigned and committed in order, each once. Pure; one thread.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/range.h"
#include "base/status.h"
#include "orchestrator/core/records.h"
#include "proto/sample_pool.h"

namespace atl {

class Ledger {
 public:
  struct Entry {
    std::string region;
    std::vector<Range> samples;
    SampleState state = SampleState::kAssigned;
    bool awaited = true;  // false: it is gone; others say what is in the result
    int64_t view = 0;
    int64_t samples_per_step = 1;
  };
  using Entries = std::vector<std::pair<int64_t, Entry>>;  // (round, entry)

  Ledger(SamplePool pool, int64_t next_round)
      : pool_(std::move(pool)), next_(next_round), unassigned_(next_round) {}

  const SamplePool& pool() const { return pool_; }
  // Committed next.
  int64_t next_round() const { return next_; }
  // First round that is not assigned yet.
  int64_t UnassignedRound() const { return unassigned_; }
  bool IsAssigned(int64_t round) const { return rounds_.contains(round); }
  // Null: the region has no part in that round.
  const Entry* Find(int64_t round, const std::string& region) const;
  // Of an assigned round (CHECK).
  const std::vector<Entry>& EntriesOf(int64_t round) const;

  // The entries of UnassignedRound(): their samples leave the pool, where they must be (CHECK).
  void Assign(std::vector<Entry> entries);
  // Puts back what a restart read from the store: the samples are not in the pool.
  void Restore(int64_t round, Entry entry);
  // The region holds the result of an assigned round in which it had no part: an entry without
  // samples, done. Nothing if it has an entry.
  void Witness(int64_t round, const std::string& region, int64_t view);
  // Only the first `samples` of the region's samples are in the round's result. True if the entry
  // changed.
  bool Shorten(int64_t round, const std::string& region, int64_t samples);
  // Nothing of the region's samples is in the round's result: they are its samples of the next
  // round, which must be assigned (CHECK), and what it was assigned there goes back to the pool.
  // True if this was new.
  bool Postpone(int64_t round, const std::string& region);
  // The region has trained on `samples` in an assigned round. kInvalidArgument if these are not
  // the ones that it was assigned. True if this was new.
  StatusOr<bool> MarkDone(int64_t round, const std::string& region,
                          const std::vector<Range>& samples);
  // Reports of this region are not awaited any more.
  void Excuse(const std::string& region);
  // Somebody is awaited in `round`, and all who are have reported it.
  bool AllDone(int64_t round) const;
  // Commits next_round(), which is AllDone (CHECK).
  Entries Commit();
  // All of `round` and later goes back to the pool.
  Entries ReturnFrom(int64_t round);

 private:
  Entry* FindEntry(int64_t round, const std::string& region);

  SamplePool pool_;
  int64_t next_;
  int64_t unassigned_;
  std::map<int64_t, std::vector<Entry>> rounds_;
};

// For people: "[5, 8) [12, 13)".
std::string RangesText(const std::vector<Range>& ranges);

}  // namespace atl
