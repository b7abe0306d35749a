// A region inside one process: a thread per rank, vectors in host memory. For tests, and for
// programs that want a region without a launcher.
//
// Thread rule: each rank's communicator is used (and destroyed) by one thread at a time; different
// ranks by different threads. A rank that is destroyed while others wait for it fails them with
// kUnavailable, and every later call likewise. Ranks that call different methods, or with different
// counts, all get kInternal.
#pragma once

#include <memory>
#include <vector>

#include "collectives/communicator.h"

namespace atl {

// Communicators of ranks 0 to size - 1, in this order. `size` >= 1.
std::vector<std::unique_ptr<Communicator>> MakeInProcessGroup(int size);

}  // namespace atl
