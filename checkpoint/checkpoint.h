// A checkpoint: one directory, never changed once committed, in the layout that any user of
// safetensors can open.
//
//     round-000041/
//       model-00001-of-00001.safetensors           whole tensors, Hugging Face names
//       model.safetensors.index.json               which tensor is in which file
//       outer/momentum-00001-of-00001.safetensors  one group of files a section
//       optim/exp_avg-....safetensors  optim/exp_avg_sq-....safetensors
//       chunks/<file, '/' as '_'>.b32              SHA-256 of every 4 MiB, 32 bytes each, in order
//       MANIFEST.json                              the commit record, written last
//
// All ranks of a region save together; each writes its own byte ranges of every file with pwrite.
// Steps (the race or fault that each closes):
//   1. the ranks compare what they are about to save and check coverage: every byte of every tensor
//      has exactly one writer (a missing shard is found now, not at the next resume);
//   2. rank 0 locks the directory (two writers in one place), clears what dead runs left, checks
//      the free space and makes the staging directory ".round-000041.TOKEN.partial" with all files
//      at full size and their headers (a full disk is found before anything is written). TOKEN is
//      new each time: a worker of a dead run that wakes up late can't write into it;
//   3. every rank writes the slices that it owns, hashes them on the way from memory, and fsyncs.
//      With a key, replicated files are hashed once more before that, in the clear: their salt
//      follows from it (encryption.h); then bytes are encrypted on their way to hash and disk;
//   4. the written bytes and the hashed chunks are counted;
//   5. rank 0 writes hashes, fsyncs every file and directory, then the manifest last, and fsyncs;
//   6. the staging directory is renamed and the parent fsynced: the checkpoint exists. Before that,
//      readers ignore it. One of the same round that is there already changes places with it;
//   7. only then older checkpoints beyond `keep` and `keep_every` are removed.
// A failure in any rank at any step is known to all ranks, leaves no staging directory, and keeps
// every older checkpoint.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/range.h"
#include "base/status.h"
#include "checkpoint/replicated.h"
#include "collectives/communicator.h"

namespace atl::checkpoint {

struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;
  Range elements;  // of the flat vector (offset and padding: gaps between tensors are not stored)
};

// Elements [range.begin, range.end) of the flat vector, in host memory.
struct Slice {
  Range range;
  const float* data = nullptr;
};

// Equal in all regions; of the region that wrote it.
enum class SectionClass { kReplicated, kRegional };

// One flat vector to save: the parameters, a moment.
struct Section {
  std::string prefix;  // "model", "outer/momentum", "optim/exp_avg"
  SectionClass section_class = SectionClass::kReplicated;
  // What this rank writes; the ranks' slices cover the vector exactly once.
  std::vector<Slice> slices;
};

// What a manifest says besides files.
struct Description {
  int64_t round = 0;
  std::string digest;  // hex, of the outer state
  int64_t next_sample = 0;
  std::vector<Range> returned;  // before next_sample, not trained on yet: ascending, apart
  int64_t inner_steps = 0;
  int64_t optimizer_updates = 0;  // of the inner optimizer's state saved here (bias correction)
  std::string region;
  std::string job;
  std::string model_yaml;  // resolved model, as text, compared on load
  uint64_t seed = 0;
};

// How bytes get to the disk.
enum class WriteWay {
  kBest,   // past the page cache with io_uring, where the system lets us
  kPlain,  // pwrite and fsync
};

class EncryptionKey;  // encryption.h

struct SaveOptions {
  std::string directory;  // .../checkpoints
  // Of all ranks and all regions the same; null: the files lie in the clear.
  std::shared_ptr<const EncryptionKey> key;
  Description description;
  std::vector<TensorSpec> tensors;
  std::vector<Section> sections;  // the same prefixes in the same order on every rank
  int64_t max_file_bytes = int64_t{5} * 1000 * 1000 * 1000;
  int keep = 3;
  int64_t keep_every = 0;  // rounds that are multiples of it stay as well; 0: none for that reason
  double lock_seconds = 10;  // to wait for a repair that commits in the same directory
  WriteWay way = WriteWay::kBest;
  // What went wrong on this rank while it got ready: the save then fails with it on all ranks.
  Status ready = OkStatus();
};

struct SaveResult {
  std::string path;
  int64_t bytes = 0;
  Replicated replicated;  // rank 0 only
};

// Bytes on disk that such a checkpoint takes, rounded up a little.
int64_t PredictedBytes(const std::vector<TensorSpec>& tensors, int sections);

// Collective over `region`: every rank calls it and every rank gets the same status. A full disk or
// another fault of the place has exit code 4. A round that is there already, whole and with the
// same description and tensors, is left as it is and reported as saved.
StatusOr<SaveResult> Save(const SaveOptions& options, Communicator& region);

class Checkpoint {
 public:
  // Parses the manifest and checks it against the files' presence, sizes and headers; contents are
  // checked as they are read. Errors say which file and rule, and have exit code 2.
  // With a key, which outlives the checkpoint: it must be encrypted with it and unchanged since,
  // else it is refused before a byte is used. Without, an encrypted one can be opened and verified,
  // and its headers are not looked at; only Read() refuses.
  static StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& path,
                                                    const EncryptionKey* key = nullptr);
  virtual ~Checkpoint() = default;

  virtual const std::string& path() const = 0;
  virtual const Description& description() const = 0;
  virtual const std::vector<TensorSpec>& tensors() const = 0;  // offsets as written
  virtual bool HasSection(const std::string& prefix) const = 0;
  // EncryptionKey::id() of its key; empty: it is not encrypted.
  virtual std::string key_id() const = 0;
  // Elements `range` of a section, in the geometry `tensors` of the reader (same names and shapes;
  // offsets may differ), into `out`; elements between tensors become zero. Every chunk touched is
  // verified against its hash. Any thread, in parallel.
  virtual Status Read(const std::string& prefix, const std::vector<TensorSpec>& tensors,
                      Range range, std::span<float> out) const = 0;
  // Checks every chunk of every file.
  virtual Status Verify() const = 0;
};

struct Found {
  std::string path;
  Description description;
  std::string key_id;  // empty: not encrypted
};
// Complete checkpoints in `directory`, newest first. What is there but can't be used is told in
// `ignored`, a line each.
std::vector<Found> List(const std::string& directory, std::vector<std::string>* ignored);

}  // namespace atl::checkpoint
