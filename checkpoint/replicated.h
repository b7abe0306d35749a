// What a region tells of the replicated files of a checkpoint, for others to compare theirs with:
// the root over them, and 8 bytes of each chunk's hash, as they were made from memory during the
// save. Of more files than 1 TiB the root alone.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "base/status.h"

namespace atl::checkpoint {

inline constexpr size_t kHashPrefixBytes = 8;

struct Replicated {
  struct File {
    std::string name;
    std::string prefixes;  // kHashPrefixBytes a chunk, in order
  };
  std::string root;  // hexadecimal, as `replicated_root` of the manifest
  std::vector<File> files;
};

// Of the committed checkpoint at `path`; reads the manifest and the hashes, no data.
StatusOr<Replicated> ReadReplicated(const std::string& path);

}  // namespace atl::checkpoint
