// Collectives inside a region: one rank a worker, all ranks call the same methods in the same
// order.
//
// Backends: mpi/ (host memory), inprocess/ (host memory, a thread per rank, for tests), nccl/
// (device memory, a module loaded at run time). Sums are made in an order that depends on rank
// count and element count alone, so equal inputs give equal bits. A failed call leaves the region's
// communicator unusable: the region's processes end and are started again. Thread rule: one call at
// a time per rank; which thread makes it does not matter (see CollectiveQueue). In the costs below
// P = ranks, S = bytes of the vector.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/range.h"
#include "base/status.h"
#include "collectives/buffer.h"

namespace atl {

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  // "mpi", "inprocess", "nccl".
  virtual std::string backend() const = 0;

  // Zeros for a vector of `count` floats, where the data methods are quickest with it; all ranks
  // call this, each with a count of its own. Not needed: every method takes any memory of the
  // backend's kind, and parts of a vector.
  virtual StatusOr<Buffer> Allocate(int64_t count) { return Buffer::Ordinary(count); }

  // Sums `count` floats over the ranks, in place; every rank ends with the same bits. Sends 2
  // (P-1)/P S a rank.
  virtual Status AllReduce(float* data, int64_t count) = 0;

  // Sums over the ranks; rank r keeps elements ranges[r]. `data` is the whole vector, in place:
  // afterwards data[ranges[rank()]] holds the sum and the rest is unspecified. `ranges` is the same
  // on every rank: disjoint, ascending, adjacent (each begins where the one before ends), some may
  // be empty. Sends (P-1)/P S a rank.
  virtual Status ReduceScatter(float* data, std::span<const Range> ranges) = 0;

  // The reverse: rank r brings data[ranges[r]], afterwards every rank has all ranges. Same rule for
  // `ranges`. Sends (P-1)/P S.
  virtual Status AllGather(float* data, std::span<const Range> ranges) = 0;

  // Control-size messages in host memory, whatever the backend; at most kMaxControlBytes.
  // Every rank ends with root's bytes.
  virtual Status Broadcast(std::string* bytes, int root) = 0;
  // Every rank gets every rank's bytes, by rank. At most kMaxControlBytes together.
  virtual StatusOr<std::vector<std::string>> AllGatherBytes(const std::string& bytes) = 0;
  virtual Status Barrier() = 0;

  static constexpr int64_t kMaxControlBytes = 256 << 20;
};

}  // namespace atl
