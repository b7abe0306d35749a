// MPI error codes as Status. Internal to collectives/mpi.
#pragma once

#include "base/status.h"

namespace atl {

// OK for MPI_SUCCESS, else an error with MPI's own text: kResourceExhausted without memory,
// kInternal where the ranks' calls do not fit together, kUnavailable otherwise.
Status MpiStatus(int code, const char* doing);

// Whether a collective has failed in this process, so that the ranks are no longer in step.
void SetMpiFailed();
bool MpiHasFailed();

}  // namespace atl
