#include "checkpoint/repair.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/chunks.h"
#include "checkpoint/encryption.h"
#include "checkpoint/names.h"
#include "checkpoint/sha256.h"
#include "checkpoint/staging.h"

namespace atl::checkpoint {
namespace {

namespace fs = std::filesystem;

std::string Parent(const std::string& path) {
  const std::string parent = fs::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

// Which directory has this name now; nothing: none has.
std::optional<std::pair<uint64_t, uint64_t>> IdentityOf(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0) return std::nullopt;
  return std::pair<uint64_t, uint64_t>(info.st_dev, info.st_ino);
}

// A link to `from` named `to`, or where that can't be, a copy.
Status LinkOrCopy(const std::string& from, const std::string& to) {
  if (link(from.c_str(), to.c_str()) == 0) return OkStatus();
  if (errno == ENOSPC || errno == EDQUOT || errno == EIO) {
    return ErrnoError(errno, absl::StrCat("cannot link ", to));
  }
  std::error_code error;
  fs::copy_file(from, to, error);
  if (error) return ErrnoError(error.value(), absl::StrCat("cannot copy ", from, " to ", to));
  return OkStatus();
}

class Repairing {
 public:
  explicit Repairing(const RepairOptions& options)
      : options_(options), parent_(Parent(options.path)) {
    for (const auto& source : options_.sources) {
      FetchedFrom from;
      from.source = source->name();
      result_.fetched.push_back(std::move(from));
    }
  }

  StatusOr<RepairResult> Run();

 private:
  Status Prepare();
  StatusOr<Manifest> ManifestFromSources();
  // The own one with the replicated files that are wanted.
  StatusOr<Manifest> MendedManifest(const Manifest& own);
  Status FitsEncrypted(const Manifest& own, const Manifest& other) const;
  Status CheckOwnState(const Manifest& manifest) const;
  int64_t OwnHashFiles(const Manifest& manifest) const;
  Status FindDamage();
  Status MarkFiles(bool exists);
  // Fills result_.lost; with an empty `staging` nothing is written.
  Status Build(const std::string& staging);
  Status BuildFile(size_t index, const std::string& staging);
  StatusOr<std::string> HashesOf(size_t index);
  Status BuildChunks(size_t index, const std::string& hashes, const Fd* file,
                     const std::string& path);
  std::optional<std::string> OwnChunk(const ManifestFile& file, int64_t chunk,
                                      absl::string_view hash) const;
  std::optional<std::string> Fetch(const ManifestFile& file, int64_t chunk, absl::string_view hash);
  Status Commit(const std::string& staging);
  Status MakeFolders(const std::string& staging) const;
  void Lose(const std::string& file, int64_t chunk) { result_.lost.push_back({file, chunk}); }

