#include "checkpoint/chunks.h"

#include <fcntl.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"

namespace atl::checkpoint {

Range ChunkRange(int64_t chunk, int64_t bytes) {
  return {chunk * kChunkBytes, std::min((chunk + 1) * kChunkBytes, bytes)};
}

StatusOr<ChunkReader> ChunkReader::Open(const std::string& path, int64_t bytes) {
  ASSIGN_OR_RETURN(Fd file, OpenFile(path, O_RDONLY));
  return ChunkReader(path, bytes, std::move(file));
}

StatusOr<absl::string_view> ChunkReader::Read(int64_t chunk) {
  const Range range = ChunkRange(chunk, bytes_);
  buffer_.resize(static_cast<size_t>(range.size()));
  RETURN_IF_ERROR(ReadAt(file_, path_, buffer_.data(), range.size(), range.begin));
  return buffer_;
}

StatusOr<absl::string_view> ChunkReader::ReadVerified(int64_t chunk, absl::string_view hash) {
  ASSIGN_OR_RETURN(const absl::string_view bytes, Read(chunk));
  if (Sha256(bytes) == hash) return bytes;
  const Range range = ChunkRange(chunk, bytes_);
  return WithExitCode(
      absl::DataLossError(absl::StrCat(
          path_, " is damaged in chunk ", chunk, " (bytes ", range.begin, " to ", range.end,
          "): it does not match its hash. Take an older checkpoint or another region's copy")),
      ExitCode::kUsage);
}

}  // namespace atl::checkpoint
