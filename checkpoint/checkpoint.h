// A checkpoint: one directory, never changed once committed, in the layout that any user of
// safetensors can open.
//
//     round-000041/
//       model-00001-of-00001.safetensors  model.safetensors.index.json   whole tensors, Hugging
//       Face names outer/momentum-00001-of-00001.safetensors                        one group of
//       files a section optim/exp_avg-....safetensors  optim/exp_avg_sq-....safetensors
//       chunks/<file, '/' as '_'>.b32                                     SHA-256 of every 4 MiB of
//       the file, 32 bytes each, in order MANIFEST.json the commit record, written last
//
// All ranks of a region save together; each writes its own byte ranges of every file with pwrite.
// Steps (the race that each closes):
//   1. rank 0 checks the free space and makes the staging directory ".round-000041.partial" with
//   all files at full size and their headers (a full disk is
//      found before anything is written);
//   2. every rank writes the slices that it owns; coverage is checked: every byte of every tensor
//   has exactly one writer;
//   3. ranks hash chunks, a share each, from the files;
//   4. rank 0 writes hashes, fsyncs every file and directory, then the manifest last, and fsyncs;
//   5. the staging directory is renamed and the parent fsynced: the checkpoint exists. Before that,
//   readers ignore it.
//   6. only then older checkpoints beyond `keep` are removed.
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

enum class SectionClass {
  kReplicated,
  kRegional
};  // equal in all regions; of the region that wrote it

// One flat vector to save: the parameters, a moment.
struct Section {
  std::string prefix;  // "model", "outer/momentum", "optim/exp_avg"
  SectionClass section_class = SectionClass::kReplicated;
  std::vector<Slice>
      slices;  // what this rank writes; the ranks' slices cover the vector exactly once
};

// What a manifest says besides files.
struct Description {
  int64_t round = 0;
  std::string digest;  // hex, of the outer state
  int64_t next_sample = 0;
  int64_t inner_steps = 0;
  std::string region;
  std::string job;
  std::string model_yaml;  // resolved model, as text, compared on load
  uint64_t seed = 0;
};

struct SaveOptions {
  std::string directory;  // .../checkpoints
  Description description;
  std::vector<TensorSpec> tensors;
  std::vector<Section> sections;  // the same prefixes in the same order on every rank
  int64_t max_file_bytes = int64_t{5} * 1000 * 1000 * 1000;
  int keep = 3;
};

struct SaveResult {
  std::string path;
  int64_t bytes = 0;
};

// Bytes on disk that such a checkpoint takes.
int64_t PredictedBytes(const std::vector<TensorSpec>& tensors, int sections);

// Collective over `region`: every rank calls it and every rank gets the same status.
StatusOr<SaveResult> Save(const SaveOptions& options, Communicator& region);

class Checkpoint {
 public:
  // Parses the manifest and checks it against the files' presence, sizes and headers; contents are
  // checked as they are read. Errors say which file and rule, and have exit code 2.
  static StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& path);
  virtual ~Checkpoint() = default;

  virtual const std::string& path() const = 0;
  virtual const Description& description() const = 0;
  virtual const std::vector<TensorSpec>& tensors() const = 0;  // offsets as written
  virtual bool HasSection(const std::string& prefix) const = 0;
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
};
// Complete checkpoints in `directory`, newest first. What is there but can't be used is told in
// `ignored`, a line each.
std::vector<Found> List(const std::string& directory, std::vector<std::string>* ignored);

}  // namespace atl::checkpoint
