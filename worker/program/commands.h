// How a region carries out commands: the leader's broadcast, each rank's work, everybody's answers
// to everybody.
#pragma once

#include <functional>
#include <vector>

#include "base/exit_code.h"
#include "collectives/communicator.h"
#include "proto/region.pb.h"
#include "worker/region/region_worker.h"

namespace atl {

// Ends the whole region at once; does not return.
using AbortRegion = std::function<void(const pb::RegionAnswer& reason)>;

// Leader (rank 0): has all ranks carry out `command` and returns their answers by rank.
StatusOr<std::vector<pb::RegionAnswer>> RunCommand(const pb::RegionCommand& command,
                                                   RegionWorker& worker, Communicator& control,
                                                   const AbortRegion& abort);

// The other ranks: carries out the leader's commands until Finish; returns the exit code that it
// names.
StatusOr<ExitCode> FollowLeader(RegionWorker& worker, Communicator& control,
                                const AbortRegion& abort);

}  // namespace atl
