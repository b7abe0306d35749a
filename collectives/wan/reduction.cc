#include "collectives/wan/reduction.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "collectives/wan/schedule.h"

namespace atl::wan {
namespace {

// Enough for 1 Gbit/s over a quarter of a second of round trip, all members together.
constexpr int64_t kWindowBytes = 64 << 20;
constexpr int64_t kMinWindowChunks = 8;

Status Breach(const std::string& what) { return absl::InvalidArgumentError(what); }

}  // namespace

int64_t ChunkElements(Codec codec, int64_t chunk_bytes) {
  const int64_t grid_bytes = static_cast<int64_t>(EncodedSize(codec, kShareGrid));
  return std::max<int64_t>(1, chunk_bytes / grid_bytes) * kShareGrid;
}

int64_t WindowChunks(int members, int64_t chunk_bytes) {
  return std::max(kMinWindowChunks, kWindowBytes / (std::max(1, members - 1) * chunk_bytes));
}

Reduction::Reduction(const ReductionShape& shape, std::span<float> data)
    : shape_(shape), data_(data), peers_(shape.members()) {
  CHECK_EQ(shape_.shares.back().end, static_cast<int64_t>(data.size()));
  chunks_.resize(ChunkCount(shape_.shares[shape_.self], shape_.chunk_elements));
  for (int member = 0; member < shape_.members(); ++member) {
    Peer& peer = peers_[member];
    if (member == shape_.self) {
      peer.gone = true;
      continue;
    }
    peer.results_missing = ChunkCount(shape_.shares[member], shape_.chunk_elements);
    peer.arrived.resize(peer.results_missing);
    peer.contributions_missing = static_cast<int64_t>(chunks_.size());
  }
  if (shape_.members() == 1) {
    for (size_t index = 0; index < chunks_.size(); ++index) Advance(index);
  }
}

std::optional<Reduction::Piece> Reduction::NextPiece(int member) {
  Peer& peer = peers_[member];
  if (peer.gone) return std::nullopt;
  const int64_t theirs = static_cast<int64_t>(peer.arrived.size());
  if (peer.contributed < std::min(theirs, peer.results_in_order + shape_.window)) {
    return Piece{FrameType::kContribution,
                 ChunkAt(shape_.shares[member], shape_.chunk_elements, peer.contributed++)};
  }
  if (peer.results_taken < static_cast<int64_t>(finished_.size())) {
    return Piece{FrameType::kResult, ChunkAt(shape_.shares[shape_.self], shape_.chunk_elements,
                                             finished_[peer.results_taken++])};
  }
  return std::nullopt;
}

size_t Reduction::PieceSize(const Piece& piece) const {
  return EncodedSize(shape_.codec, piece.range.size());
}

void Reduction::WritePiece(const Piece& piece, uint8_t* out) const {
  Encode(shape_.codec, Part(piece.range), out);
}

Status Reduction::Check(int member, const FrameHeader& header) const {
  if (header.payload != EncodedSize(shape_.codec, header.range.size())) {
    return Breach("a payload whose size is not its elements'");
  }
  return header.type == FrameType::kContribution ? CheckContribution(member, header)
                                                 : CheckResult(member, header);
}

Status Reduction::CheckContribution(int member, const FrameHeader& header) const {
  const int64_t index = ChunkIndex(shape_.shares[shape_.self], shape_.chunk_elements, header.range);
  if (index < 0) return Breach("a contribution to a chunk that is not ours");
  if (index >= finished_in_order_ + shape_.window) return Breach("a contribution far too early");
  const OwnChunk& chunk = chunks_[index];
  if (member < chunk.turn || (!chunk.seen.empty() && chunk.seen[member])) {
    return Breach("a contribution that came before");
  }
  return OkStatus();
}

Status Reduction::CheckResult(int member, const FrameHeader& header) const {
  const Peer& peer = peers_[member];
  const int64_t index = ChunkIndex(shape_.shares[member], shape_.chunk_elements, header.range);
  if (index < 0) return Breach("a result for a chunk that is not its sender's");
  if (index >= peer.contributed) return Breach("a result without our contribution");
  if (peer.arrived[index]) return Breach("a result that came before");
  return OkStatus();
}

void Reduction::Take(int member, const FrameHeader& header, Bytes payload) {
  if (header.type == FrameType::kContribution) {
    TakeContribution(member, header, payload);
    return;
  }
  Peer& peer = peers_[member];
  Decode(shape_.codec, payload.data(), Part(header.range));
  peer.arrived[ChunkIndex(shape_.shares[member], shape_.chunk_elements, header.range)] = true;
  --peer.results_missing;
  while (peer.results_in_order < static_cast<int64_t>(peer.arrived.size()) &&
         peer.arrived[peer.results_in_order]) {
    ++peer.results_in_order;
  }
  elements_done_ += header.range.size();
}

void Reduction::TakeContribution(int member, const FrameHeader& header, Bytes payload) {
  const int64_t index = ChunkIndex(shape_.shares[shape_.self], shape_.chunk_elements, header.range);
  OwnChunk& chunk = chunks_[index];
  --peers_[member].contributions_missing;
  if (chunk.seen.empty()) chunk.seen.resize(shape_.members());
  chunk.seen[member] = true;
  if (chunk.turn == shape_.self) AddOwn(&chunk, Part(header.range));
  if (chunk.turn == member) {
    AddEncoded(&chunk, Part(header.range), payload);
  } else {
    if (chunk.early.empty()) chunk.early.resize(shape_.members());
    chunk.early[member].assign(payload.begin(), payload.end());
    held_bytes_ += payload.size();
  }
  Advance(index);
}

void Reduction::Advance(int64_t index) {
  OwnChunk& chunk = chunks_[index];
  const Range range = ChunkAt(shape_.shares[shape_.self], shape_.chunk_elements, index);
  const std::span<float> part = Part(range);
  while (chunk.turn < shape_.members()) {
    if (chunk.turn == shape_.self) {
      AddOwn(&chunk, part);
      continue;
    }
    if (chunk.early.empty() || chunk.early[chunk.turn].empty()) return;
    const std::vector<uint8_t> payload = std::move(chunk.early[chunk.turn]);
    held_bytes_ -= payload.size();
    AddEncoded(&chunk, part, payload);
  }
  Finish(index, part);
}

void Reduction::AddOwn(OwnChunk* chunk, std::span<float> part) {
  Round(part);
  if (chunk->turn > 0) {
    // The sum of those before us stands left, as if it had been the accumulator all along.
    for (size_t i = 0; i < part.size(); ++i) part[i] = chunk->sum[i] + part[i];
    held_bytes_ -= chunk->sum.size() * sizeof(float);
    std::vector<float>().swap(chunk->sum);
  }
  ++chunk->turn;
}

void Reduction::AddEncoded(OwnChunk* chunk, std::span<float> part, Bytes payload) {
  if (chunk->turn > shape_.self) {
    DecodeAdd(shape_.codec, payload.data(), part);
  } else if (chunk->turn == 0) {
    chunk->sum.resize(part.size());
    held_bytes_ += part.size_bytes();
    Decode(shape_.codec, payload.data(), chunk->sum);
  } else {
    DecodeAdd(shape_.codec, payload.data(), chunk->sum);
  }
  ++chunk->turn;
}

void Reduction::Finish(int64_t index, std::span<float> part) {
  Round(part);
  OwnChunk& chunk = chunks_[index];
  std::vector<std::vector<uint8_t>>().swap(chunk.early);
  finished_.push_back(index);
  while (finished_in_order_ < static_cast<int64_t>(chunks_.size()) &&
         chunks_[finished_in_order_].turn == shape_.members()) {
    ++finished_in_order_;
  }
  elements_done_ += static_cast<int64_t>(part.size());
}

void Reduction::Round(std::span<float> values) {
  if (shape_.codec == Codec::kFp32) return;
  scratch_.resize(EncodedSize(shape_.codec, values.size()));
  Encode(shape_.codec, values, scratch_.data());
  Decode(shape_.codec, scratch_.data(), values);
}

void Reduction::Forget(int member) { peers_[member].gone = true; }

bool Reduction::Needs(int member) const {
  const Peer& peer = peers_[member];
  return peer.results_missing > 0 || peer.contributions_missing > 0;
}

bool Reduction::Complete() const {
  if (finished_.size() < chunks_.size()) return false;
  for (const Peer& peer : peers_) {
    if (peer.results_missing > 0) return false;
    if (peer.gone) continue;
    if (peer.contributed < static_cast<int64_t>(peer.arrived.size())) return false;
    if (peer.results_taken < static_cast<int64_t>(finished_.size())) return false;
  }
  return true;
}

std::span<float> Reduction::Part(const Range& range) const {
  return data_.subspan(range.begin, range.size());
}

}  // namespace atl::wan
