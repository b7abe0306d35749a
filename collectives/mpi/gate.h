// A counter in shared memory that one rank raises and others wait for.
//
// 1. The waiter polls: some pauses if every rank has a core and the rank it waits for was last seen
//    on another than its own. Then it gives up its time slice between polls for kYieldSeconds, so
//    that the rank it waits for can have the core.
// 2. Then it sleeps in the kernel (futex) until the counter is raised: a long wait costs nothing.
// 3. Between polls, and asleep at least every `longest_sleep`, it runs a callback: MPI's progress,
//    and whether the other rank still lives.
// Raising costs a store, and a system call only if somebody sleeps.
//
// Counters only grow; they wrap, so they are compared by their difference.
// Thread rule: one rank raises a gate, any number wait.
#pragma once

#include <atomic>
#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/status.h"

namespace atl {

// Zeroed memory is a gate at 0. A pair of cache lines, as processors fetch lines in pairs.
struct alignas(128) Gate {
  std::atomic<uint32_t> count;
  std::atomic<uint32_t> sleepers;
  std::atomic<int32_t> core;  // that raised it last, from 1; 0: unknown

  void Raise(uint32_t to);
  bool Reached(uint32_t target) const {
    return static_cast<int32_t>(count.load(std::memory_order_acquire) - target) >= 0;
  }
};
static_assert(std::atomic<uint32_t>::is_always_lock_free);

struct GateWait {
  static constexpr double kYieldSeconds = 100e-6;

  Clock* clock = Clock::Real();
  int pauses = 0;  // polls before the first yield; 0 where ranks outnumber cores
  absl::Duration longest_sleep = absl::Milliseconds(100);
};

// Until `gate` has reached `target`. `while_waiting` gets the seconds waited so far; its error ends
// the wait.
Status WaitFor(Gate& gate, uint32_t target, const GateWait& how,
               absl::FunctionRef<Status(double)> while_waiting);

}  // namespace atl
