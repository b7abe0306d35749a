#include "collectives/wan/reduction.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "collectives/codec/error_feedback.h"
#include "collectives/wan/schedule.h"

namespace atl::wan {
namespace {

// Encoded, of one tree, all children together: enough for 1 Gbit/s over a quarter of a second of
// round trip. A member that sums in several trees may hold that much for each.
constexpr int64_t kWindowBytes = 64 << 20;
constexpr int64_t kMinWindowChunks = 8;

Status Breach(const std::string& what) { return absl::InvalidArgumentError(what); }

template <typename List>
auto FindChild(List& children, int member) {
  return std::find_if(children.begin(), children.end(),
                      [member](const auto& child) { return child.member == member; });
}

}  // namespace

int64_t ChunkElements(Codec codec, int64_t chunk_bytes) {
  const int64_t grid_bytes = static_cast<int64_t>(EncodedSize(codec, kShareGrid));
  return std::max<int64_t>(1, chunk_bytes / grid_bytes) * kShareGrid;
}

int64_t WindowChunks(int members, int64_t chunk_bytes) {
  return std::max(kMinWindowChunks, kWindowBytes / (std::max(1, members - 1) * chunk_bytes));
}

Range Reduction::ChunkAt(const Range& share, int64_t chunk_elements, int64_t index) {
  return wan::ChunkAt(share, chunk_elements, index);
}

Reduction::Reduction(const ReductionShape& shape, std::span<float> data, std::span<float> residual)
    : shape_(shape),
      data_(data),
      residual_(residual),
      gone_(shape.members()),
      parents_of_(shape.members()),
      children_of_(shape.members()) {
  CHECK(IsIdempotent(shape_.codec));
  CHECK(residual_.empty() || residual_.size() == data_.size());
  gone_[shape_.self] = true;
  std::vector<double> weights;
  for (const Tree& tree : shape_.trees) weights.push_back(tree.weight);
  const std::vector<Range> shares = CutShares(static_cast<int64_t>(data.size()), weights);
  for (size_t tree = 0; tree < shares.size(); ++tree) {
    MakePart(static_cast<int>(tree), shares[tree]);
  }
  for (Part& part : parts_) {
    for (int64_t index = 0; index < static_cast<int64_t>(part.chunks.size()); ++index) {
      if (part.terms.size() == 1 && part.reduce_parent < 0) Advance(&part, index);
    }
  }
}

void Reduction::MakePart(int tree, const Range& share) {
  const int self = shape_.self;
  const Tree& shape = shape_.trees[tree];
  const int64_t count = ChunkCount(share, shape_.chunk_elements);
  Part part;
  part.share = share;
  part.reduce_parent = shape.reduce_parent[self];
  part.broadcast_parent = shape.broadcast_parent[self];
  part.chunks.resize(count);
  part.results_missing = part.broadcast_parent < 0 ? 0 : count;
  for (int member = 0; member < shape_.members(); ++member) {
    if (member == self) {
      part.own_term = static_cast<int>(part.terms.size());
      part.terms.push_back(member);
      continue;
    }
    if (shape.reduce_parent[member] == self) {
      part.terms.push_back(member);
      Child child;
      child.member = member;
      child.missing = count;
      child.seen.resize(count);
      part.reduce_children.push_back(std::move(child));
    }
    if (shape.broadcast_parent[member] == self) {
      Child child;
      child.member = member;
      part.broadcast_children.push_back(std::move(child));
      children_of_[member].push_back(tree);
    }
  }
  if (part.reduce_parent >= 0) parents_of_[part.reduce_parent].push_back(tree);
  // A leaf's own numbers are all there is to add.
  if (part.reduce_children.empty() && part.reduce_parent >= 0) part.summed_in_order = count;
  parts_.push_back(std::move(part));
}

bool Reduction::ContributionReady(const Part& part) const {
  return part.contributed < std::min(part.summed_in_order, part.results_in_order + shape_.window);
}

std::optional<Reduction::Piece> Reduction::NextPiece(int member) {
  if (gone_[member]) return std::nullopt;
  // Trees side by side: the one that is least far on.
  int best = -1;
  double least = 2;
  for (const int tree : parents_of_[member]) {
    const Part& part = parts_[tree];
    if (!ContributionReady(part)) continue;
    const double done =
        static_cast<double>(part.contributed) / static_cast<double>(part.chunks.size());
    if (done < least) {
      least = done;
      best = tree;
    }
  }
  if (best >= 0) {
    Part& part = parts_[best];
    const Range range = RangeOf(part, part.contributed++);
    // With feedback only once; what is then in the vector encodes to the same bytes any number of
    // times.
    if (part.reduce_children.empty() && !residual_.empty()) RoundOwn(range);
    return Piece{FrameType::kContribution, best, range};
  }
  for (const int tree : children_of_[member]) {
    Part& part = parts_[tree];
    Child& child = *FindChild(part.broadcast_children, member);
    const double done = static_cast<double>(child.results_taken) /
                        static_cast<double>(std::max<size_t>(1, part.chunks.size()));
    if (child.results_taken < static_cast<int64_t>(part.available.size()) && done < least) {
      least = done;
      best = tree;
    }
  }
  if (best < 0) return std::nullopt;
  Part& part = parts_[best];
  Child& child = *FindChild(part.broadcast_children, member);
  return Piece{FrameType::kResult, best, RangeOf(part, part.available[child.results_taken++])};
}

size_t Reduction::PieceSize(const Piece& piece) const {
  return EncodedSize(shape_.codec, piece.range.size());
}

void Reduction::WritePiece(const Piece& piece, uint8_t* out) const {
  Encode(shape_.codec, Numbers(piece.range), out);
}

Bytes Reduction::PieceInPlace(const Piece& piece) const {
  if (shape_.codec != Codec::kFp32) return {};
  const std::span<float> numbers = Numbers(piece.range);
  return Bytes(reinterpret_cast<const uint8_t*>(numbers.data()), numbers.size_bytes());
}

// ---- what comes in

Status Reduction::Check(int member, const FrameHeader& header) const {
  if (header.tree >= parts_.size()) return Breach("numbers of a tree that the plan has not");
  if (header.payload != EncodedSize(shape_.codec, header.range.size())) {
    return Breach("a payload whose size is not its elements'");
  }
  const Part& part = parts_[header.tree];
  return header.type == FrameType::kContribution ? CheckContribution(member, header, part)
                                                 : CheckResult(member, header, part);
}

Status Reduction::CheckContribution(int member, const FrameHeader& header, const Part& part) const {
  const auto child = FindChild(part.reduce_children, member);
  if (child == part.reduce_children.end()) return Breach("a contribution from no child of ours");
  const int64_t index = ChunkIndex(part.share, shape_.chunk_elements, header.range);
  if (index < 0) return Breach("a contribution to a chunk that the tree has not");
  // A child is never further past its results than the window, and a result that it has was once
  // our complete sum.
  if (index >= part.summed_in_order + shape_.window) return Breach("a contribution far too early");
  if (child->seen[index]) return Breach("a contribution that came before");
  return OkStatus();
}

Status Reduction::CheckResult(int member, const FrameHeader& header, const Part& part) const {
  if (member != part.broadcast_parent) return Breach("a result from no parent of ours");
  const int64_t index = ChunkIndex(part.share, shape_.chunk_elements, header.range);
  if (index < 0) return Breach("a result for a chunk that the tree has not");
  if (index >= part.contributed) return Breach("a result without our contribution");
  if (part.chunks[index].arrived) return Breach("a result that came before");
  return OkStatus();
}

void Reduction::Take(int member, const FrameHeader& header, Bytes payload) {
  Part& part = parts_[header.tree];
  if (header.type == FrameType::kContribution) {
    TakeContribution(member, header, payload, &part);
  } else {
    TakeResult(header, payload, &part);
  }
}

void Reduction::TakeResult(const FrameHeader& header, Bytes payload, Part* part) {
  const int64_t index = ChunkIndex(part->share, shape_.chunk_elements, header.range);
  Decode(shape_.codec, payload.data(), Numbers(header.range));
  --part->results_missing;
  Available(part, index);
}

void Reduction::TakeContribution(int member, const FrameHeader& header, Bytes payload, Part* part) {
  const int64_t index = ChunkIndex(part->share, shape_.chunk_elements, header.range);
  const auto child = FindChild(part->reduce_children, member);
  --child->missing;
  child->seen[index] = true;
  const int term = static_cast<int>(
      std::lower_bound(part->terms.begin(), part->terms.end(), member) - part->terms.begin());
  Chunk& chunk = part->chunks[index];
  if (chunk.turn == part->own_term) AddOwn(&chunk, header.range);
  if (chunk.turn == term) {
    AddEncoded(*part, &chunk, Numbers(header.range), payload);
  } else {
    if (chunk.early.empty()) chunk.early.resize(part->terms.size());
    chunk.early[term].assign(payload.begin(), payload.end());
    held_bytes_ += payload.size();
  }
  Advance(part, index);
}

void Reduction::Advance(Part* part, int64_t index) {
  Chunk& chunk = part->chunks[index];
  const Range range = RangeOf(*part, index);
  while (chunk.turn < static_cast<int>(part->terms.size())) {
    if (chunk.turn == part->own_term) {
      AddOwn(&chunk, range);
      continue;
    }
    if (chunk.early.empty() || chunk.early[chunk.turn].empty()) return;
    const std::vector<uint8_t> payload = std::move(chunk.early[chunk.turn]);
    held_bytes_ -= payload.size();
    AddEncoded(*part, &chunk, Numbers(range), payload);
  }
  Summed(part, index);
}

void Reduction::AddOwn(Chunk* chunk, const Range& range) {
  RoundOwn(range);
  if (chunk->turn > 0) {
    const std::span<float> numbers = Numbers(range);
    // The sum of those before us; which of two terms comes first makes no difference.
    Add(chunk->sum, numbers);
    held_bytes_ -= chunk->sum.size() * sizeof(float);
    std::vector<float>().swap(chunk->sum);
  }
  ++chunk->turn;
}

void Reduction::AddEncoded(const Part& part, Chunk* chunk, std::span<float> numbers,
                           Bytes payload) {
  if (chunk->turn > part.own_term) {
    DecodeAdd(shape_.codec, payload.data(), numbers);
  } else if (chunk->turn == 0) {
    chunk->sum.resize(numbers.size());
    held_bytes_ += numbers.size_bytes();
    Decode(shape_.codec, payload.data(), chunk->sum);
  } else {
    DecodeAdd(shape_.codec, payload.data(), chunk->sum);
  }
  ++chunk->turn;
}

void Reduction::Summed(Part* part, int64_t index) {
  std::vector<std::vector<uint8_t>>().swap(part->chunks[index].early);
  const int terms = static_cast<int>(part->terms.size());
  while (part->summed_in_order < static_cast<int64_t>(part->chunks.size()) &&
         part->chunks[part->summed_in_order].turn == terms) {
    ++part->summed_in_order;
  }
  if (part->reduce_parent >= 0) return;
  const std::span<float> numbers = Numbers(RangeOf(*part, index));
  if (shape_.codec != Codec::kFp32) {
    scratch_.resize(EncodedSize(shape_.codec, numbers.size()));
    Encode(shape_.codec, numbers, scratch_.data());
    Decode(shape_.codec, scratch_.data(), numbers);
  }
  Available(part, index);
}

void Reduction::Available(Part* part, int64_t index) {
  part->chunks[index].arrived = true;
  part->available.push_back(index);
  while (part->results_in_order < static_cast<int64_t>(part->chunks.size()) &&
         part->chunks[part->results_in_order].arrived) {
    ++part->results_in_order;
  }
  elements_done_ += RangeOf(*part, index).size();
}

void Reduction::RoundOwn(const Range& range) {
  if (shape_.codec == Codec::kFp32) return;
  const std::span<float> numbers = Numbers(range);
  scratch_.resize(EncodedSize(shape_.codec, numbers.size()));
  if (residual_.empty()) {
    Encode(shape_.codec, numbers, scratch_.data());
  } else {
    EncodeWithFeedback(shape_.codec, numbers, Residual(range), scratch_.data());
  }
  Decode(shape_.codec, scratch_.data(), numbers);
}

// ---- the end

bool Reduction::Needs(int member) const {
  for (const Part& part : parts_) {
    if (part.broadcast_parent == member && part.results_missing > 0) return true;
    const auto child = FindChild(part.reduce_children, member);
    if (child != part.reduce_children.end() && child->missing > 0) return true;
  }
  return false;
}

bool Reduction::Complete() const {
  for (const Part& part : parts_) {
    if (part.available.size() < part.chunks.size()) return false;
    const int64_t count = static_cast<int64_t>(part.chunks.size());
    if (part.reduce_parent >= 0 && !gone_[part.reduce_parent] && part.contributed < count) {
      return false;
    }
    for (const Child& child : part.broadcast_children) {
      if (!gone_[child.member] && child.results_taken < count) return false;
    }
  }
  return true;
}

std::span<float> Reduction::Numbers(const Range& range) const {
  return data_.subspan(range.begin, range.size());
}

std::span<float> Reduction::Residual(const Range& range) const {
  return residual_.subspan(range.begin, range.size());
}

}  // namespace atl::wan
