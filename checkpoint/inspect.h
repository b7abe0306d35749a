// Inspect: what of a checkpoint is whole, and what is not. Goes on after the first fault, so that
// an operator sees all of the damage at once and `Repair` knows what to fetch.
//
//   1. MANIFEST.json is parsed under its strict rules. Without one, and without a substitute,
//      nothing else can be judged;
//   2. every file that it lists is there, with its size, and its file of chunk hashes matches the
//      file's root;
//   3. every chunk, or a drawn part of all chunks (a scrub), is read and compared with its hash, by
//      several threads that take one chunk after the other; what they find is put in order. A file
//      whose hashes are damaged is read whole: if the hashes of what it holds give the root, only
//      the hashes are lost;
//   4. if nothing was found, Checkpoint::Open must accept it too (headers, sections, tensors).
// Reads only; safe beside a save. One thread calls; those that it starts end with the call.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "checkpoint/manifest.h"

namespace atl::checkpoint {

enum class DamageKind {
  kManifest,    // missing, or refused by its rules
  kMissing,     // a file is not there or can't be opened
  kSize,        // longer or shorter than the manifest says
  kHashes,      // the file of chunk hashes is missing or is not what the root says
  kChunk,       // does not match its hash
  kUnreadable,  // the disk gives an error for it
  kContent,     // every hash is right, and yet it can't be used
};
// "manifest", "missing", ...: for --json.
std::string DamageKindName(DamageKind kind);

struct Damage {
  DamageKind kind = DamageKind::kManifest;
  std::string file;    // relative, "MANIFEST.json" too
  int64_t chunk = -1;  // of kChunk and kUnreadable; -1: not of one chunk
  std::string message;
};

struct InspectOptions {
  // Share of all chunks that is read, from 0 to 1; at least one chunk. Which ones follows from
  // `seed` alone.
  double sample = 1.0;
  uint64_t seed = 0;
  // Taken where the checkpoint's own manifest is lost (which is told as damage). May be null.
  const Manifest* substitute = nullptr;
  // With `substitute`: it is taken whatever the own one is, because of this, which is told.
  std::string instead_because;
  // With the key of an encrypted checkpoint the manifest's mac and the headers are checked too. May
  // be null.
  const EncryptionKey* key = nullptr;
  // That read and hash; each holds a chunk in memory.
  int threads = 1;
  // Told after every chunk, from any of the threads, by one at a time. May be empty.
  std::function<void(int64_t bytes_done, int64_t bytes_total)> progress;
};

struct Inspection {
  std::optional<Manifest> manifest;   // if it could be parsed
  std::vector<std::string> hashes;    // as manifest->files; empty where they are not known
  std::vector<Damage> damages;        // in the order of the manifest
  std::vector<std::string> unlisted;  // what is in the directory and not in the manifest
  int64_t chunks = 0;                 // of all files
  int64_t chunks_checked = 0;
  int64_t bytes_checked = 0;

  bool whole() const { return damages.empty(); }
};

// Errors only if `path` is no directory (exit code 2).
StatusOr<Inspection> Inspect(const std::string& path, const InspectOptions& options);

// Chunks drawn from `total`: as many as `sample` of them, rounded up; ascending.
std::vector<int64_t> DrawChunks(int64_t total, double sample, uint64_t seed);

// Files of `directory` that the manifest does not list, relative, sorted.
std::vector<std::string> UnlistedFiles(const std::string& directory, const Manifest& manifest);

}  // namespace atl::checkpoint
