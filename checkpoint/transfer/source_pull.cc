#include "checkpoint/transfer/source_pull.h"

#include <sys/stat.h>

#include <memory>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/exit_code.h"
#include "checkpoint/chunks.h"
#include "checkpoint/manifest.h"
#include "checkpoint/names.h"
#include "checkpoint/sha256.h"
#include "checkpoint/staging.h"
#include "checkpoint/transfer/part_files.h"
#include "checkpoint/transfer/wire.h"

namespace atl::checkpoint {
namespace {

constexpr int kTries = 3;
constexpr int kSyncChunks = 64;
constexpr double kSyncSeconds = 1;

class SourcePull {
 public:
  explicit SourcePull(const SourcePullOptions& options) : options_(options) {}
  StatusOr<SourcePullResult> Run();

 private:
  Status CheckSpace(const Manifest& manifest) const;
  Status GetFile(int number);
  // Empty: the source has not the right ones.
  StatusOr<std::string> Hashes(int number);
  StatusOr<std::string> Chunk(const ManifestFile& file, int64_t chunk, absl::string_view hash);
  Status Keep();
  void Tell() const {
    if (options_.progress) options_.progress(done_, result_.wanted);
  }

  const SourcePullOptions& options_;
  Manifest manifest_;
  std::unique_ptr<PartFiles> parts_;
  std::unique_ptr<ChunkMap> chunks_;
  std::string bitmap_;  // verified and written
  int unsynced_ = 0;    // chunks
  double synced_at_ = 0;
  int64_t done_ = 0;  // bytes
  SourcePullResult result_;
};

// What does not come now may come later; that ends a pull. What is wrong or missing does not.
bool IsLost(const Status& status) {
  return absl::IsNotFound(status) || absl::IsDataLoss(status) || absl::IsOutOfRange(status);
}

Status SourcePull::CheckSpace(const Manifest& manifest) const {
  const std::string hash = Sha256Hex(options_.manifest_text);
  const std::string folder = absl::StrCat(
      options_.directory, "/", PullName(manifest.description.round, hash.substr(0, kTokenDigits)));
  struct stat info;
  if (lstat(folder.c_str(), &info) == 0) return OkStatus();  // its space is reserved
  return CheckFreeSpace(options_.directory, result_.wanted);
}

StatusOr<std::string> SourcePull::Hashes(int number) {
  StatusOr<std::string> hashes = parts_->Hashes(number);
  if (hashes.ok()) return hashes;
  const ManifestFile& file = manifest_.files[number];
  hashes = std::string();
  if (file.bytes > 0) hashes = options_.source->ReadHashes(file);
  if (!hashes.ok() && !IsLost(hashes.status())) return hashes.status();
  if (!hashes.ok() || Sha256Hex(*hashes) != file.root) return std::string();
  RETURN_IF_ERROR(WithExitCode(parts_->PutHashes(number, *hashes), ExitCode::kEnvironment));
  return hashes;
}

StatusOr<std::string> SourcePull::Chunk(const ManifestFile& file, int64_t chunk,
                                        absl::string_view hash) {
  for (int attempt = 0; attempt < kTries; ++attempt) {
    StatusOr<std::string> bytes = options_.source->ReadChunk(file, chunk);
    if (!bytes.ok() && !IsLost(bytes.status())) return bytes.status();
    if (!bytes.ok()) break;
    result_.received += static_cast<int64_t>(bytes->size());
    if (Sha256(*bytes) == hash) return bytes;
  }
  return absl::DataLossError("it is damaged, or missing");
}

Status SourcePull::Keep() {
  synced_at_ = Clock::Real()->MonotonicSeconds();
  if (unsynced_ == 0) return OkStatus();
  unsynced_ = 0;
  Status status = parts_->Sync();
  if (status.ok()) status = parts_->WriteJournal(bitmap_);
  return ExplainWriteError(status, parts_->folder(), result_.wanted - done_);
}

Status SourcePull::GetFile(int number) {
  const ManifestFile& file = manifest_.files[number];
  ASSIGN_OR_RETURN(const std::string hashes, Hashes(number));
  if (hashes.empty() && file.bytes > 0) {
    result_.lost.push_back({ChunkHashName(file.name), -1});
    return OkStatus();
  }
  for (int64_t chunk = 0; chunk < ChunkCount(file.bytes); ++chunk) {
    const int64_t bit = chunks_->first(number) + chunk;
    const Range range = ChunkRange(chunk, file.bytes);
    if (BitOf(bitmap_, bit)) continue;
    const auto hash = absl::string_view(hashes).substr(chunk * kHashBytes, kHashBytes);
    const StatusOr<std::string> bytes = Chunk(file, chunk, hash);
    if (!bytes.ok() && !IsLost(bytes.status())) return bytes.status();
    if (!bytes.ok()) {
      result_.lost.push_back({file.name, chunk});
      continue;
    }
    const auto* const data = reinterpret_cast<const uint8_t*>(bytes->data());
    RETURN_IF_ERROR(ExplainWriteError(parts_->Write(number, range.begin, {data, bytes->size()}),
                                      parts_->folder(), result_.wanted - done_));
    SetBit(&bitmap_, bit);
    ++unsynced_;
    done_ += range.size();
    Tell();
    if (unsynced_ >= kSyncChunks || Clock::Real()->MonotonicSeconds() - synced_at_ > kSyncSeconds) {
      RETURN_IF_ERROR(Keep());
    }
  }
  return OkStatus();
}

StatusOr<SourcePullResult> SourcePull::Run() {
  ASSIGN_OR_RETURN(manifest_, ParseManifest(options_.manifest_text));
  if (!options_.root.empty() && options_.root != RootOf(manifest_, false) &&
      options_.root != RootOf(manifest_, true) &&
      options_.root != Sha256Hex(options_.manifest_text)) {
    return UsageError(absl::StrCat(options_.source->name(), " has the root ",
                                   RootOf(manifest_, false), ", not the one that is asked for"));
  }
  if (manifest_.description.round != options_.round) {
    return UsageError(absl::StrCat(options_.source->name(), " holds round ",
                                   manifest_.description.round, ", not ", options_.round));
  }
  for (const ManifestFile& file : manifest_.files) result_.wanted += file.bytes;
  RETURN_IF_ERROR(CheckSpace(manifest_));
  ASSIGN_OR_RETURN(parts_, PartFiles::Open(options_.directory, manifest_, options_.manifest_text));
  result_.path = parts_->folder();
  if (parts_->complete()) {
    result_.resumed = result_.wanted;
  } else {
    chunks_ = std::make_unique<ChunkMap>(manifest_);
    bitmap_ = parts_->bitmap();
    for (int64_t bit = 0; bit < chunks_->count(); ++bit) {
      if (BitOf(bitmap_, bit)) result_.resumed += chunks_->At(bit).bytes.size();
    }
    done_ = result_.resumed;
    Tell();
    synced_at_ = Clock::Real()->MonotonicSeconds();
    Status status;
    for (size_t i = 0; i < manifest_.files.size() && status.ok(); ++i) {
      status = GetFile(static_cast<int>(i));
    }
    // What has come is kept, however it ends.
    const Status kept = Keep();
    RETURN_IF_ERROR(status);
    RETURN_IF_ERROR(kept);
    if (!result_.lost.empty()) return result_;
  }
  ASSIGN_OR_RETURN(result_.path, parts_->Commit());
  return result_;
}

}  // namespace

StatusOr<SourcePullResult> PullFromSource(const SourcePullOptions& options) {
  return SourcePull(options).Run();
}

}  // namespace atl::checkpoint
