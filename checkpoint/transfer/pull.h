// A checkpoint from other places into a directory of checkpoints.
//
// 1. All sources are asked what they have (session.h); one is chosen (choose.h).
// 2. Its manifest comes from whoever offers it, and is checked against the offer and the hash that
//    was given; chunk hashes are checked against the manifest.
// 3. If the directory has it already, that is all. Free space is checked; part files are made, or
//    those of an earlier attempt opened (part_files.h).
// 4. Chunks come from all sources at once (download.h).
// 5. The whole becomes a checkpoint.
// Whatever fails, what is verified is kept, and the same pull goes on from there. One thread calls.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/socket.h"
#include "base/status.h"
#include "checkpoint/transfer/download.h"
#include "collectives/wan/engine.h"

namespace atl::checkpoint {

struct PullOptions {
  std::vector<Endpoint> sources;
  std::string directory;  // made if it is not there
  wan::Key key = {};
  std::optional<int64_t> round;  // else the newest
  std::string root;              // choose.h; 64 hexadecimal digits, or empty
  double rate_cap = 0;           // bytes a second over all sources; 0: none
  bool encrypt = true;           // as the sources do
  double stall_seconds = 60;     // nothing comes for so long: it ends
  std::function<void(const DownloadState&)> progress;
};

struct PullResult {
  std::string path;
  int64_t round = 0;
  std::string manifest_hash;  // hexadecimal
  std::string vouched;        // choose.h
  bool was_there = false;
  DownloadState download;
};

// Errors: exit code 2 what was asked for cannot be; 4 the place; else the sources.
StatusOr<PullResult> Pull(const PullOptions& options);

}  // namespace atl::checkpoint
