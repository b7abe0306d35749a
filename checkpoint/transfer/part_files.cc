#include "checkpoint/transfer/part_files.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <map>
#include <system_error>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/names.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/sha256.h"
#include "checkpoint/staging.h"
#include "checkpoint/transfer/wire.h"

namespace atl::checkpoint {
namespace {

constexpr char kPart[] = ".part";

// A save that runs in the directory keeps its lock for so long at most, or it hangs.
constexpr double kLockSeconds = 600;
constexpr double kLockPollSeconds = 0.2;
constexpr double kDescriptorSeconds = 20;
constexpr double kDescriptorPollSeconds = 0.1;

bool Exists(const std::string& path) {
  struct stat info;
  return lstat(path.c_str(), &info) == 0;
}

Status Rename(const std::string& from, const std::string& to) {
  if (rename(from.c_str(), to.c_str()) == 0) return OkStatus();
  return ErrnoError(errno, absl::StrCat("cannot rename ", from, " to ", to));
}

Status Remove(const std::string& path) {
  if (unlink(path.c_str()) == 0 || errno == ENOENT) return OkStatus();
  return ErrnoError(errno, absl::StrCat("cannot remove ", path));
}

std::string FolderOf(const std::string& path) { return path.substr(0, path.rfind('/')); }

// Under its name only with all its space, so that its size tells.
Status ReservePart(const std::string& part, int64_t bytes) {
  const std::string making = part + ".new";
  RETURN_IF_ERROR(Remove(making));
  RETURN_IF_ERROR(bytes > 0 ? ReserveFile(making, "", bytes) : WriteNewFile(making, ""));
  return Rename(making, part);
}

StatusOr<FileLock> AwaitLock(const std::string& directory) {
  const std::string path = absl::StrCat(directory, "/.lock");
  const double deadline = Clock::Real()->MonotonicSeconds() + kLockSeconds;
  for (bool told = false;; told = true) {
    StatusOr<FileLock> lock = FileLock::Acquire(path);
    const bool held = absl::IsFailedPrecondition(lock.status());
    if (!held || Clock::Real()->MonotonicSeconds() > deadline) return lock;
    LOG_IF(INFO, !told) << "waiting for a save in " << directory;
    Clock::Real()->SleepFor(absl::Seconds(kLockPollSeconds));
  }
}

}  // namespace

StatusOr<std::unique_ptr<PartFiles>> PartFiles::Open(const std::string& directory,
                                                     const Manifest& manifest,
                                                     absl::string_view manifest_text) {
  std::unique_ptr<PartFiles> parts(new PartFiles(directory, manifest, manifest_text));
  const Status opened = parts->OpenAll();
  if (!opened.ok()) return WithExitCode(opened, ExitCode::kEnvironment);
  return parts;
}

// What attempts that ended in the middle of WriteFileAtomically left.
void PartFiles::RemoveLeftovers() const {
  std::error_code error;
  std::vector<std::string> left;
  for (std::filesystem::recursive_directory_iterator entry(folder_, error), end;
       !error && entry != end; entry.increment(error)) {
    const std::string path = entry->path().string();
    if (absl::EndsWith(path, ".tmp")) left.push_back(path);
  }
  for (const std::string& path : left) {
    const Status removed = Remove(path);
    LOG_IF(WARNING, !removed.ok()) << removed.message();
  }
}

Status PartFiles::OpenAll() {
  const std::string hash = Sha256(text_);
  const std::string token = absl::BytesToHexString(hash).substr(0, kTokenDigits);
  folder_ = absl::StrCat(directory_, "/", PullName(manifest_.description.round, token));
  RETURN_IF_ERROR(MakeDirectories(folder_));
  ASSIGN_OR_RETURN(lock_, OpenFile(folder_, O_RDONLY | O_DIRECTORY));
  if (flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("another process pulls this checkpoint into ", directory_));
  }
  RemoveLeftovers();
  const StatusOr<std::string> done = ReadFile(In(kManifestName), kMaxManifestBytes);
  complete_ = done.ok() && *done == text_;
  if (complete_) return OkStatus();
  RETURN_IF_ERROR(MakeFolder());
  for (const ManifestFile& listed : manifest_.files) {
    RETURN_IF_ERROR(OpenPart(listed, &files_.emplace_back()));
  }
  RETURN_IF_ERROR(SyncTree(folder_));
  ASSIGN_OR_RETURN(Journal journal,
                   Journal::Open(In(kJournalName), hash, ChunkMap(manifest_).count()));
  journal_ = std::move(journal);
  RETURN_IF_ERROR(SyncDirectory(folder_));
  return SyncDirectory(directory_);
}

Status PartFiles::MakeFolder() {
  RETURN_IF_ERROR(Remove(In(kManifestName)));
  const StatusOr<std::string> former = ReadFile(In(kPartManifestName), kMaxManifestBytes);
  if (!former.ok() || *former != text_) {
    RETURN_IF_ERROR(Remove(In(kJournalName)));
    RETURN_IF_ERROR(WriteFileAtomically(In(kPartManifestName), text_));
  }
  RETURN_IF_ERROR(MakeDirectories(In(kChunkFolder)));
  for (const ManifestFile& listed : manifest_.files) {
    RETURN_IF_ERROR(MakeDirectories(FolderOf(In(listed.name))));
  }
  return OkStatus();
}

