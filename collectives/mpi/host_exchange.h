// Collectives of the ranks of one host, through memory that they share. No MPI in here.
//
// Vectors in memory that all ranks see (shared_vectors.h) are added up where they lie:
// 1. All say where their vectors are, and wait for each other. If one is not in shared memory, the
//    ranks go on as below.
// 2. Each adds up its share of all vectors and writes the sum into all; for a reduce-scatter only
//    into its own. An all-gather is copied from its owners.
// 3. They wait for each other: nobody's vector is touched any more.
//
// Other vectors are ordinary memory that the other ranks cannot see, so parts are copied into slots
// that all see, chunk by chunk, small enough that a slot stays in the cache between its writer and
// its reader. Every rank carries out step s for chunk s of every share:
// 1. Bring: copies its part of each other owner's chunk into a slot of its own for that owner.
// 2. Sum: the owner adds up the slots and its own part in rank order, into its vector and, for an
//    all-reduce, into its result slot.
// 3. Take: copies the other owners' results into its vector; past the caches if the vector is too
//    long for them.
// A reduce-scatter is 1 and 2, an all-gather 2 (of its own part alone) and 3. Bring runs a step
// ahead of the sum, so that a rank that comes first has something to do. A short vector goes in one
// step: everybody brings all of it and adds up all that it needs.
//
// Where the ranks can reach each other's memory (peer_memory.h), two of them need no slots for
// their longer vectors, nor do more for the sum of one that is long for all caches:
// 1. All say where their vectors are, and wait for each other.
// 2. Block by block, the owner reads the others' parts, adds them up, and writes the sum to all.
//    An all-gather is read from its owners at once.
// 3. They wait for each other: nobody's vector is touched any more.
//
// Invariants. Steps are counted over the life of the exchange and every rank makes the same ones.
// Each slot has two halves, for even and odd steps. A half is written at step s when all ranks have
// passed what reads step s-2, and, as each call lays its slots out anew, all earlier calls; the
// gates `summed` and `taken` say so.
//
// Several hosts (ReduceOverHosts): the sum of a chunk travels from the first host to the last, each
// of which adds its ranks' parts, and the total travels back. That keeps rank order, sends the
// vector over each line once in each direction, and, in chunks behind each other, keeps all lines
// busy. The first ranks of every host carry a share of the vector each.
//
// Cost: S bytes are brought, summed and taken: in the vector's own memory each byte is read once
// and written once, the least there is; slots and blocks are cache traffic.
// Thread rule: one thread a rank at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "base/range.h"
#include "base/status.h"
#include "collectives/mpi/gate.h"
#include "collectives/mpi/peer_memory.h"
#include "collectives/mpi/shared_vectors.h"

namespace atl {

struct HostExchangeOptions {
  GateWait wait;
  int64_t chunk_bytes = 0;  // a slot's half; a multiple of 64, see ChunkBytes()
  // Vectors of at most so many bytes go in one step; at most kShortBytes, and fewer where many
  // ranks would read them all.
  int64_t short_bytes = int64_t{64} << 10;
  // Calls on vectors of at least so many bytes write past the caches.
  int64_t past_caches_bytes = int64_t{4} << 20;
  // Null: slots. Must outlive the exchange.
  const PeerMemory* peers = nullptr;
  int64_t block_bytes = 256 << 10;  // read from a peer at a time
  bool always_reach = false;        // for tests: whatever the count of ranks
  // Null: none are shared. Must outlive the exchange.
  SharedVectors* vectors = nullptr;
  // Shorter ones go through slots even so: one meeting instead of two.
  int64_t least_shared_bytes = int64_t{16} << 10;
  // All-gathers of shared vectors that have at least so many bytes together write past the caches.
  int64_t gather_past_caches_bytes = int64_t{16} << 20;
  // Asked while a rank has to wait, with the local rank it waits for and the seconds so far; an
  // error ends the call.
  std::function<Status(int local_rank, double waited_seconds)> while_waiting;
};

// A carrier's lines to the carriers of the same share on the hosts before and after its own.
class OtherHosts {
 public:
  virtual ~OtherHosts() = default;
  virtual bool is_first() const = 0;
  virtual bool is_last() const = 0;
  // Floats that stay untouched until they are sent, and while they are. For one chunk.
  virtual StatusOr<float*> PartialBuffer(int64_t count) = 0;
  virtual Status ReceivePartial(float* to, int64_t count) = 0;
  // What PartialBuffer has just given, filled.
  virtual Status SendPartial(int64_t count) = 0;
  virtual Status ReceiveTotal(float* to, int64_t count) = 0;
  virtual Status SendTotal(const float* from, int64_t count) = 0;
  // Until all totals but the newest are sent, so that their memory is free.
  virtual Status FinishOlderTotals() = 0;
  // Until everything is sent.
  virtual Status Finish() = 0;
};

// What a call of ReduceOverHosts is about.
struct OverHosts {
  float* data = nullptr;
  Range whole;             // is summed
  Range wanted;            // of which this rank wants the sum
  int64_t here_end = 0;    // this host and those before it want elements below this
  int64_t before_end = 0;  // those before it
  int carriers = 1;        // the same on all hosts
  int hosts_after = 0;     // this one
};

class HostExchange {
 public:
  static constexpr int64_t kShortBytes = 64 << 10;  // a short vector's slot
  static constexpr int64_t kLongSumBytes = int64_t{32} << 20;

