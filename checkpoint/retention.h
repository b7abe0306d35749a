// Retention: which checkpoints of a directory stay, and how the others go.
//
// A checkpoint stays if it is among the `keep` newest, or if its round is a multiple of
// `keep_every`. What can't be used counts for nothing and is never removed: it may be all that a
// repair has to start from. One that somebody holds (a shared flock on its folder:
// transfer/served.h) stays for now. One that goes is first renamed to ".round-N.removed", durably,
// then deleted, so that nobody ever sees half of one; a deletion that was cut short is finished by
// the next save, prune or repair. One thread; the caller of RemoveCheckpoint holds the lock.
#pragma once

#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "base/status.h"
#include "checkpoint/checkpoint.h"

namespace atl::checkpoint {

// Of `rounds`, those that stay. Pure. keep >= 1; keep_every 0: none for that reason.
std::set<int64_t> RoundsThatStay(const std::set<int64_t>& rounds, int64_t keep, int64_t keep_every);

// Removes one committed checkpoint of `directory`.
Status RemoveCheckpoint(const std::string& directory, const Found& found);

struct PruneOptions {
  std::string directory;
  int64_t keep = 3;
  int64_t keep_every = 0;
  bool dry_run = false;
  // Before anything is removed, every chunk of the `keep` newest is checked, without the lock, and
  // one that is damaged does not count. Nor does one that has come or changed since: it stays.
  bool verify = false;
  double lock_seconds = 0;  // to wait for who has the lock
  std::function<void(int64_t bytes_done, int64_t bytes_total)> progress;  // of verify
};

struct PruneResult {
  std::vector<Found> kept;            // newest first
  std::vector<Found> removed;         // newest first; with dry_run: would be
  std::vector<std::string> ignored;   // what is there but does not count, a line each
  std::vector<std::string> failures;  // what could not be removed, a line each
  int64_t bytes_removed = 0;
};

// Holds the lock of the directory while it removes: never beside a save. Errors: no such directory,
// keep below 1 (exit code 2), the lock is held.
StatusOr<PruneResult> Prune(const PruneOptions& options);

}  // namespace atl::checkpoint
