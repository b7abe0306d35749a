// Files as chunks of kChunkBytes, each with its SHA-256.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "base/file.h"
#include "base/range.h"
#include "base/status.h"
#include "checkpoint/manifest.h"
#include "checkpoint/sha256.h"

namespace atl::checkpoint {

// Bytes of chunk `chunk` of a file of `bytes`.
Range ChunkRange(int64_t chunk, int64_t bytes);

// Reads and hashes chunks of one file, with one buffer. One thread.
class ChunkReader {
 public:
  static StatusOr<ChunkReader> Open(const std::string& path, int64_t bytes);

  // The chunk's bytes; valid until the next call.
  StatusOr<absl::string_view> Read(int64_t chunk);
  // As Read, but an error (exit code 2, kDataLoss) that names the chunk if it is not the one with
  // this hash.
  StatusOr<absl::string_view> ReadVerified(int64_t chunk, absl::string_view hash);

 private:
  ChunkReader(std::string path, int64_t bytes, Fd file)
      : path_(std::move(path)), bytes_(bytes), file_(std::move(file)) {}

  std::string path_;
  int64_t bytes_;
  Fd file_;
  std::string buffer_;
};

}  // namespace atl::checkpoint
