// The NCCL backend, loaded at run time: programs start without NCCL, CUDA or a driver.
//
// The module is libatoll_nccl.so, in ../lib beside the executable or in the executable's own
// directory. Thread rule: any thread.
#pragma once

#include <memory>
#include <string>

#include "collectives/communicator.h"

namespace atl {

// Whether MakeNcclCommunicator can work in this process: module, driver and a device are there. If
// not, `why` says what is missing.
bool NcclUsable(std::string* why);

// A communicator over the GPUs of the ranks of `control`, one GPU a rank; all its ranks call this
// together. `device`: this rank's CUDA device. `control` is in host memory (MPI, in-process),
// carries
// NCCL's unique id and all control-size messages, and outlives the result.
//
// Data methods take device memory. They begin after what the legacy default stream held when they
// were called, run on a stream of their own, and return when they are done. The order of sums is
// NCCL's own: it follows from count, ranks, hardware and NCCL's settings, not from count and ranks
// alone.
//
// What a rank can find out alone (no module, driver or device; a GPU that another rank has) fails
// all ranks, with an error that says which rank and why. If NCCL itself cannot connect, only the
// rank that notices gets an error: it must end the region, as after any failed collective.
StatusOr<std::unique_ptr<Communicator>> MakeNcclCommunicator(Communicator& control, int device);

}  // namespace atl
