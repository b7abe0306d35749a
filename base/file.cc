#include "base/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"

namespace atl {

void Fd::Reset(int fd) {
  if (fd_ >= 0) close(fd_);
  fd_ = fd;
}

StatusOr<Fd> OpenFile(const std::string& path, int flags, mode_t mode) {
  const int fd = open(path.c_str(), flags | O_CLOEXEC, mode);
  if (fd < 0) return ErrnoError(errno, absl::StrCat("cannot open ", path));
  return Fd(fd);
}

StatusOr<int64_t> FileSize(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0) return ErrnoError(errno, absl::StrCat("cannot read ", path));
  if (!S_ISREG(info.st_mode))
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a regular file"));
  return info.st_size;
}

StatusOr<std::string> ReadFile(const std::string& path, int64_t limit) {
  ASSIGN_OR_RETURN(const int64_t size, FileSize(path));
  if (size > limit) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has ", size, " bytes; at most ", limit, " are accepted here"));
  }
  ASSIGN_OR_RETURN(Fd fd, OpenFile(path, O_RDONLY));
  std::string content(static_cast<size_t>(size), '\0');
  RETURN_IF_ERROR(ReadAt(fd, path, content.data(), size, 0));
  return content;
}

Status ReadAt(const Fd& fd, const std::string& path, void* data, int64_t size, int64_t offset) {
  auto* out = static_cast<char*>(data);
  while (size > 0) {
    const ssize_t got = pread(fd.get(), out, static_cast<size_t>(size), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoError(errno, absl::StrCat("cannot read ", path));
    if (got == 0)
      return absl::DataLossError(
          absl::StrCat(path, " ends at byte ", offset, ", ", size, " bytes too early"));
    out += got, offset += got, size -= got;
  }
  return OkStatus();
}

Status WriteAt(const Fd& fd, const std::string& path, const void* data, int64_t size,
               int64_t offset) {
  const auto* in = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t put = pwrite(fd.get(), in, static_cast<size_t>(size), offset);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return ErrnoError(errno, absl::StrCat("cannot write ", path));
    in += put, offset += put, size -= put;
  }
  return OkStatus();
}

Status SyncFile(const Fd& fd, const std::string& path) {
  if (fsync(fd.get()) != 0) return ErrnoError(errno, absl::StrCat("cannot sync ", path));
  return OkStatus();
}

Status SyncDirectory(const std::string& path) {
  ASSIGN_OR_RETURN(Fd fd, OpenFile(path, O_RDONLY | O_DIRECTORY));
  RETURN_IF_ERROR(SyncFile(fd, path));
  // XFS says of a directory that is open that it is on the disk when the file system was shut down
  // meanwhile, after an error of its log, and it is not. A directory can't be opened from then on.
  return OpenFile(path, O_RDONLY | O_DIRECTORY).status();
}

Status WriteFileAtomically(const std::string& path, absl::string_view content, mode_t mode) {
  const std::string staging = absl::StrCat(path, ".", getpid(), ".tmp");
  const Status written = [&]() -> Status {
    ASSIGN_OR_RETURN(Fd fd, OpenFile(staging, O_WRONLY | O_CREAT | O_TRUNC, mode));
    RETURN_IF_ERROR(WriteAt(fd, staging, content.data(), static_cast<int64_t>(content.size()), 0));
    RETURN_IF_ERROR(SyncFile(fd, staging));
    if (rename(staging.c_str(), path.c_str()) != 0)
      return ErrnoError(errno, absl::StrCat("cannot rename to ", path));
    return OkStatus();
  }();
  if (!written.ok()) {
    unlink(staging.c_str());
    return written;
  }
  const std::string parent = std::filesystem::path(path).parent_path().string();
  return SyncDirectory(parent.empty() ? "." : parent);
}

Status MakeDirectories(const std::string& path, mode_t mode) {
  struct stat info;
  if (stat(path.c_str(), &info) == 0) {
    if (S_ISDIR(info.st_mode)) return OkStatus();
    return WithExitCode(
        absl::FailedPreconditionError(absl::StrCat(path, " exists and is not a directory")),
        ExitCode::kUsage);
  }
  const std::string parent = std::filesystem::path(path).parent_path().string();
  if (!parent.empty() && parent != path) RETURN_IF_ERROR(MakeDirectories(parent, mode));
  if (mkdir(path.c_str(), mode) != 0 && errno != EEXIST) {
    return ErrnoError(errno, absl::StrCat("cannot create directory ", path));
  }
  return OkStatus();
}

StatusOr<int64_t> FreeSpaceBytes(const std::string& path) {
  std::filesystem::path place = std::filesystem::absolute(path);
  struct statvfs info;
  while (statvfs(place.c_str(), &info) != 0) {
    if (errno != ENOENT || place == place.parent_path()) {
      return ErrnoError(errno, absl::StrCat("cannot ask for the free space of ", path));
    }
    place = place.parent_path();
  }
  return static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
}

StatusOr<FileLock> FileLock::Acquire(const std::string& path) {
  ASSIGN_OR_RETURN(Fd fd, OpenFile(path, O_RDWR | O_CREAT, 0644));
  if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) {
      return WithExitCode(
          absl::FailedPreconditionError(absl::StrCat("another process holds ", path)),
          ExitCode::kEnvironment);
    }
    return ErrnoError(errno, absl::StrCat("cannot lock ", path));
  }
  return FileLock(std::move(fd));
}

}  // namespace atl
