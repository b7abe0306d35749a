// The test that every backend of communicator.h passes: each method against a naive reference, over
// sizes and ranges that divide among the ranks and that do not.
//
// No test framework in here: it runs on threads, in processes under mpirun and on GPUs. Every rank
// calls RunBattery with the same options and learns what went wrong on itself.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "collectives/communicator.h"

namespace atl {

// Where a backend's vectors live.
class VectorMemory {
 public:
  virtual ~VectorMemory() = default;
  virtual float* Allocate(int64_t count) = 0;
  virtual void Free(float* data) = 0;
  virtual void Write(float* to, const float* host, int64_t count) = 0;
  virtual void Read(const float* from, float* host, int64_t count) = 0;
};

// Ordinary memory; for ever, any thread.
VectorMemory* HostMemory();

struct BatteryOptions {
  std::vector<int64_t> sizes = {0, 1, 255, 256, 1000, 16384, 1000003};
  // Sums must be ((rank 0 + rank 1) + rank 2) + ... to the bit, not only up to rounding.
  bool sums_in_rank_order = false;
  // Vectors come from the communicator's Allocate(), which must give memory that `memory` reads and
  // writes.
  bool allocate = false;
  // Also send a control message of more than kMaxControlBytes, which must be refused everywhere.
  bool oversized_message = false;
};

struct BatteryResult {
  int64_t checks = 0;                 // comparisons made on this rank
  std::vector<std::string> failures;  // empty: all is well
};

BatteryResult RunBattery(Communicator& communicator, VectorMemory* memory,
                         const BatteryOptions& options);

}  // namespace atl