  // The largest chunk: all that a rank touches in a step, 3 `ranks` chunks, fits into half a
  // second-level cache, of which `ranks` / `cores` ranks share one. 4 KiB to 256 KiB.
  static int64_t ChunkBytes(int ranks, int cores);
  // What the exchange needs of shared, zeroed, 128-byte aligned memory.
  static int64_t BytesNeeded(int ranks, int64_t chunk_bytes);

  // `memory`: BytesNeeded() that all ranks of the host see, with equal options on all.
  HostExchange(char* memory, int rank, int ranks, const HostExchangeOptions& options);

  Status AllReduce(float* data, int64_t count);
  // As in communicator.h.
  Status ReduceScatter(float* data, std::span<const Range> ranges);
  Status AllGather(float* data, std::span<const Range> ranges);
  // `others` is asked on carriers only. Elements that the rank does not want are left alone.
  Status ReduceOverHosts(const OverHosts& what, OtherHosts* others);

 private:
  struct FreePages {
    void operator()(float* pages) const { std::free(pages); }
  };
  using Pages = std::unique_ptr<float[], FreePages>;
  static Pages AllocatePages(int64_t bytes);

  // What one rank raises. `added`: its slots are read, by a carrier whose total is yet to come.
  struct Gates {
    Gate brought, added, summed, taken, shortly;
    alignas(128) std::atomic<uint64_t> vector;  // its address in the rank's process
    struct Said {                               // where it is, as a place in a shared vector
      std::atomic<uint64_t> number;
      std::atomic<int64_t> offset;
    };
    alignas(128) Said said[2];
  };
  // The call under way.
  struct Call {
    float* data = nullptr;
    std::span<const Range> ranges;
    int64_t chunk = 0;   // floats
    uint32_t first = 0;  // its steps: [first, end)
    uint32_t end = 0;
    bool past_caches = false;
    bool results_are_shared = false;  // all-reduce
    Range Chunk(int owner, uint32_t step) const;
  };

  static uint32_t Later(uint32_t a, uint32_t b);
  static void Copy(float* to, const float* from, int64_t count, bool past_caches);
  void Share(Range whole, int owners);
  Call Begin(float* data, std::span<const Range> ranges);
  void End(const Call& call);
  Status Bring(const Call& call, uint32_t step, Gate Gates::*read = &Gates::summed);
  Status Sum(const Call& call, uint32_t step);
  Status Show(const Call& call, uint32_t step);
  Status Take(const Call& call, uint32_t step);

  bool Reaches(bool long_sum) const;
  // Without slots: what happens between the meetings is `exchange`'s.
  Status Reach(float* data, absl::FunctionRef<Status()> exchange);
  Status ReadFromOwners(float* data, std::span<const Range> ranges);
  Status SumFromPeers(float* data, Range own, bool write_to_all);
  uint64_t AddressOf(int local_rank, int64_t element) const;

  // Whether all ranks' vectors lie in one shared vector; then seen_ has the first element of each,
  // and nobody leaves before LeaveSharedVectors().
  StatusOr<bool> MeetInSharedVectors(float* data, Range whole);
  Status LeaveSharedVectors();
  void SumShared(Range whole, Range own, bool write_to_all);
  void GatherShared(Range whole, std::span<const Range> ranges);
  Status AddToPartial(const Call& call, const OverHosts& what, uint32_t step, OtherHosts& others);
  Status FreeResultSlot(const Call& call, uint32_t step, OtherHosts& others);
  Status TakeWanted(const Call& call, const OverHosts& what, uint32_t step);
  Status PassTotal(const Call& call, const OverHosts& what, uint32_t step, OtherHosts& others);

  bool IsShort(int64_t count) const;
  // One step: brings data[part]; then ShortSlot(r, step) has what rank r brought.
  StatusOr<uint32_t> ExchangeShort(const float* data, Range part);
  // data[own] of all ranks added up, where every rank has brought data[whole].
  void SumShort(float* data, Range whole, Range own, uint32_t step);

  Status WaitForAll(Gate Gates::*gate, uint32_t target);
  Status WaitForOne(int other, Gate Gates::*gate, uint32_t target);
  float* BringSlot(int from, int owner, uint32_t step, int64_t chunk) const;
  float* ResultSlot(int owner, uint32_t step) const;
  float* ShortSlot(int from, uint32_t step) const;

  const int rank_;
  const int ranks_;
  const HostExchangeOptions options_;
  const int64_t chunk_bytes_;
  Gates* const gates_;  // by rank
  char* const slots_;
  uint32_t step_ = 0;        // steps made by all calls so far
  uint32_t short_step_ = 0;  // the same, of short vectors
  std::vector<Range> shares_;
  std::vector<const float*> rows_;
  std::vector<float*> sums_;
  std::vector<float*> seen_;  // the call's vectors, by rank
  Pages blocks_;              // what peers' memory was read into
};

}  // namespace atl
