// Faults at a chosen system call: this program's own versions of the calls that change files count
// themselves and, at the chosen number, fail or kill the process.
#pragma once

#include <cstdint>

namespace atl::checkpoint {

enum class Fault {
  kNone,     // only counts
  kKill,     // SIGKILL before the call; a write does half of its work first
  kNoSpace,  // from this call on, whatever needs space fails with ENOSPC
  kIoError,  // this call, and no other, fails with EIO
};

// Counting starts at 0 again. Call from one thread, with no counted call under way.
void ArmFault(Fault fault, int64_t call);
// Ends the fault; returns how many calls were counted.
int64_t DisarmFault();

}  // namespace atl::checkpoint
