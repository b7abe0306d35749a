// Repair: a checkpoint that lost bytes is made whole from other replicas.
//
// A committed checkpoint is never written to, not even to mend it: a process that dies half-way, a
// disk that fills or a source that lies must leave what there was. So a new directory takes its
// place:
//   1. leftovers are removed, unless a save holds the directory's lock: that save has done it.
//      Repairs take the lock for moments only, so that saves go on beside them;
//   2. the manifest is the checkpoint's own. If that is lost: of the sources' manifests the one
//      that most of the checkpoint's own hash files belong to (another region's differs in regional
//      files). Sources that contradict each other in replicated files, and a manifest by which
//      another region's inner state would replace what is here, are errors, unless the caller says
//      which root it wants. A checkpoint whose replicated files are not what they should be though
//      every hash fits (they were written from bad memory) gets the replicated files of a source
//      which has them right, where the caller says what is right (`replicated_root`);
//   3. everything is inspected (inspect.h). Nothing is damaged: nothing is changed;
//   4. a staging directory is made, which saves leave alone as long as we live. Whole files are
//      linked into it (the same bytes on the disk: this costs neither space nor time, and is safe
//      because committed files never change), or copied where links can't be made. Damaged files
//      are written anew, chunk by chunk: from the damaged file what matches its hash, the rest from
//      the first source that has it. Hash files come from a source if their root is right, or from
//      the file's own bytes;
//   5. what no source has is reported, the staging directory is removed, nothing is changed;
//   6. files, directories and, last, the manifest are synced; the new directory must open under
//      the rules of a reader; then, under the lock, if the checkpoint is still the one that was
//      inspected, the two change places in one step (staging.h), and the damaged one is removed.
// Files that the manifest does not list are taken along. A checkpoint whose directory is missing
// altogether is made from the sources. One thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "checkpoint/chunk_source.h"
#include "checkpoint/inspect.h"

namespace atl::checkpoint {

struct RepairOptions {
  std::string path;  // .../checkpoints/round-000041
  std::vector<std::unique_ptr<ChunkSource>> sources;
  // Hexadecimal; empty: any. With it, a manifest from a source must have this `root`.
  std::string root;
  // Hexadecimal; empty: the own manifest's. What the replicated files must be, whatever the own
  // manifest says.
  std::string replicated_root;
  // Of an encrypted checkpoint: needed where its manifest is written with another's replicated
  // files. May be null.
  const EncryptionKey* key = nullptr;
  double lock_seconds = 600;  // to wait for a save that is under way
  // What would be fetched, without writing anything.
  bool dry_run = false;
  std::function<void(int64_t bytes_done, int64_t bytes_total)> progress;  // of the inspection
};

struct FetchedFrom {
  std::string source;
  int64_t chunks = 0;
  int64_t bytes = 0;
  int64_t bad = 0;  // chunks that it gave and that did not match
};

struct RepairResult {
  std::vector<Damage> damages;       // what was found; empty: the checkpoint was whole
  std::vector<ChunkId> lost;         // what no source has
  std::vector<FetchedFrom> fetched;  // as options.sources
  std::string manifest_from;         // a source's name, if the own one was lost
  bool repaired = false;             // a new directory took the place

  bool whole() const { return repaired || damages.empty(); }
};

// Errors: no manifest anywhere, sources that contradict each other, a name that is not the round's,
// the lock is held (exit code 2); a disk that is full or fails (4): then all is as before. That
// some chunks can't be had is no error but `lost`.
StatusOr<RepairResult> Repair(const RepairOptions& options);

}  // namespace atl::checkpoint
