#include "collectives/mpi/shared_segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace atl {
namespace {

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

struct flock ByteOf(int rank) {
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = rank;
  lock.l_len = 1;
  return lock;
}

}  // namespace

StatusOr<std::unique_ptr<SharedSegment>> SharedSegment::Create(int64_t bytes) {
  CHECK_GE(bytes, kReserved);
  SegmentAddress address;
  address.pid = getpid();
  address.bytes = bytes;
  if (getrandom(address.name, sizeof address.name, 0) != sizeof address.name) {
    return ErrnoError(errno, "cannot draw a name for the shared segment");
  }
  // Else a file beyond the limit would end the process by a signal.
  rlimit largest = {};
  if (getrlimit(RLIMIT_FSIZE, &largest) == 0 && static_cast<uint64_t>(bytes) > largest.rlim_cur) {
    return absl::ResourceExhaustedError(absl::StrCat("a shared segment of ", bytes,
                                                     " bytes is more than the limit on files of ",
                                                     largest.rlim_cur, " bytes (ulimit -f)"));
  }
  const int fd = memfd_create("atoll-region", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return ErrnoError(errno, "cannot make a shared segment");
  address.fd = fd;
  auto segment = absl::WrapUnique(new SharedSegment(fd, address));
  if (fchmod(fd, 0600) != 0 || ftruncate(fd, bytes) != 0) {
    return ErrnoError(errno, absl::StrCat("cannot make a shared segment of ", bytes, " bytes"));
  }
  if (const int error = posix_fallocate(fd, 0, bytes); error != 0) {
    return ErrnoError(error, absl::StrCat("cannot get ", bytes, " bytes of shared memory"));
  }
  if (fcntl(fd, F_ADD_SEALS, kSeals) != 0) {
    return ErrnoError(errno, "cannot seal the shared segment's size");
  }
  RETURN_IF_ERROR(segment->Map());
  std::memcpy(segment->data_, address.name, sizeof address.name);
  return segment;
}

StatusOr<std::unique_ptr<SharedSegment>> SharedSegment::Open(const SegmentAddress& address) {
  const std::string path = absl::StrCat("/proc/", address.pid, "/fd/", address.fd);
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) return ErrnoError(errno, absl::StrCat("cannot open the shared segment ", path));
  auto segment = absl::WrapUnique(new SharedSegment(fd, address));
  struct stat about = {};
  const bool ours = fstat(fd, &about) == 0 && about.st_size == address.bytes &&
                    address.bytes >= kReserved && fcntl(fd, F_GET_SEALS) == kSeals;
  const auto other = [&] {
    return absl::NotFoundError(
        absl::StrCat(path, " is not the shared segment: rank 0 of this host sees other processes"));
  };
  if (!ours) return other();
  RETURN_IF_ERROR(segment->Map());
  if (std::memcmp(segment->data_, address.name, sizeof address.name) != 0) return other();
  return segment;
}

Status SharedSegment::Map() {
  void* const data = mmap(nullptr, address_.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  if (data == MAP_FAILED) return ErrnoError(errno, "cannot map the shared segment");
  data_ = static_cast<char*>(data);
  return OkStatus();
}

SharedSegment::~SharedSegment() {
  if (data_ != nullptr) munmap(data_, address_.bytes);
  Close();
}

void SharedSegment::Close() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

Status SharedSegment::Hold(int rank) {
  struct flock lock = ByteOf(rank);
  if (fcntl(fd_, F_OFD_SETLK, &lock) != 0) {
    return ErrnoError(errno, absl::StrCat("cannot lock the place of local rank ", rank));
  }
  return OkStatus();
}

bool SharedSegment::Holds(int rank) const {
  struct flock lock = ByteOf(rank);
  return fcntl(fd_, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

}  // namespace atl
