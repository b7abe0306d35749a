// Are the replicas of one checkpoint the same? Pure.
//
// What is replicated is equal in all regions to the last bit. Each region that wrote a replica
// tells the root over its replicated files and 8 bytes of each chunk's hash, made from the very
// memory that was written; so a bit that flipped in some region's memory is found here, at the
// next save, and named with its chunk.
//   1. The roots: those of a minority differ. Without a majority every region is named.
//   2. Of those, file by file and chunk by chunk against the majority (without one: against the
//      first region by name). What a region left out for its size is compared no further.
//   3. Without a majority each region is asked whether its replica holds the state that has the
//      round's digest, on which all agreed. If some do, and those are the same, they are right.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "proto/control.pb.h"

namespace atl {

struct ReplicaDifference {
  std::string region;
  std::string file;    // empty: not known
  int64_t chunk = -1;  // the first that differs; -1: not known
  int64_t chunks = 0;  // that differ, in all files
  // Regions of the majority, and their root; none: there is no majority.
  std::vector<std::string> right;
  std::string right_root;
};

// Without a majority: what the regions say of their own replicas.
struct ReplicaProof {
  struct Replica {
    std::string path, root;
    std::optional<std::string> failure;  // empty: it is right; nothing: not answered yet
  };
  std::map<std::string, Replica> replicas;  // by region
};

// By region; empty if all are the same, or fewer than two told a root.
std::vector<ReplicaDifference> CompareReplicas(
    const std::map<std::string, pb::CheckpointReport>& reports);

}  // namespace atl
