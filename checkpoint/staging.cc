#include "checkpoint/staging.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/log.h"
#include "base/random.h"
#include "base/units.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/names.h"
#include "checkpoint/retention.h"

namespace atl::checkpoint {
namespace {

namespace fs = std::filesystem;

bool Exists(const std::string& path) {
  struct stat info;
  return lstat(path.c_str(), &info) == 0;
}

Status Rename(const std::string& from, const std::string& to) {
  if (rename(from.c_str(), to.c_str()) == 0) return OkStatus();
  return ErrnoError(errno, absl::StrCat("cannot rename ", from, " to ", to));
}

void LogIfFailed(const Status& status) { LOG_IF(WARNING, !status.ok()) << status.message(); }

// Names in `directory`; none if it can't be read.
std::vector<std::string> NamesIn(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  return names;
}

// Old under the staging name, new in place; false if the file system has no such step.
StatusOr<bool> Exchange(const std::string& staging, const std::string& final_path) {
  if (renameat2(AT_FDCWD, staging.c_str(), AT_FDCWD, final_path.c_str(), RENAME_EXCHANGE) == 0) {
    return true;
  }
  if (errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP) return false;
  return ErrnoError(errno, absl::StrCat("cannot put ", staging, " in the place of ", final_path));
}

// Somebody alive fills it. Where directories can't be locked nobody is known to.
bool IsHeld(const std::string& path) {
  const StatusOr<Fd> directory = OpenFile(path, O_RDONLY | O_DIRECTORY);
  return directory.ok() && flock(directory->get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
}

std::string SpaceText(const std::string& directory, int64_t bytes) {
  const StatusOr<int64_t> available = FreeSpaceBytes(directory);
  std::string text =
      absl::StrCat("a checkpoint needs ", bytes, " bytes (", FormatBytes(bytes), ")");
  if (available.ok()) {
    absl::StrAppend(&text, ", ", directory, " has ", *available, " bytes free (",
                    FormatBytes(*available), ")");
  }
  return absl::StrCat(text,
                      "; free some space or lower checkpoint.keep. Older checkpoints are kept");
}

}  // namespace

StatusOr<FileLock> LockDirectory(const std::string& directory, double wait_seconds) {
  constexpr double kLookSeconds = 0.02;
  Clock* const clock = Clock::Real();
  const double deadline = clock->MonotonicSeconds() + wait_seconds;
  for (;;) {
    StatusOr<FileLock> lock = FileLock::Acquire(absl::StrCat(directory, "/.lock"));
    if (!absl::IsFailedPrecondition(lock.status()) || clock->MonotonicSeconds() >= deadline) {
      return lock;
    }
    clock->SleepFor(absl::Seconds(kLookSeconds));
  }
}

// Between the directory's making and its locking somebody may take it for a leftover: then another
// one is made.
StatusOr<HeldStaging> MakeHeldStaging(const std::string& directory, int64_t round) {
  constexpr int kTries = 20;
  for (int i = 0; i < kTries; ++i) {
    char token[4];
    FillWithSystemRandom(token, sizeof token);
    const std::string name =
        PartialName(round, absl::BytesToHexString(absl::string_view(token, sizeof token)));
    HeldStaging staging{absl::StrCat(directory, "/", name), Fd()};
    if (mkdir(staging.path.c_str(), 0755) != 0) {
      if (errno == EEXIST) continue;
      return ErrnoError(errno, absl::StrCat("cannot make ", staging.path));
    }
    StatusOr<Fd> held = OpenFile(staging.path, O_RDONLY | O_DIRECTORY);
    if (absl::IsNotFound(held.status())) continue;
    RETURN_IF_ERROR(held.status());
    staging.held = *std::move(held);
    if (flock(staging.held.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK) continue;
      LOG(WARNING) << "cannot hold " << staging.path << ": a save in the same directory may take "
                   << "it for a leftover";
      return staging;
    }
    if (Exists(staging.path)) return staging;
  }
  return EnvironmentError(absl::StrCat("cannot make a staging directory in ", directory));
}

void ClearLeftovers(const std::string& directory) {
  for (const std::string& name : NamesIn(directory)) {
    const std::string path = absl::StrCat(directory, "/", name);
    if (IsLeftoverName(name)) {
      if (IsHeld(path)) continue;
      LOG(INFO) << "removing " << path << ", left over by a run that ended while it saved";
      LogIfFailed(RemoveTree(path));
    } else if (const auto round = RoundOfReplacedName(name)) {
      const std::string final_path = absl::StrCat(directory, "/", RoundName(*round));
      LogIfFailed(Exists(final_path) ? RemoveTree(path) : Rename(path, final_path));
    }
  }
}

Status CheckFreeSpace(const std::string& directory, int64_t bytes) {
  ASSIGN_OR_RETURN(const int64_t available, FreeSpaceBytes(directory));
  if (available >= bytes) return OkStatus();
  return WithExitCode(
      absl::ResourceExhaustedError(absl::StrCat("disk full: ", SpaceText(directory, bytes))),
      ExitCode::kEnvironment);
}

Status ExplainWriteError(const Status& status, const std::string& directory, int64_t bytes) {
  if (!absl::IsResourceExhausted(status)) return WithExitCode(status, ExitCode::kEnvironment);
  return WithExitCode(absl::ResourceExhaustedError(
                          absl::StrCat(status.message(), "; ", SpaceText(directory, bytes))),
                      ExitCode::kEnvironment);
}

Status ReserveFile(const std::string& path, absl::string_view head, int64_t bytes) {
  ASSIGN_OR_RETURN(const Fd file, OpenFile(path, O_WRONLY | O_CREAT | O_EXCL));
  int failed = 0;
  do {
    failed = fallocate(file.get(), 0, 0, bytes) == 0 ? 0 : errno;
  } while (failed == EINTR);
  // Where space can't be reserved the file gets its size alone; a full disk is then found later.
  if (failed == EOPNOTSUPP || failed == ENOSYS) {
    failed = ftruncate(file.get(), bytes) == 0 ? 0 : errno;
  }
  if (failed != 0) return ErrnoError(failed, absl::StrCat("cannot reserve space for ", path));
  return WriteAt(file, path, head.data(), static_cast<int64_t>(head.size()), 0);
}

Status WriteNewFile(const std::string& path, absl::string_view content) {
  ASSIGN_OR_RETURN(const Fd file, OpenFile(path, O_WRONLY | O_CREAT | O_EXCL));
  RETURN_IF_ERROR(WriteAt(file, path, content.data(), static_cast<int64_t>(content.size()), 0));
  return SyncFile(file, path);
}

Status SyncTree(const std::string& directory) {
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string path = entry->path().string();
    if (entry->is_directory(error)) {
      RETURN_IF_ERROR(SyncTree(path));
    } else {
      ASSIGN_OR_RETURN(const Fd file, OpenFile(path, O_RDONLY));
      RETURN_IF_ERROR(SyncFile(file, path));
    }
  }
  if (error) return ErrnoError(error.value(), absl::StrCat("cannot list ", directory));
  return SyncDirectory(directory);
}

Status PutInPlace(const std::string& parent, const std::string& staging, int64_t round,
                  bool exchange) {
  const std::string final_path = absl::StrCat(parent, "/", RoundName(round));
  if (!Exists(final_path)) {
    RETURN_IF_ERROR(Rename(staging, final_path));
    const Status synced = SyncDirectory(parent);
    if (!synced.ok()) LogIfFailed(Rename(final_path, staging));
    return synced;
  }
  if (exchange) {
    ASSIGN_OR_RETURN(const bool exchanged, Exchange(staging, final_path));
    if (exchanged) {
      const Status synced = SyncDirectory(parent);
      if (synced.ok()) {
        LogIfFailed(RemoveTree(staging));
      } else {
        LogIfFailed(Exchange(staging, final_path).status());
      }
      return synced;
    }
  }
  const std::string old = absl::StrCat(parent, "/", ReplacedName(round));
  RETURN_IF_ERROR(Rename(final_path, old));
  Status status = SyncDirectory(parent);
  if (status.ok()) status = Rename(staging, final_path);
  if (status.ok()) {
    status = SyncDirectory(parent);
    if (!status.ok()) LogIfFailed(Rename(final_path, staging));
  }
  LogIfFailed(status.ok() ? RemoveTree(old) : Rename(old, final_path));
  return status;
}

Status RemoveTree(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) return ErrnoError(error.value(), absl::StrCat("cannot remove ", path));
  return OkStatus();
}

void KeepNewest(const std::string& directory, int keep, int64_t keep_every,
                const std::string& just_written) {
  int kept = 1;  // the one just written
  for (const Found& found : List(directory, nullptr)) {
    if (found.path == just_written) continue;
    if (kept < keep) {
      ++kept;
      continue;
    }
    if (keep_every > 0 && found.description.round % keep_every == 0) continue;
    LogIfFailed(Annotate(RemoveCheckpoint(directory, found), "an old checkpoint stays"));
  }
}

}  // namespace atl::checkpoint
