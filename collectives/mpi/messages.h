// Vectors of a region by MPI's messages: any ranks, on any hosts. Internal to collectives/mpi.
//
// 1. ReduceScatter: every rank sends each owner the part that belongs to it, piece by piece, and
//    adds up its own part in rank order: ((rank 0 + rank 1) + rank 2) + ...
// 2. AllReduce of more than kSmallCount elements: a ReduceScatter of even shares, then AllGather.
// 3. AllReduce of few elements: everybody gets everybody's and adds them up in rank order.
// MPI_Reduce_scatter and MPI_Allreduce are not used: their order of summation changes with MPI's
// version, settings and message size, and they allocate the whole vector again
// (docs/decisions/0001-region-collectives.md has the figures).
//
// How a collective waits: MPI's blocking calls poll without pause, which on a host with fewer cores
// than ranks takes the core from the rank that is waited for. So every call first meets the others
// in a non-blocking operation that is polled with Backoff: a rank that waits long sleeps. Then all
// are there and the data goes by blocking calls. The meeting costs log2 P messages of latency.
// Thread rule: one call at a time.
#pragma once

#include <mpi.h>

#include <cstdint>
#include <span>
#include <vector>

#include "base/range.h"
#include "base/status.h"
#include "collectives/mpi/mpi_communicator.h"

namespace atl {

class Messages {
 public:
  Messages(MPI_Comm comm, int rank, int size, const MpiOptions& options)
      : comm_(comm), rank_(rank), size_(size), options_(options) {}

  Status AllReduce(float* data, int64_t count);
  // As in communicator.h; the ranges' union is not empty.
  Status ReduceScatter(float* data, std::span<const Range> ranges);
  Status AllGather(float* data, std::span<const Range> ranges);

  Status Meet();
  // Until `request` is done; prompt for short waits, cheap for long ones.
  Status WaitFor(MPI_Request* request);

 private:
  Status SumSmall(float* data, int count);
  Status SumOwnRange(float* data, std::span<const Range> ranges);
  Status SendPieces(const float* data, std::span<const Range> ranges, int64_t done, int64_t piece);
  void AddUp(float* data, int count);
  Status GatherRanges(float* data, std::span<const Range> ranges);
  Status BroadcastRanges(float* data, std::span<const Range> ranges);
  void Grow(int64_t count);

  const MPI_Comm comm_;
  const int rank_;
  const int size_;
  const MpiOptions options_;
  std::vector<float> scratch_;         // what other ranks have sent, a slot a rank
  std::vector<MPI_Request> requests_;  // of the piece under way
  std::vector<int> counts_, offsets_;  // of the call under way
  std::vector<const float*> rows_;
};

}  // namespace atl
