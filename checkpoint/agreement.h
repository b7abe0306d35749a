// Agreement of a region's ranks on how a step went.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "collectives/communicator.h"

namespace atl::checkpoint {

// Collective. Every rank brings its status and a message. If all are OK, every rank gets all
// messages, by rank; else every rank gets the same error: that of the lowest rank that failed, with
// its code, its exit code and, with several ranks, its number. `reachable` becomes false if the
// communicator itself failed: then the ranks know nothing of each other.
StatusOr<std::vector<std::string>> Agree(Communicator& region, const Status& mine,
                                         const std::string& message, bool* reachable);

}  // namespace atl::checkpoint
