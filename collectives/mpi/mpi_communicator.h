// A region of processes over MPI, vectors in host memory. Sums are made in rank order, as
// in-process: the same inputs give the same bits under any MPI and any settings of it, whichever
// ranks share a host, and whether or not they can share memory.
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
  // Ranks of one host exchange vectors through memory that they share, where the system lets them.
  bool share_memory = true;
  // ... and, where the system lets them, read and write each other's vectors where they lie.
  bool reach_memory = true;
  // ... and get vectors from Allocate() that all of them see.
  bool share_vectors = true;
  // For tests and measurements; each the same on all ranks, none changes a bit of the result.
  int pretended_hosts = 0;          // > 0: take the ranks for spread evenly over so many hosts
  int64_t chunk_bytes = 0;          // > 0: of shared slots, instead of the rule; a multiple of 64
  bool always_reach = false;        // whatever the count of ranks
  int64_t block_bytes = 0;          // > 0: read from a peer at a time
  int64_t short_bytes = -1;         // >= 0: vectors up to here go in one step; at most 64 KiB
  int64_t least_shared_bytes = -1;  // >= 0: shared vectors up to here go through slots even so
  int64_t past_caches_bytes = -1;   // >= 0: vectors from here on are written past the caches
};

// All processes that mpirun started together, as a duplicate of MPI_COMM_WORLD: all of them call
// this. Needs a living MpiEnvironment, which outlives the communicator. A region of one process
// never communicates.
StatusOr<std::unique_ptr<Communicator>> MakeMpiCommunicator(const MpiOptions& options = {});

}  // namespace atl
