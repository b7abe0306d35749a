// Hashes of chunks that several ranks write together, from memory: nothing is read back.
//
// What a rank owns of a vector is cut finer than chunks are (a slice of every gradient bucket), so
// most chunks have several writers. SHA-256 goes through a chunk from its first byte to its last;
// so a rank hashes its part and hands the state of the hash on to the next part's writer.
//
//   1. A file is the parts of all ranks, ascending; a chunk is cut into parts where the writer
//      changes. Every rank knows all slices, so all come to the same plan without talking.
//   2. Chunks are taken in batches, in order. Part k of a chunk of batch b is hashed in wave b + k:
//      in one wave different ranks work on different batches, and nobody waits for long.
//   3. After a wave in which a state has to change hands, all ranks exchange theirs.
//   4. Whoever hashed a chunk's last part has its hash.
// With one rank there is one wave a batch, and no exchange.
//
// Pure; any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "base/range.h"
#include "base/status.h"

namespace atl::checkpoint {

// Bytes of a file that one rank writes.
struct FilePart {
  Range bytes;
  int rank = 0;
};

// One file: its parts, ascending and adjacent from 0 to its end.
using FileParts = std::vector<FilePart>;

// A part of a chunk, hashed by one rank in one go.
struct HashPart {
  int64_t chunk = 0;  // numbered through all files
  int file = 0;
  Range bytes;         // of the file
  bool begins = true;  // its chunk; else the state comes from another rank
  bool ends = true;    // its chunk; else the state goes to another rank
};

class HashRelay {
 public:
  // The part of `rank` in the relay over these files. kInternal if a file's parts are not adjacent.
  static StatusOr<HashRelay> Plan(const std::vector<FileParts>& files, int rank, int ranks);

  int64_t waves() const { return static_cast<int64_t>(waves_.size()); }
  // This rank's parts in a wave, by chunk.
  const std::vector<HashPart>& Wave(int64_t wave) const { return waves_[wave]; }
  // The same on every rank.
  bool ExchangesAfter(int64_t wave) const { return exchanges_[wave]; }
  int64_t chunks() const { return chunks_; }

 private:
  std::vector<std::vector<HashPart>> waves_;
  std::vector<bool> exchanges_;
  int64_t chunks_ = 0;
};

}  // namespace atl::checkpoint
