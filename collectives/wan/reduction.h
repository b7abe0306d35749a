// One all-reduce by direct exchange, as pure state: no sockets, no threads, no clock.
//
// 1. The vector is cut into shares, one a member, and each share into chunks. A member owns the
//    chunks of its share.
// 2. To each other member it sends that member's chunks of its own vector (contributions), in
//    ascending order, and the chunks that it owns once they are summed (results), in the order in
//    which they became complete. Contributions go first: others can sum while results follow.
// 3. An owner adds contributions in member order, its own among them at its place, whatever order
//    they arrive in; those that come early wait, encoded. Every contribution goes through the
//    codec, the owner's too, so the sum does not depend on who owns a chunk.
// 4. A complete sum goes through the codec once more; the owner keeps the decoded bytes, the others
//    get the encoded ones (codecs give the same bytes when they encode what they decoded). So all
//    members end with the same bits (P1).
//
// Memory: a member sends contributions for an owner's chunk j only while j is less than `window`
// chunks past the results it has from that owner, so what waits at an owner is at most `window`
// chunks a member, plus one fp32 accumulator for each of these chunks while members before the
// owner are summed; from the owner's turn on the vector itself is the accumulator.
// Results need no window: their place is the vector.
//
// Invariant: a chunk of another owner is overwritten by its result only after our contribution for
// it was written out. Thread rule: one thread at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/range.h"
#include "base/status.h"
#include "collectives/codec/codec.h"
#include "collectives/wan/frame.h"

namespace atl::wan {

struct ReductionShape {
  int self = 0;
  Codec codec = Codec::kFp32;
  int64_t chunk_elements = 0;
  int64_t window = 1;         // chunks
  std::vector<Range> shares;  // by member
  int members() const { return static_cast<int>(shares.size()); }
};

// Elements that a frame carries at most: `chunk_bytes` of the codec, on the share grid, at least
// one grid step.
int64_t ChunkElements(Codec codec, int64_t chunk_bytes);
// Chunks that may wait at an owner for each of `members`: together at most kWindowBytes, but never
// so few that a chunk's round trip would stop the stream at once.
int64_t WindowChunks(int members, int64_t chunk_bytes);

class Reduction {
 public:
  struct Piece {
    FrameType type;  // kContribution or kResult
    Range range;
  };

  // `data` outlives the reduction. Sums of what needs nobody else are made here.
  Reduction(const ReductionShape& shape, std::span<float> data);

  // The next piece for `member`, taken off its list; nothing if none is ready now.
  std::optional<Piece> NextPiece(int member);
  size_t PieceSize(const Piece& piece) const;
  // Writes the piece's PieceSize bytes. Call before anything else happens to the reduction.
  void WritePiece(const Piece& piece, uint8_t* out) const;

  // Could this frame be the next of its kind from `member`? Checks sizes, chunk, window, and that
  // it has not come before. An error is a breach of the protocol.
  Status Check(int member, const FrameHeader& header) const;
  // Takes a frame that Check() has passed.
  void Take(int member, const FrameHeader& header, Bytes payload);

  // `member` has gone: nothing more is sent to it.
  void Forget(int member);
  // Something is still to come from `member`.
  bool Needs(int member) const;
  // All results are here, and all that others need from us was taken off the lists.
  bool Complete() const;

  int64_t elements_done() const { return elements_done_; }
  // Bytes held beside the vector: early contributions and accumulators.
  size_t held_bytes() const { return held_bytes_; }

 private:
  // A chunk of our own share.
  struct OwnChunk {
    int turn = 0;                             // the member to be added next
    std::vector<float> sum;                   // of the members before us, until our turn
    std::vector<std::vector<uint8_t>> early;  // by member; allocated when one comes early
    std::vector<bool> seen;                   // by member; allocated with the first
  };
  struct Peer {
    int64_t contributed = 0;            // chunks of its share that we have sent
    int64_t results_taken = 0;          // entries of finished_ that we have sent it
    int64_t results_in_order = 0;       // its chunks 0 .. this have arrived
    int64_t results_missing = 0;        // chunks
    std::vector<bool> arrived;          // by its chunk
    int64_t contributions_missing = 0;  // chunks of ours
    bool gone = false;
  };

  Status CheckContribution(int member, const FrameHeader& header) const;
  Status CheckResult(int member, const FrameHeader& header) const;
  void TakeContribution(int member, const FrameHeader& header, Bytes payload);
  // Adds what is there, in member order, as far as it goes.
  void Advance(int64_t index);
  void AddOwn(OwnChunk* chunk, std::span<float> part);
  void AddEncoded(OwnChunk* chunk, std::span<float> part, Bytes payload);
  void Finish(int64_t index, std::span<float> part);
  // What the values become on the wire and back.
  void Round(std::span<float> values);
  std::span<float> Part(const Range& range) const;

  const ReductionShape shape_;
  const std::span<float> data_;
  std::vector<Peer> peers_;
  std::vector<OwnChunk> chunks_;
  std::vector<int64_t> finished_;  // own chunks in the order in which they became complete
  int64_t finished_in_order_ = 0;  // own chunks 0 .. this are complete
  int64_t elements_done_ = 0;
  size_t held_bytes_ = 0;
  std::vector<uint8_t> scratch_;  // of Round
};

}  // namespace atl::wan
