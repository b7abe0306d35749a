// One rank's part of a save's bytes: writes its slices and hashes them on the way from memory.
//
//   1. What every rank writes, and so the relay of hashes (hash_relay.h), follows from the slices,
//      which all ranks know of each other.
//   2. Wave by wave, part by part: bytes go from memory into the hash and into the writer
//      (file_writer.h), 256 KiB at a time, so that they are read once.
//   3. Where the relay says so, all ranks exchange the states of the hashes that change hands.
//   4. At the end everything is on the disk; the hashes of the chunks that ended here are returned.
// Headers and the index were written when the files were made; they are only hashed here. But with
// keys every byte is encrypted on its way to hash and writer, and those bytes are written here too.
// One thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/coverage.h"
#include "checkpoint/encryption.h"
#include "checkpoint/file_plan.h"
#include "checkpoint/file_writer.h"
#include "checkpoint/hash_relay.h"
#include "checkpoint/manifest.h"
#include "checkpoint/sha256.h"

namespace atl::checkpoint {

class SliceWriter {
 public:
  // Brings this rank's status and bytes, gets those of all ranks; an error is all ranks'.
  using Exchange = std::function<StatusOr<std::vector<std::string>>(const Status&, std::string)>;

  struct Work {
    // Hash the replicated files, as they are, and write nothing.
    bool only_hash_replicated = false;
    // Of every file; empty: as the bytes are.
    std::vector<std::string> keys = {};
  };

  // What is there must outlive it. `plans` and `writers` by section; `index`: of kIndexName.
  SliceWriter(const SaveOptions& options, const Manifest& manifest,
              const std::vector<FilePlan>& plans, const std::vector<std::vector<Writer>>& writers,
              const std::string& index, int rank, int ranks, Work work);

  // This rank's share, for AllHashes. `*agreed` becomes true if all ranks have the same error.
  StatusOr<std::string> Run(const std::string& staging, const Exchange& exchange, bool* agreed);

  // The ranks' shares together: kHashBytes of every chunk of all files that were hashed, in order.
  // Checks that every byte of a tensor was gone through and every chunk hashed.
  StatusOr<std::string> AllHashes(const std::vector<std::string>& shares) const;

 private:
  // Bytes of a file that this rank has in memory.
  struct Bytes {
    Range bytes;
    const char* data = nullptr;
    bool head = false;  // a header or the index, not a tensor
  };

  void AddSection(size_t section, std::vector<FileParts>* parts);
  void AddWhole(int file, const std::string& content, std::vector<FileParts>* parts);
  int FileNumber(const std::string& name) const;
  Status Wave(const std::vector<HashPart>& parts);
  Status Part(const HashPart& part, Sha256Stream* stream);
  Status TakeStates(const std::vector<std::string>& all);

  const SaveOptions& options_;
  const Manifest& manifest_;
  const std::vector<FilePlan>& plans_;
  const std::vector<std::vector<Writer>>& writers_;
  const int rank_, ranks_;
  const Work work_;
  std::vector<std::unique_ptr<FileCipher>> ciphers_;  // by file; empty without keys
  std::string encrypted_;                             // a step's bytes
  Status planned_;
  HashRelay relay_;
  std::vector<std::vector<Bytes>> own_;  // by file, ascending
  std::string staging_;
  std::unique_ptr<FileWriter> writer_;
  int64_t written_ = 0;
  std::string outgoing_;                     // states, each behind its chunk's number
  std::map<int64_t, std::string> incoming_;  // states by chunk
  std::string hashes_;                       // each behind its chunk's number
};

}  // namespace atl::checkpoint
