// Which ranks of a region share a host, and the memory they share. Internal to collectives/mpi.
//
// 1. The ranks are parted by host (MPI_COMM_TYPE_SHARED).
// 2. The first rank of each host makes a segment; the others open it. If that fails anywhere, for
//    lack of memory or because ranks of one machine live in different containers, the region
//    decides together to go without, and says why in the log: messages are slower, not wrong.
// 3. On one host, host_exchange.h does everything. On several, it makes the sums of vectors of
//    more than short_bytes, with lines between the hosts; short ones, and all-gathers, which have
//    nothing to add up on the way, go by messages.
// 4. Vectors that the communicator allocates (host_vectors.cc) lie in segments of their own, one a
//    rank, which all ranks of the host map.
// Thread rule: one call at a time.
#pragma once

#include <mpi.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "base/range.h"
#include "base/status.h"
#include "collectives/buffer.h"
#include "collectives/mpi/host_exchange.h"
#include "collectives/mpi/host_lines.h"
#include "collectives/mpi/messages.h"
#include "collectives/mpi/mpi_communicator.h"
#include "collectives/mpi/shared_segment.h"
#include "collectives/mpi/shared_vectors.h"
#include "collectives/mpi/vector_sums.h"

namespace atl {

using HostSegment = std::shared_ptr<SharedSegment>;

class Host {
 public:
  // The tables of pages that a rank needs to see all vectors grow with the ranks.
  static constexpr int kMostSharing = kMostRows;

  // All ranks of `comm` call this, and all get a host or all get none: null if memory cannot be
  // shared, if no two ranks share a host, or if a host's ranks are not consecutive, so that rank
  // order would cross from host to host and back. `messages` outlives it.
  static StatusOr<std::unique_ptr<Host>> Find(MPI_Comm comm, const MpiOptions& options,
                                              Messages* messages);

  // What every rank brings, by rank.
  using Gather = absl::FunctionRef<StatusOr<std::vector<std::string>>(const std::string& own)>;
  // As in communicator.h. Ordinary memory, said in the log, where this rank or another cannot share
  // its own; and where that would not pay: on several hosts, and for more than kMostSharing ranks.
  StatusOr<Buffer> Allocate(int64_t count, Gather gather);

  // As in communicator.h; the ranges' union is not empty.
  Status AllReduce(float* data, int64_t count);
  Status ReduceScatter(float* data, std::span<const Range> ranges);
  Status AllGather(float* data, std::span<const Range> ranges);

 private:
  Host(MPI_Comm comm, Messages* messages) : comm_(comm), messages_(messages) {}
  Status FindRanks(MPI_Comm local, bool* consecutive);
  // Makes the segment, or opens it. `own`: whether that has worked on this rank.
  Status ShareMemory(MPI_Comm local, int64_t bytes, Status* own);
  HostExchangeOptions ExchangeOptions(const MpiOptions& options, int cores, int64_t chunk_bytes);
  // Whether the ranks of this host can reach each other's memory; makes peers_ if so.
  Status TryToReach(MPI_Comm local);
  void LayLines();
  bool OverOneHost() const { return first_ranks_.size() == 1; }
  int first_rank() const { return first_ranks_[host_]; }
  int past_rank() const;  // the first of the next host
  OverHosts What(float* data, Range whole, Range wanted) const;

  const MPI_Comm comm_;
  Messages* const messages_;
  int rank_ = 0, size_ = 1;         // in the region
  int local_rank_ = 0, ranks_ = 1;  // on this host
  int host_ = 0;                    // this one
  std::vector<int> first_ranks_;    // of each host
  int64_t short_bytes_ = HostExchange::kShortBytes;
  int carriers_ = 1;  // the fewest ranks of any host
  std::unique_ptr<SharedSegment> segment_;
  std::shared_ptr<SharedVectors> vectors_;  // null: none are shared
  std::unique_ptr<PeerMemory> peers_;       // null: not to be reached
  std::unique_ptr<HostExchange> exchange_;
  std::unique_ptr<HostLines> lines_;  // on carriers, if there are several hosts
};

}  // namespace atl
