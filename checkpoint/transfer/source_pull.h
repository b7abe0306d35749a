// A checkpoint from one ChunkSource (an object store) into a directory of checkpoints.
//
// 1. The part files are made, or those of an earlier attempt opened (part_files.h): of a pull that
//    was cut short, from whatever kind of source, what the journal names is not asked for again.
// 2. Missing chunks are asked for in order, and compared with their hashes before they are
//    written. One that is wrong is asked for kTries times; then it is lost, and the others are
//    fetched all the same.
// 3. Each second, or after kSyncChunks chunks, the data is synced and then the journal written.
// 4. If nothing is lost, the whole becomes a checkpoint; else all stays for the next attempt.
// One thread calls.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "checkpoint/chunk_source.h"

namespace atl::checkpoint {

struct SourcePullOptions {
  ChunkSource* source = nullptr;
  std::string manifest_text;  // that the source gave
  std::string directory;      // is there
  int64_t round = 0;          // that the manifest must be of
  std::string root;           // hexadecimal: what the manifest's must be; empty: any
  std::function<void(int64_t done, int64_t total)> progress;
};

struct SourcePullResult {
  std::string path;           // of the checkpoint, or while something is lost, of its part files
  int64_t wanted = 0;         // bytes
  int64_t resumed = 0;        // of them, here from an earlier attempt
  int64_t received = 0;       // that came
  std::vector<ChunkId> lost;  // what the source has damaged, or lacks
};

// The round's name must be free in the directory. Errors: exit code 2 a manifest that breaks the
// rules, or is of another round or root, 4 the place, or the source's own.
StatusOr<SourcePullResult> PullFromSource(const SourcePullOptions& options);

}  // namespace atl::checkpoint