  const RepairOptions& options_;
  const std::string parent_;
  std::optional<std::pair<uint64_t, uint64_t>> inspected_;  // the directory
  int64_t round_ = 0;
  Manifest manifest_;
  std::string manifest_text_;
  std::vector<std::string> hashes_;                  // as manifest_.files; empty: not known
  std::vector<bool> data_damaged_, hashes_damaged_;  // likewise
  RepairResult result_;
};

Status Repairing::Prepare() {
  const std::optional<int64_t> round = RoundOfName(fs::path(options_.path).filename().string());
  if (!round) {
    return UsageError(absl::StrCat(options_.path,
                                   " is not named as a checkpoint (round-NNNNNN): give such a "
                                   "directory, or rename it"));
  }
  round_ = *round;
  std::error_code error;
  if (!fs::is_directory(parent_, error)) {
    return UsageError(absl::StrCat(parent_, " does not exist: nothing to repair there"));
  }
  return OkStatus();
}

// How many of the checkpoint's own hash files belong to the manifest.
int64_t Repairing::OwnHashFiles(const Manifest& manifest) const {
  int64_t own = 0;
  for (const ManifestFile& file : manifest.files) {
    const StatusOr<std::string> hashes =
        ReadFile(absl::StrCat(options_.path, "/", ChunkHashName(file.name)),
                 ChunkCount(file.bytes) * static_cast<int64_t>(kHashBytes));
    if (hashes.ok() && Sha256Hex(*hashes) == file.root) ++own;
  }
  return own;
}

// Another region's manifest would have its inner state take the place of what may be whole here.
// That needs the root, which says that it is meant.
Status Repairing::CheckOwnState(const Manifest& manifest) const {
  if (!options_.root.empty()) return OkStatus();
  for (const ManifestFile& file : manifest.files) {
    if (file.file_class == FileClass::kReplicated) continue;
    const StatusOr<std::string> hashes =
        ReadFile(absl::StrCat(options_.path, "/", ChunkHashName(file.name)),
                 ChunkCount(file.bytes) * static_cast<int64_t>(kHashBytes));
    if (absl::IsNotFound(hashes.status()) || (hashes.ok() && Sha256Hex(*hashes) == file.root)) {
      continue;
    }
    return UsageError(absl::StrCat(
        options_.path, " has lost its manifest, and that of ", result_.manifest_from,
        " is another region's (or ", ChunkHashName(file.name),
        " is damaged too): its inner state would replace the one that is here. Nothing was "
        "changed; to have that, say which root is meant: ",
        RootOf(manifest, false)));
  }
  return OkStatus();
}

StatusOr<Manifest> Repairing::ManifestFromSources() {
  std::optional<Manifest> best;
  int64_t best_own = -1;
  std::string why_not;
  for (const auto& source : options_.sources) {
    const StatusOr<std::string> text = source->ReadManifest();
    StatusOr<Manifest> manifest = text.ok() ? ParseManifest(*text) : text.status();
    if (manifest.ok() && manifest->description.round != round_) {
      manifest = UsageError(absl::StrCat("it holds round ", manifest->description.round));
    }
    if (manifest.ok() && !options_.root.empty() && RootOf(*manifest, false) != options_.root) {
      manifest = UsageError("it has another root than the one that is asked for");
    }
    if (!manifest.ok()) {
      absl::StrAppend(&why_not, "; ", source->name(), ": ", manifest.status().message());
      continue;
    }
    if (best && options_.root.empty() && RootOf(*best, true) != RootOf(*manifest, true)) {
      return UsageError(absl::StrCat(result_.manifest_from, " and ", source->name(),
                                     " hold different rounds ", round_, ", and ", options_.path,
                                     " has no manifest that could tell which is right: name one"));
    }
    const int64_t own = OwnHashFiles(*manifest);
    if (own <= best_own) continue;
    best_own = own;
    result_.manifest_from = source->name();
    best = *std::move(manifest);
  }
  if (best) {
    RETURN_IF_ERROR(CheckOwnState(*best));
    return *std::move(best);
  }
  return UsageError(absl::StrCat(options_.path, " has no usable ", kManifestName,
                                 ", and no source has one", why_not));
}

// The files' keys follow from what both manifests say, and nobody without the key said it.
Status Repairing::FitsEncrypted(const Manifest& own, const Manifest& other) const {
  if (options_.key == nullptr) {
    return UsageError("it is encrypted: its manifest can't be written without the key");
  }
  RETURN_IF_ERROR(Annotate(options_.key->Check(own), options_.path));
  RETURN_IF_ERROR(options_.key->Check(other));
  return own.description.job == other.description.job ? OkStatus()
                                                      : UsageError("it is another job's");
}

StatusOr<Manifest> Repairing::MendedManifest(const Manifest& own) {
  const auto is_replicated = [](const ManifestFile& file) {
    return file.file_class == FileClass::kReplicated;
  };
  std::string why_not;
  for (const auto& source : options_.sources) {
    const StatusOr<std::string> text = source->ReadManifest();
    StatusOr<Manifest> manifest = text.ok() ? ParseManifest(*text) : text.status();
    if (manifest.ok() && RootOf(*manifest, true) != options_.replicated_root) {
      manifest = UsageError("its replicated files have another root");
    } else if (manifest.ok() && (manifest->description.round != own.description.round ||
                                 manifest->description.digest != own.description.digest)) {
      manifest = UsageError("it is the checkpoint of another state");
    }
    if (manifest.ok() && (manifest->encryption || own.encryption)) {
      const Status fits = FitsEncrypted(own, *manifest);
      if (!fits.ok()) manifest = fits;
    }
    if (!manifest.ok()) {
      absl::StrAppend(&why_not, "; ", source->name(), ": ", manifest.status().message());
      continue;
    }
    Manifest mended = own;
    std::erase_if(mended.files, is_replicated);
    std::copy_if(manifest->files.begin(), manifest->files.end(), std::back_inserter(mended.files),
                 is_replicated);
    std::sort(mended.files.begin(), mended.files.end(),
              [](const ManifestFile& a, const ManifestFile& b) { return a.name < b.name; });
    if (mended.encryption) {
      mended.encryption->replicated_salt = manifest->encryption->replicated_salt;
      ASSIGN_OR_RETURN(mended.encryption->mac, options_.key->Mac(mended));
    }
    // Under all rules of a manifest: it will be written.
    ASSIGN_OR_RETURN(const std::string written, WriteManifest(mended));
    RETURN_IF_ERROR(ParseManifest(written).status());
    result_.manifest_from = source->name();
    return mended;
  }
  return UsageError(absl::StrCat("no source has the replicated files of ", options_.path,
                                 " with root ", options_.replicated_root, why_not));
}

Status Repairing::FindDamage() {
  Inspection inspection;
  inspected_ = IdentityOf(options_.path);
  InspectOptions inspect;
  inspect.progress = options_.progress;
  std::optional<Manifest> substitute;
  const StatusOr<std::string> text =
      ReadFile(absl::StrCat(options_.path, "/", kManifestName), kMaxManifestBytes);
  const StatusOr<Manifest> own = text.ok() ? ParseManifest(*text) : text.status();
  const std::string& right = options_.replicated_root;
  if (!own.ok()) {
    ASSIGN_OR_RETURN(substitute, ManifestFromSources());
  } else if (!right.empty() && RootOf(*own, true) != right) {
    ASSIGN_OR_RETURN(substitute, MendedManifest(*own));
    inspect.instead_because = absl::StrCat("its replicated files have root ", RootOf(*own, true),
                                           ", not ", right, " as they should");
  }
  if (substitute) inspect.substitute = &*substitute;
  std::error_code error;
  const bool exists = fs::is_directory(options_.path, error);
  if (exists) {
    ASSIGN_OR_RETURN(inspection, Inspect(options_.path, inspect));
  } else {
    inspection.manifest = std::move(substitute);
    inspection.damages.push_back(
        {DamageKind::kManifest, kManifestName, -1, "the whole directory is missing"});
  }
  if (!inspection.manifest) return UsageError(absl::StrCat(options_.path, " changed meanwhile"));
  manifest_ = *std::move(inspection.manifest);
  if (manifest_.description.round != round_) {
    return UsageError(
        absl::StrCat(options_.path, " holds round ", manifest_.description.round, ": rename it"));
  }
  if (!options_.root.empty() && RootOf(manifest_, false) != options_.root) {
    return UsageError(absl::StrCat(options_.path, " has the root ", RootOf(manifest_, false),
                                   ", not the one that is asked for"));
  }
  if (!right.empty() && RootOf(manifest_, true) != right) {
    return UsageError(absl::StrCat("no source has the manifest of ", options_.path,
                                   " with replicated root ", right));
  }
  ASSIGN_OR_RETURN(manifest_text_, WriteManifest(manifest_));
  hashes_ = std::move(inspection.hashes);
  hashes_.resize(manifest_.files.size());
  result_.damages = std::move(inspection.damages);
  return MarkFiles(exists);
}

// Which files must be written anew.
Status Repairing::MarkFiles(bool exists) {
  const size_t files = manifest_.files.size();
  data_damaged_.assign(files, !exists);
  hashes_damaged_.assign(files, !exists);
  for (const Damage& damage : result_.damages) {
    for (size_t i = 0; i < files; ++i) {
      const std::string& name = manifest_.files[i].name;
      if (damage.file == name) data_damaged_[i] = true;
      if (damage.file != ChunkHashName(name)) continue;
      hashes_damaged_[i] = true;
      // Else the file's own bytes gave them back.
      if (hashes_[i].empty()) data_damaged_[i] = true;
    }
    if (damage.kind == DamageKind::kContent) {
      return UsageError(absl::StrCat(options_.path, " can't be repaired: every hash is right, but ",
                                     damage.message));
    }
  }
  return OkStatus();
}

// The hashes of a file's chunks, compared with its root; empty if nobody has them.
StatusOr<std::string> Repairing::HashesOf(size_t index) {
  const ManifestFile& file = manifest_.files[index];
  if (!hashes_[index].empty() || file.bytes == 0) return hashes_[index];
  const int64_t bytes = ChunkCount(file.bytes) * static_cast<int64_t>(kHashBytes);
  const StatusOr<std::string> own =
      ReadFile(absl::StrCat(options_.path, "/", ChunkHashName(file.name)), bytes);
  if (own.ok() && Sha256Hex(*own) == file.root) return own;
  for (const auto& source : options_.sources) {
    StatusOr<std::string> hashes = source->ReadHashes(file);
    if (hashes.ok() && Sha256Hex(*hashes) == file.root) return hashes;
  }
  return std::string();
}

std::optional<std::string> Repairing::OwnChunk(const ManifestFile& file, int64_t chunk,
                                               absl::string_view hash) const {
  const std::string path = absl::StrCat(options_.path, "/", file.name);
  StatusOr<ChunkReader> reader = ChunkReader::Open(path, file.bytes);
  if (!reader.ok()) return std::nullopt;
  const StatusOr<absl::string_view> bytes = reader->Read(chunk);
  if (!bytes.ok() || Sha256(*bytes) != hash) return std::nullopt;
  return std::string(*bytes);
}

std::optional<std::string> Repairing::Fetch(const ManifestFile& file, int64_t chunk,
                                            absl::string_view hash) {
  for (size_t i = 0; i < options_.sources.size(); ++i) {
    StatusOr<std::string> bytes = options_.sources[i]->ReadChunk(file, chunk);
    if (!bytes.ok()) continue;
    if (Sha256(*bytes) != hash) {
      ++result_.fetched[i].bad;
      continue;
    }
    ++result_.fetched[i].chunks;
    result_.fetched[i].bytes += static_cast<int64_t>(bytes->size());
    return *std::move(bytes);
  }
  return std::nullopt;
}

Status Repairing::BuildChunks(size_t index, const std::string& hashes, const Fd* file,
                              const std::string& path) {
  const ManifestFile& listed = manifest_.files[index];
  for (int64_t chunk = 0; chunk < ChunkCount(listed.bytes); ++chunk) {
    const auto hash = absl::string_view(hashes).substr(chunk * kHashBytes, kHashBytes);
    std::optional<std::string> bytes = OwnChunk(listed, chunk, hash);
    if (!bytes) bytes = Fetch(listed, chunk, hash);
    if (!bytes) {
      Lose(listed.name, chunk);
    } else if (file != nullptr) {
      RETURN_IF_ERROR(WriteAt(*file, path, bytes->data(), static_cast<int64_t>(bytes->size()),
                              ChunkRange(chunk, listed.bytes).begin));
    }
  }
  return OkStatus();
}

Status Repairing::BuildFile(size_t index, const std::string& staging) {
  const ManifestFile& file = manifest_.files[index];
  ASSIGN_OR_RETURN(const std::string hashes, HashesOf(index));
  if (hashes.empty() && file.bytes > 0) {
    Lose(file.name, -1);
    return OkStatus();
  }
  if (staging.empty()) {
    return data_damaged_[index] ? BuildChunks(index, hashes, nullptr, "") : OkStatus();
  }
  const std::string path = absl::StrCat(staging, "/", file.name);
  if (!data_damaged_[index]) {
    RETURN_IF_ERROR(LinkOrCopy(absl::StrCat(options_.path, "/", file.name), path));
  } else if (file.bytes == 0) {
    RETURN_IF_ERROR(WriteNewFile(path, ""));
  } else {
    RETURN_IF_ERROR(ReserveFile(path, "", file.bytes));
    ASSIGN_OR_RETURN(const Fd opened, OpenFile(path, O_WRONLY));
    RETURN_IF_ERROR(BuildChunks(index, hashes, &opened, path));
  }
  const std::string hashes_name = ChunkHashName(file.name);
  const std::string hashes_path = absl::StrCat(staging, "/", hashes_name);
  if (hashes_damaged_[index]) return WriteNewFile(hashes_path, hashes);
  return LinkOrCopy(absl::StrCat(options_.path, "/", hashes_name), hashes_path);
}

Status Repairing::MakeFolders(const std::string& staging) const {
  std::vector<std::string> files;
  for (const ManifestFile& file : manifest_.files) files.push_back(file.name);
  files.push_back(absl::StrCat(kChunkFolder, "/x"));
  for (const std::string& name : files) {
    RETURN_IF_ERROR(MakeDirectories(Parent(absl::StrCat(staging, "/", name))));
  }
  return OkStatus();
}

Status Repairing::Build(const std::string& staging) {
  if (!staging.empty()) RETURN_IF_ERROR(MakeFolders(staging));
  for (size_t i = 0; i < manifest_.files.size(); ++i) RETURN_IF_ERROR(BuildFile(i, staging));
  if (staging.empty()) return OkStatus();
  for (const std::string& name : UnlistedFiles(options_.path, manifest_)) {
    const std::string to = absl::StrCat(staging, "/", name);
    RETURN_IF_ERROR(MakeDirectories(Parent(to)));
    RETURN_IF_ERROR(LinkOrCopy(absl::StrCat(options_.path, "/", name), to));
  }
  return OkStatus();
}

Status Repairing::Commit(const std::string& staging) {
  RETURN_IF_ERROR(SyncTree(staging));
  RETURN_IF_ERROR(WriteNewFile(absl::StrCat(staging, "/", kManifestName), manifest_text_));
  RETURN_IF_ERROR(SyncDirectory(staging));
  RETURN_IF_ERROR(Checkpoint::Open(staging).status());
  ASSIGN_OR_RETURN(const FileLock lock, LockDirectory(parent_, options_.lock_seconds));
  if (IdentityOf(options_.path) != inspected_) {
    return WithExitCode(
        absl::AbortedError(absl::StrCat(options_.path,
                                        " was replaced or removed while it was repaired: nothing "
                                        "was changed")),
        ExitCode::kEnvironment);
  }
  return PutInPlace(parent_, staging, round_);
}

StatusOr<RepairResult> Repairing::Run() {
  RETURN_IF_ERROR(Prepare());
  if (!options_.dry_run) {
    const StatusOr<FileLock> lock = LockDirectory(parent_, 0);
    if (lock.ok()) ClearLeftovers(parent_);
    if (!lock.ok() && !absl::IsFailedPrecondition(lock.status())) return lock.status();
  }
  RETURN_IF_ERROR(FindDamage());
  if (result_.damages.empty()) return std::move(result_);
  if (options_.dry_run) {
    RETURN_IF_ERROR(Build(""));
    return std::move(result_);
  }
  int64_t bytes = 0;
  for (size_t i = 0; i < data_damaged_.size(); ++i) {
    if (data_damaged_[i]) bytes += manifest_.files[i].bytes;
  }
  RETURN_IF_ERROR(CheckFreeSpace(parent_, bytes));
  StatusOr<HeldStaging> staging = MakeHeldStaging(parent_, round_);
  if (!staging.ok()) return ExplainWriteError(staging.status(), parent_, bytes);
  Status status = Build(staging->path);
  if (status.ok() && result_.lost.empty()) status = Commit(staging->path);
  result_.repaired = status.ok() && result_.lost.empty();
  if (!result_.repaired) {
    const Status removed = RemoveTree(staging->path);
    LOG_IF(WARNING, !removed.ok()) << removed.message();
  }
  if (!status.ok()) return ExplainWriteError(status, parent_, bytes);
  return std::move(result_);
}

}  // namespace

StatusOr<RepairResult> Repair(const RepairOptions& options) { return Repairing(options).Run(); }

}  // namespace atl::checkpoint
