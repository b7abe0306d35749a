#include "checkpoint/replicated.h"

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "checkpoint/manifest.h"
#include "checkpoint/names.h"
#include "checkpoint/sha256.h"

namespace atl::checkpoint {
namespace {

// 2 MiB to tell, for 1 TiB of files.
constexpr int64_t kMostChunksTold = 256 << 10;

}  // namespace

StatusOr<Replicated> ReadReplicated(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text,
                   ReadFile(absl::StrCat(path, "/", kManifestName), kMaxManifestBytes));
  ASSIGN_OR_RETURN(const Manifest manifest, ParseManifest(text));
  Replicated replicated;
  replicated.root = RootOf(manifest, /*replicated_only=*/true);
  int64_t chunks = 0;
  for (const ManifestFile& file : manifest.files) {
    if (file.file_class == FileClass::kReplicated) chunks += ChunkCount(file.bytes);
  }
  if (chunks > kMostChunksTold) return replicated;
  for (const ManifestFile& file : manifest.files) {
    if (file.file_class != FileClass::kReplicated) continue;
    const auto bytes = static_cast<int64_t>(ChunkCount(file.bytes) * kHashBytes);
    ASSIGN_OR_RETURN(const std::string hashes,
                     ReadFile(absl::StrCat(path, "/", ChunkHashName(file.name)), bytes));
    Replicated::File& told = replicated.files.emplace_back();
    told.name = file.name;
    for (size_t at = 0; at < hashes.size(); at += kHashBytes) {
      told.prefixes.append(hashes, at, kHashPrefixBytes);
    }
  }
  return replicated;
}

}  // namespace atl::checkpoint
