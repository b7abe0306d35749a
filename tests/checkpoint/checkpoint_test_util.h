// A small model, its values, and a region of threads that saves it, for the tests of checkpoints.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/encryption.h"

namespace atl::checkpoint {

// A fresh directory under the tests' temporary directory, removed at the end.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Tensors of odd shapes, each on a multiple of `alignment` elements: with 256 there is padding.
std::vector<TensorSpec> SmallModel(int64_t alignment = 256, int64_t first = 0);
// Elements of the flat vector, padding included.
int64_t FlatSize(const std::vector<TensorSpec>& tensors);

// What element `index` of tensor number `tensor` of section number `section` holds in round
// `round`: a whole number, so that a reader in another language can compare exactly.
float ValueOf(int64_t round, int64_t section, int64_t tensor, int64_t index);
// The flat vector; padding holds a value that must not be stored.
std::vector<float> FlatVector(const std::vector<TensorSpec>& tensors, int64_t round,
                              int64_t section);

// Cuts [0, size) into `parts` ranges at seeded places; some may be empty.
std::vector<Range> Cut(int64_t size, int parts, uint64_t seed);

// Runs `body` once a rank, each in a thread of its own, and waits for all.
void RunRegion(int ranks, const std::function<void(int rank, Communicator& region)>& body);

struct SaveJob {
  std::string directory;
  int64_t round = 41;
  std::string digest = "00112233445566778899aabbccddeeff";
  // Of another region than "oslo" the regional sections hold other values.
  std::string region = "oslo";
  int64_t wrong_element = -1;  // of the first section: it holds another value
  int ranks = 1;
  uint64_t cut_seed = 1;
  int64_t max_file_bytes = 100'000;
  int keep = 3;
  int64_t keep_every = 0;
  double lock_seconds = 0;
  int pieces_a_rank = 3;
  WriteWay way = WriteWay::kBest;
  std::vector<TensorSpec> tensors = SmallModel();
  std::shared_ptr<const EncryptionKey> key;
  // Bounds what is saved, for tests that save often.
  std::vector<std::string> prefixes = {"model", "outer/momentum", "optim/exp_avg"};
};
SaveOptions OptionsOf(const SaveJob& job);
// What each rank gets from Save.
std::vector<StatusOr<SaveResult>> SaveEverywhere(const SaveJob& job);

// Reads every section with `ranks` threads, each its own ranges, in the geometry `tensors`, and
// compares every element with ValueOf(round, ...).
void ExpectHolds(const std::string& path, int64_t round, const std::vector<TensorSpec>& tensors,
                 const std::vector<std::string>& prefixes, int ranks, uint64_t cut_seed,
                 const EncryptionKey* key = nullptr);

// "root" of the manifest in the checkpoint `path`.
std::string RootIn(const std::string& path);
// Names in a directory, sorted.
std::vector<std::string> NamesIn(const std::string& directory);

}  // namespace atl::checkpoint
