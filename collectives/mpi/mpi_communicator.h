// A region of processes over MPI, vectors in host memory. Sums are made in rank order, as
// in-process: the same inputs give the same bits under any MPI and any settings of it.
#pragma once

#include <cstdint>
#include <memory>

#include "base/clock.h"
#include "collectives/communicator.h"

namespace atl {

struct MpiOptions {
  Clock* clock = Clock::Real();
  // MPI counts in int; longer vectors go in pieces of at most this many elements, which changes no
  // bit of the result. A test makes it small.
  int64_t largest_piece = int64_t{1} << 28;
};

// All processes that mpirun started together, as a duplicate of MPI_COMM_WORLD: all of them call
// this. Needs a living MpiEnvironment, which outlives the communicator. A region of one process
// never communicates.
StatusOr<std::unique_ptr<Communicator>> MakeMpiCommunicator(const MpiOptions& options = {});

}  // namespace atl
