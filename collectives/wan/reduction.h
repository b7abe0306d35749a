// One all-reduce over a plan's trees, as pure state: no sockets, no threads, no clock.
//
// 1. The vector is cut into one part a tree, and each part into chunks (schedule.h).
// 2. Up a tree: a member sends its parent the sum of its own numbers and what its children sent
//    (a contribution), chunk by chunk in ascending order. A leaf sends its own numbers.
// 3. A member adds its children's contributions and its own numbers in member order, whatever
//    order they arrive in; those that come early wait, encoded. Every member's numbers go through
//    the codec, the root's too, so that the sum does not depend on who is root.
// 4. A complete sum at the root goes through the codec once more (the result); the root keeps what
//    it decodes to, its children in the broadcast tree get the encoded bytes, keep what they decode
//    and pass the same bytes on. So all members end with the same bits (P1).
// 5. Contributions go before results: others can sum while results follow.
//
// Memory: a member sends contributions for a tree's chunk j only while j is less than `window`
// chunks past the results it has of that tree, so what waits at a parent is at most `window`
// chunks a child, plus one fp32 accumulator for each of these chunks while members before it are
// summed; from its own turn on the vector itself is the accumulator. Results need no window:
// their place is the vector (codecs give the same bytes when they encode what they decoded).
//
// Invariant: a chunk is overwritten by its result only after our contribution for it was written
// out. Thread rule: one thread at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/range.h"
#include "base/status.h"
#include "collectives/codec/codec.h"
#include "collectives/wan/frame.h"
#include "collectives/wan/plan/tree_plan.h"

namespace atl::wan {

struct ReductionShape {
  int self = 0;
  Codec codec = Codec::kFp32;
  int64_t chunk_elements = 0;
  int64_t window = 1;       // chunks
  std::vector<Tree> trees;  // their weights cut the vector
  int members() const { return static_cast<int>(trees.front().reduce_parent.size()); }
};

// Elements that a frame carries at most: `chunk_bytes` of the codec, on the share grid, at least
// one grid step.
int64_t ChunkElements(Codec codec, int64_t chunk_bytes);
// Chunks of a tree that may wait at a member for each of its children: at most kWindowBytes of
// encoded numbers a tree together, but never so few that a chunk's round trip would stop the stream
// at once.
int64_t WindowChunks(int members, int64_t chunk_bytes);

class Reduction {
 public:
  struct Piece {
    FrameType type = FrameType::kContribution;  // or kResult
    int tree = 0;
    Range range;
  };

  // `data` outlives the reduction. `residual`: empty, or as long as `data`: what encoding our own
  // numbers loses is added to it, and what it held before is sent along (error feedback; Seide
  // 2014). Sums of what needs nobody else are made here.
  Reduction(const ReductionShape& shape, std::span<float> data, std::span<float> residual = {});

  // The next piece for `member`, taken off its list; nothing if none is ready now.
  std::optional<Piece> NextPiece(int member);
  size_t PieceSize(const Piece& piece) const;
  // Writes the piece's PieceSize bytes; the same bytes any number of times, until the chunk's
  // result arrives (then nobody needs a contribution to it).
  void WritePiece(const Piece& piece, uint8_t* out) const;
  // The piece's bytes as they lie in the vector; empty unless the codec leaves numbers as they are.
  Bytes PieceInPlace(const Piece& piece) const;

  // Could this frame be the next of its kind from `member`? Checks sizes, chunk, window, and that
  // it has not come before. An error is a breach of the protocol.
  Status Check(int member, const FrameHeader& header) const;
  // Takes a frame that Check() has passed.
  void Take(int member, const FrameHeader& header, Bytes payload);

  // `member` has gone: nothing more is sent to it.
  void Forget(int member) { gone_[member] = true; }
  // Something is still to come from `member`.
  bool Needs(int member) const;
  // All results are here, and all that others need from us was taken off the lists.
  bool Complete() const;

  int64_t elements_done() const { return elements_done_; }
  // Bytes held beside the vector: early contributions, accumulators, encoded results.
  size_t held_bytes() const { return held_bytes_; }

 private:
  struct Chunk {
    int turn = 0;                             // the term to be added next
    bool arrived = false;                     // the result
    std::vector<float> sum;                   // of the terms before us, until our turn
    std::vector<std::vector<uint8_t>> early;  // by term; allocated when one comes early
  };
  struct Child {
    int member = 0;
    int64_t missing = 0;        // contributions to come; results to be taken: not here
    std::vector<bool> seen;     // by chunk: its contribution has come
    int64_t results_taken = 0;  // entries of Part::available that it was sent
  };
  // One tree's chunks at this member.
  struct Part {
    Range share;
    int reduce_parent = -1;  // -1: we are the root
    int broadcast_parent = -1;
    std::vector<int> terms;  // ourselves and our children in the reduce tree, ascending
    int own_term = 0;
    std::vector<Child> reduce_children;     // ascending
    std::vector<Child> broadcast_children;  // ascending
    std::vector<Chunk> chunks;
    int64_t summed_in_order = 0;   // chunks 0 .. this are complete sums here
    int64_t contributed = 0;       // chunks sent to the parent
    int64_t results_in_order = 0;  // chunks 0 .. this have their result
    int64_t results_missing = 0;
    std::vector<int64_t> available;  // chunks in the order in which their result came to be here
  };

  void MakePart(int tree, const Range& share);
  bool ContributionReady(const Part& part) const;
  Status CheckContribution(int member, const FrameHeader& header, const Part& part) const;
  Status CheckResult(int member, const FrameHeader& header, const Part& part) const;
  void TakeContribution(int member, const FrameHeader& header, Bytes payload, Part* part);
  void TakeResult(const FrameHeader& header, Bytes payload, Part* part);
  // Adds what is there, in member order, as far as it goes.
  void Advance(Part* part, int64_t index);
  void AddOwn(Chunk* chunk, const Range& range);
  void AddEncoded(const Part& part, Chunk* chunk, std::span<float> numbers, Bytes payload);
  void Summed(Part* part, int64_t index);
  void Available(Part* part, int64_t index);
  // Our own numbers become what the codec makes of them; what that loses goes to the residual.
  void RoundOwn(const Range& range);
  std::span<float> Numbers(const Range& range) const;
  std::span<float> Residual(const Range& range) const;
  Range RangeOf(const Part& part, int64_t index) const {
    return ChunkAt(part.share, shape_.chunk_elements, index);
  }
  static Range ChunkAt(const Range& share, int64_t chunk_elements, int64_t index);

  const ReductionShape shape_;
  const std::span<float> data_;
  const std::span<float> residual_;
  std::vector<Part> parts_;                    // by tree
  std::vector<bool> gone_;                     // by member
  std::vector<std::vector<int>> parents_of_;   // by member: trees in which it is our parent
  std::vector<std::vector<int>> children_of_;  // by member: trees in which it gets results from us
  int64_t elements_done_ = 0;
  size_t held_bytes_ = 0;
  std::vector<uint8_t> scratch_;  // of rounding
};

}  // namespace atl::wan
