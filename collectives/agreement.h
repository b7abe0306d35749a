// Whether all ranks have succeeded: for steps that a rank may fail on its own (a file, a device),
// after which those that succeeded would wait for it in a collective for ever.
#pragma once

#include "base/status.h"
#include "collectives/communicator.h"

namespace atl {

// All ranks call this with their own status. OK if every rank brings OK. Else every rank gets an
// error: one that failed its own, the others that of the lowest rank that failed, with its code and
// exit code, and "rank R: " in front. Costs one small all-gather.
Status AgreeOnSuccess(Communicator& communicator, const Status& own);

}  // namespace atl
