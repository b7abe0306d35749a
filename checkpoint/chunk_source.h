// Where the bytes of a checkpoint may be had when its own copy has lost some: the directory of
// another replica, or a peer.
//
// Nothing that a source gives is trusted: the caller parses the manifest under its strict rules and
// compares every hash file with the file's root and every chunk with its hash. A source may lack
// anything, and may be slow; it must not give more bytes than it was asked for. One thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "checkpoint/manifest.h"

namespace atl::checkpoint {

struct ChunkId {
  std::string file;
  int64_t chunk = 0;
};

// Of one checkpoint.
class ChunkSource {
 public:
  virtual ~ChunkSource() = default;
  // For messages: a directory, a URL.
  virtual const std::string& name() const = 0;
  // The text of its MANIFEST.json, at most kMaxManifestBytes.
  virtual StatusOr<std::string> ReadManifest() = 0;
  // The hashes of the file's chunks, kHashBytes each, in order.
  virtual StatusOr<std::string> ReadHashes(const ManifestFile& file) = 0;
  // The bytes of a chunk: ChunkRange(chunk, file.bytes).size() of them.
  virtual StatusOr<std::string> ReadChunk(const ManifestFile& file, int64_t chunk) = 0;
  // A hint of what ReadChunk will soon be asked for, in this order; a source that is far away may
  // fetch ahead.
  virtual void Expect(const std::vector<ChunkId>&) {}
};

// The directory of a checkpoint. It is read without a lock: committed checkpoints do not change,
// and one that is removed meanwhile lacks what it lacks.
std::unique_ptr<ChunkSource> MakeDirectorySource(const std::string& path);

}  // namespace atl::checkpoint
