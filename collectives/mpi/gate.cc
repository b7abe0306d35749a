#include "collectives/mpi/gate.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <ctime>
#include <thread>

namespace atl {
namespace {

void PauseProcessor() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");
#endif
}

int32_t OwnCore() { return sched_getcpu() + 1; }  // 0: the system does not say

// Sleeps while `word` is `value`. Comes back early for no reason too.
void SleepWhile(std::atomic<uint32_t>& word, uint32_t value, absl::Duration longest) {
  const timespec limit = absl::ToTimespec(longest);
  syscall(SYS_futex, &word, FUTEX_WAIT, value, &limit, nullptr, 0);
}

}  // namespace

// The fence, with the one in WaitFor: either this rank sees the sleeper, or the sleeper sees the
// new count.
void Gate::Raise(uint32_t to) {
  core.store(OwnCore(), std::memory_order_relaxed);
  count.store(to, std::memory_order_seq_cst);
  if (sleepers.load(std::memory_order_seq_cst) != 0) {
    syscall(SYS_futex, &count, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
  }
}

Status WaitFor(Gate& gate, uint32_t target, const GateWait& how,
               absl::FunctionRef<Status(double)> while_waiting) {
  if (gate.Reached(target)) return OkStatus();
  const int32_t core = gate.core.load(std::memory_order_relaxed);
  const int pauses = core != 0 && core == OwnCore() ? 0 : how.pauses;
  for (int i = 0; i < pauses; ++i) {
    if (gate.Reached(target)) return OkStatus();
    PauseProcessor();
  }
  if (gate.Reached(target)) return OkStatus();
  const double start = how.clock->MonotonicSeconds();
  for (double waited = 0; waited < GateWait::kYieldSeconds;) {
    std::this_thread::yield();
    if (gate.Reached(target)) return OkStatus();
    RETURN_IF_ERROR(while_waiting(waited));
    waited = how.clock->MonotonicSeconds() - start;
  }
  for (;;) {
    gate.sleepers.fetch_add(1, std::memory_order_seq_cst);
    const uint32_t count = gate.count.load(std::memory_order_seq_cst);
    if (static_cast<int32_t>(count - target) < 0) SleepWhile(gate.count, count, how.longest_sleep);
    gate.sleepers.fetch_sub(1, std::memory_order_seq_cst);
    if (gate.Reached(target)) return OkStatus();
    RETURN_IF_ERROR(while_waiting(how.clock->MonotonicSeconds() - start));
    if (gate.Reached(target)) return OkStatus();
  }
}

}  // namespace atl