Status PartFiles::OpenPart(const ManifestFile& listed, File* file) {
  file->path = In(listed.name);
  const std::string part = file->path + kPart;
  // A commit that was cut short in its first step.
  if (Exists(file->path) && !Exists(part)) RETURN_IF_ERROR(Rename(file->path, part));
  const StatusOr<int64_t> there = FileSize(part);
  if (!there.ok() || *there != listed.bytes) {
    // What a journal says of it cannot be.
    RETURN_IF_ERROR(Remove(In(kJournalName)));
    RETURN_IF_ERROR(SyncDirectory(folder_));
    RETURN_IF_ERROR(Remove(part));
    RETURN_IF_ERROR(ReservePart(part, listed.bytes));
  }
  return OpenFile(part, O_WRONLY).status();
}

StatusOr<std::string> PartFiles::Hashes(int file) const {
  const ManifestFile& listed = manifest_.files[file];
  const int64_t bytes = ChunkCount(listed.bytes) * static_cast<int64_t>(kHashBytes);
  const std::string path = In(ChunkHashName(listed.name));
  ASSIGN_OR_RETURN(std::string hashes, ReadFile(path, bytes));
  if (static_cast<int64_t>(hashes.size()) != bytes || Sha256Hex(hashes) != listed.root) {
    return absl::DataLossError(absl::StrCat(path, " does not match the manifest"));
  }
  return hashes;
}

Status PartFiles::PutHashes(int file, absl::string_view hashes) const {
  return WriteFileAtomically(In(ChunkHashName(manifest_.files[file].name)), hashes);
}

// When others use up the process's descriptors, that passes: it is waited for a while.
StatusOr<std::shared_ptr<const Fd>> PartFiles::OpenToWrite(const File& file, int more_flags) {
  const std::string part = file.path + kPart;
  for (double waited = 0;; waited += kDescriptorPollSeconds) {
    auto opened = open_.Get(&file, part, O_WRONLY | more_flags);
    if (!absl::IsResourceExhausted(opened.status()) || waited > kDescriptorSeconds) return opened;
    Clock::Real()->SleepFor(absl::Seconds(kDescriptorPollSeconds));
  }
}

Status PartFiles::Write(int file, int64_t offset, std::span<const uint8_t> bytes) {
  File& to = files_[file];
  const std::string part = to.path + kPart;
  ASSIGN_OR_RETURN(const auto plain, OpenToWrite(to, 0));
  const auto size = static_cast<int64_t>(bytes.size());
  const bool aligned = offset % kSafetensorsAlignment == 0 &&
                       reinterpret_cast<uintptr_t>(bytes.data()) % kSafetensorsAlignment == 0;
  int64_t past = aligned && direct_ ? size / kSafetensorsAlignment * kSafetensorsAlignment
                                    : 0;  // bytes that go past the page cache
  if (past > 0) {
    const auto direct = OpenToWrite(to, O_DIRECT);
    if (direct.ok()) {
      RETURN_IF_ERROR(WriteAt(**direct, part, bytes.data(), past, offset));
    } else {
      direct_ = direct_ && absl::IsResourceExhausted(direct.status());
      past = 0;
    }
  }
  if (past < size) {
    RETURN_IF_ERROR(WriteAt(*plain, part, bytes.data() + past, size - past, offset + past));
  }
  std::lock_guard<std::mutex> lock(mutex_);
  to.plain = plain;  // what fails to reach the disk is told to those who have it open
  unsynced_.insert(file);
  return OkStatus();
}

Status PartFiles::Sync() {
  std::map<int, std::shared_ptr<const Fd>> files;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    for (const int file : unsynced_) files[file] = std::move(files_[file].plain);
    unsynced_.clear();
  }
  for (const auto& [file, plain] : files) {
    RETURN_IF_ERROR(SyncFile(*plain, files_[file].path + kPart));
  }
  return OkStatus();
}

// Steps 1 and 2.
Status PartFiles::FinishFolder() {
  RETURN_IF_ERROR(Sync());
  for (const File& file : files_) RETURN_IF_ERROR(Rename(file.path + kPart, file.path));
  RETURN_IF_ERROR(SyncTree(folder_));
  return WriteFileAtomically(In(kManifestName), text_);
}

StatusOr<std::string> PartFiles::Commit() {
  if (!complete_) RETURN_IF_ERROR(WithExitCode(FinishFolder(), ExitCode::kEnvironment));
  complete_ = true;
  for (const char* name : {kPartManifestName, kJournalName}) RETURN_IF_ERROR(Remove(In(name)));
  RETURN_IF_ERROR(SyncDirectory(folder_));
  RETURN_IF_ERROR(Checkpoint::Open(folder_).status());
  ASSIGN_OR_RETURN(const FileLock lock, AwaitLock(directory_));
  const int64_t round = manifest_.description.round;
  // A save may have put its own there since the pull began.
  const std::string path = absl::StrCat(directory_, "/", RoundName(round));
  std::error_code error;
  if (std::filesystem::exists(std::filesystem::symlink_status(path, error))) {
    const StatusOr<std::string> there =
        ReadFile(absl::StrCat(path, "/", kManifestName), kMaxManifestBytes);
    if (!there.ok() || *there != text_) {
      return UsageError(absl::StrCat(path,
                                     " has come meanwhile and is another one; what was "
                                     "pulled is whole in ",
                                     folder_));
    }
  }
  RETURN_IF_ERROR(WithExitCode(PutInPlace(directory_, folder_, round), ExitCode::kEnvironment));
  return absl::StrCat(directory_, "/", RoundName(round));
}

}  // namespace atl::checkpoint
