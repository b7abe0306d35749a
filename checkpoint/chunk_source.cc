#include "checkpoint/chunk_source.h"

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "checkpoint/chunks.h"
#include "checkpoint/names.h"
#include "checkpoint/sha256.h"

namespace atl::checkpoint {
namespace {

class DirectorySource : public ChunkSource {
 public:
  explicit DirectorySource(const std::string& path) : path_(path) {}

  const std::string& name() const override { return path_; }

  StatusOr<std::string> ReadManifest() override {
    return ReadFile(absl::StrCat(path_, "/", kManifestName), kMaxManifestBytes);
  }

  StatusOr<std::string> ReadHashes(const ManifestFile& file) override {
    return ReadFile(absl::StrCat(path_, "/", ChunkHashName(file.name)),
                    ChunkCount(file.bytes) * static_cast<int64_t>(kHashBytes));
  }

  StatusOr<std::string> ReadChunk(const ManifestFile& file, int64_t chunk) override {
    ASSIGN_OR_RETURN(ChunkReader reader,
                     ChunkReader::Open(absl::StrCat(path_, "/", file.name), file.bytes));
    ASSIGN_OR_RETURN(const absl::string_view bytes, reader.Read(chunk));
    return std::string(bytes);
  }

 private:
  const std::string path_;
};

}  // namespace

std::unique_ptr<ChunkSource> MakeDirectorySource(const std::string& path) {
  return std::make_unique<DirectorySource>(path);
}

}  // namespace atl::checkpoint
