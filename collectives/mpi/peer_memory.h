// The vectors of the other ranks of a host where they lie, in those processes' own memory
// (process_vm_readv and its reverse): one copy, made by the kernel, and no slots.
//
// The system may forbid it (another user, a container's rules, Yama's ptrace_scope), so it is tried
// before it is used. Where Yama lets only descendants look, Allow() lets in those of this process's
// parent, which under mpirun are the ranks of the host.
// Thread rule: any.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <vector>

#include "base/status.h"

namespace atl {

class PeerMemory {
 public:
  // Processes by local rank.
  explicit PeerMemory(std::vector<pid_t> processes) : processes_(std::move(processes)) {}

  // Every rank calls this before another reads its memory.
  static void Allow();

  // kUnavailable if the process has ended, kPermissionDenied if the system forbids it.
  Status Read(int local_rank, uint64_t address, float* to, int64_t count) const;
  Status Write(int local_rank, uint64_t address, const float* from, int64_t count) const;

 private:
  Status Transfer(int local_rank, uint64_t address, float* here, int64_t count, bool write) const;

  const std::vector<pid_t> processes_;
};

}  // namespace atl
