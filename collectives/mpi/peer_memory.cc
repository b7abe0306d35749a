#include "collectives/mpi/peer_memory.h"

#include <sys/prctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace atl {

void PeerMemory::Allow() {
#if defined(PR_SET_PTRACER)
  prctl(PR_SET_PTRACER, getppid(), 0, 0, 0);  // fails where there is no Yama, which is as well
#endif
}

Status PeerMemory::Read(int local_rank, uint64_t address, float* to, int64_t count) const {
  return Transfer(local_rank, address, to, count, /*write=*/false);
}

Status PeerMemory::Write(int local_rank, uint64_t address, const float* from, int64_t count) const {
  return Transfer(local_rank, address, const_cast<float*>(from), count, /*write=*/true);
}

// The kernel moves at most 2 GiB at a time.
Status PeerMemory::Transfer(int local_rank, uint64_t address, float* here, int64_t count,
                            bool write) const {
  const int64_t bytes = count * static_cast<int64_t>(sizeof(float));
  for (int64_t done = 0; done < bytes;) {
    iovec local, remote;
    local.iov_base = reinterpret_cast<char*>(here) + done;
    remote.iov_base = reinterpret_cast<void*>(address + done);
    local.iov_len = remote.iov_len = bytes - done;
    const pid_t process = processes_[local_rank];
    const ssize_t moved = write ? process_vm_writev(process, &local, 1, &remote, 1, 0)
                                : process_vm_readv(process, &local, 1, &remote, 1, 0);
    if (moved > 0) {
      done += moved;
      continue;
    }
    const std::string what =
        absl::StrCat(write ? "writing" : "reading", " the vector of local rank ", local_rank,
                     ", process ", process, ": ", moved == 0 ? "nothing" : strerror(errno));
    if (moved < 0 && errno == EPERM) return absl::PermissionDeniedError(what);
    return absl::UnavailableError(what);
  }
  return OkStatus();
}

}  // namespace atl
