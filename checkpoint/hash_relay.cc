#include "checkpoint/hash_relay.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "checkpoint/manifest.h"

namespace atl::checkpoint {
namespace {

// So many batches a rank: enough that the first and the last waves, in which some ranks have
// nothing to do, are few among all; few enough that the exchanges cost nothing.
constexpr int64_t kBatchesPerRank = 8;

Status CheckAdjacent(const FileParts& parts) {
  int64_t end = 0;
  for (const FilePart& part : parts) {
    if (part.bytes.begin != end || part.bytes.empty()) {
      return absl::InternalError(absl::StrCat("a file's parts: one begins at ", part.bytes.begin,
                                              " and the one before it ends at ", end));
    }
    end = part.bytes.end;
  }
  return OkStatus();
}

int64_t FileBytes(const FileParts& parts) { return parts.empty() ? 0 : parts.back().bytes.end; }

// The parts of one chunk, a writer's neighbouring parts as one.
FileParts PartsOfChunk(const FileParts& file, Range chunk, size_t* at) {
  FileParts parts;
  while (*at < file.size() && file[*at].bytes.begin < chunk.end) {
    const FilePart& part = file[*at];
    const Range bytes = {std::max(part.bytes.begin, chunk.begin),
                         std::min(part.bytes.end, chunk.end)};
    if (!parts.empty() && parts.back().rank == part.rank) {
      parts.back().bytes.end = bytes.end;
    } else {
      parts.push_back({bytes, part.rank});
    }
    if (part.bytes.end > chunk.end) break;  // goes on in the next chunk
    ++*at;
  }
  return parts;
}

}  // namespace

StatusOr<HashRelay> HashRelay::Plan(const std::vector<FileParts>& files, int rank, int ranks) {
  HashRelay relay;
  for (const FileParts& file : files) {
    RETURN_IF_ERROR(CheckAdjacent(file));
    relay.chunks_ += ChunkCount(FileBytes(file));
  }
  const int64_t batches = kBatchesPerRank * ranks;
  const int64_t batch_chunks = std::max<int64_t>(1, (relay.chunks_ + batches - 1) / batches);
  int64_t chunk = 0;
  for (size_t file = 0; file < files.size(); ++file) {
    const int64_t bytes = FileBytes(files[file]);
    size_t at = 0;
    for (int64_t begin = 0; begin < bytes; begin += kChunkBytes, ++chunk) {
      const Range range = {begin, std::min(begin + kChunkBytes, bytes)};
      const FileParts parts = PartsOfChunk(files[file], range, &at);
      const int64_t first_wave = chunk / batch_chunks;
      const size_t needed = static_cast<size_t>(first_wave) + parts.size();
      if (relay.waves_.size() < needed) {
        relay.waves_.resize(needed);
        relay.exchanges_.resize(needed, false);
      }
      for (size_t k = 0; k < parts.size(); ++k) {
        const bool ends = k + 1 == parts.size();
        if (!ends) relay.exchanges_[first_wave + k] = true;
        if (parts[k].rank != rank) continue;
        relay.waves_[first_wave + k].push_back(
            {chunk, static_cast<int>(file), parts[k].bytes, k == 0, ends});
      }
    }
  }
  return relay;
}

}  // namespace atl::checkpoint
