// The pure state of one all-reduce, driven without sockets: frames are delivered in a random order.
#include "collectives/wan/reduction.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>

#include "base/random.h"
#include "collectives/wan/schedule.h"

namespace atl::wan {
namespace {

// Several members and all frames under way between them, each pair over `lines` independent lines
// that keep their order (as TCP connections do).
class Sea {
 public:
  Sea(int members, int64_t elements, Codec codec, int64_t chunk, int64_t window, uint64_t seed)
      : Sea(EqualPlan(members).trees, elements, codec, chunk, window, seed) {}

  Sea(const std::vector<Tree>& trees, int64_t elements, Codec codec, int64_t chunk, int64_t window,
      uint64_t seed)
      : random_(seed), codec_(codec), trees_(trees) {
    const int members = static_cast<int>(trees.front().reduce_parent.size());
    for (int self = 0; self < members; ++self) {
      data_.emplace_back(elements);
      for (int64_t i = 0; i < elements; ++i) {
        data_[self][i] = static_cast<float>(random_.Normal(self * elements + i));
      }
    }
    inputs_ = data_;
    for (int self = 0; self < members; ++self) {
      ReductionShape shape;
      shape.self = self;
      shape.codec = codec;
      shape.chunk_elements = chunk;
      shape.window = window;
      shape.trees = trees;
      reductions_.push_back(std::make_unique<Reduction>(shape, data_[self]));
    }
    lines_.resize(members * members * kLines);
  }

  // Until nothing moves any more. The largest memory that a member held.
  size_t Run() {
    size_t held = 0;
    while (Step()) {
      for (const auto& reduction : reductions_) held = std::max(held, reduction->held_bytes());
    }
    return held;
  }

  std::vector<float> Expected() const {
    std::vector<float> sum(inputs_[0].size()), value(sum.size());
    std::vector<uint8_t> bytes(EncodedSize(codec_, sum.size()));
    for (size_t member = 0; member < inputs_.size(); ++member) {
      Encode(codec_, inputs_[member], bytes.data());
      Decode(codec_, bytes.data(), value);
      for (size_t i = 0; i < sum.size(); ++i) {
        sum[i] = member == 0 ? value[i] : sum[i] + value[i];
      }
    }
    Encode(codec_, sum, bytes.data());
    Decode(codec_, bytes.data(), sum);
    return sum;
  }

  // Up each tree by recursion, as tree_plan.h and reduction.h say it.
  std::vector<float> ExpectedOverTrees() const {
    std::vector<double> weights;
    for (const Tree& tree : trees_) weights.push_back(tree.weight);
    const auto shares = CutShares(static_cast<int64_t>(inputs_[0].size()), weights);
    std::vector<float> sum(inputs_[0].size());
    for (size_t i = 0; i < trees_.size(); ++i) {
      const auto total = Round(PartialSum(trees_[i], trees_[i].root, shares[i]));
      std::copy(total.begin(), total.end(), sum.begin() + shares[i].begin);
    }
    return sum;
  }

  const std::vector<float>& data(int member) const { return data_[member]; }
  Reduction& reduction(int member) { return *reductions_[member]; }

 private:
  static constexpr int kLines = 2;
  struct Frame {
    FrameHeader header;
    std::vector<uint8_t> payload;
  };

  std::vector<float> Round(std::vector<float> values) const {
    std::vector<uint8_t> bytes(EncodedSize(codec_, values.size()));
    Encode(codec_, values, bytes.data());
    Decode(codec_, bytes.data(), values);
    return values;
  }

  std::vector<float> PartialSum(const Tree& tree, int at, const Range& share) const {
    std::vector<float> sum;
    for (int member = 0; member < static_cast<int>(inputs_.size()); ++member) {
      std::vector<float> term;
      if (member == at) {
        term = Round({inputs_[at].begin() + share.begin, inputs_[at].begin() + share.end});
      } else if (tree.reduce_parent[member] == at) {
        term = Round(PartialSum(tree, member, share));
      } else {
        continue;
      }
      if (sum.empty()) {
        sum = term;
      } else {
        for (size_t i = 0; i < sum.size(); ++i) sum[i] = sum[i] + term[i];
      }
    }
    return sum;
  }

  bool Step() {
    const int members = static_cast<int>(reductions_.size());
    const size_t count = lines_.size();
    const size_t first = random_.Bits(1000000 + step_++) % count;
    for (size_t k = 0; k < count; ++k) {
      const size_t line = (first + k) % count;
      const int from = static_cast<int>(line / kLines) / members;
      const int to = static_cast<int>(line / kLines) % members;
      if (from == to) continue;
      const bool send = random_.Bits(2000000 + step_ * count + k) % 2 == 0;
      if (send ? Send(line, from, to) || Deliver(line, from, to)
               : Deliver(line, from, to) || Send(line, from, to)) {
        return true;
      }
    }
    return false;
  }

  bool Send(size_t line, int from, int to) {
    const auto piece = reductions_[from]->NextPiece(to);
    if (!piece.has_value()) return false;
    Frame frame;
    frame.header.type = piece->type;
    frame.header.range = piece->range;
    frame.header.tree = static_cast<uint16_t>(piece->tree);
    frame.payload.resize(reductions_[from]->PieceSize(*piece));
    frame.header.payload = static_cast<uint32_t>(frame.payload.size());
    reductions_[from]->WritePiece(*piece, frame.payload.data());
    lines_[line].push_back(std::move(frame));
    return true;
  }

  bool Deliver(size_t line, int from, int to) {
    if (lines_[line].empty()) return false;
    const Frame frame = std::move(lines_[line].front());
    lines_[line].pop_front();
    const Status status = reductions_[to]->Check(from, frame.header);
    EXPECT_TRUE(status.ok()) << status;
    reductions_[to]->Take(from, frame.header, frame.payload);
    EXPECT_FALSE(reductions_[to]->Check(from, frame.header).ok()) << "the same again";
    return true;
  }

  CounterRandom random_;
  uint64_t step_ = 0;
  Codec codec_;
  std::vector<Tree> trees_;
  std::vector<std::vector<float>> data_, inputs_;
  std::vector<std::unique_ptr<Reduction>> reductions_;
  std::vector<std::deque<Frame>> lines_;
};

void ExpectSameBits(const std::vector<float>& a, const std::vector<float>& b) {
  ASSERT_EQ(a.size(), b.size());
  ASSERT_TRUE(a.empty() || std::memcmp(a.data(), b.data(), 4 * a.size()) == 0);
}

TEST(Schedule, EqualSharesCoverTheVectorOnTheGrid) {
  for (const int64_t elements : {0, 1, 255, 256, 257, 1000, 100000}) {
    for (int members = 1; members <= 64; ++members) {
      const std::vector<Range> shares = EqualShares(elements, members);
      ASSERT_EQ(shares.size(), members);
      int64_t at = 0;
      for (const Range& share : shares) {
        ASSERT_EQ(share.begin, at);
        ASSERT_TRUE(share.end % kShareGrid == 0 || share.end == elements);
        ASSERT_LE(share.size(), elements / members + 2 * kShareGrid);
        at = share.end;
      }
      ASSERT_EQ(at, elements);
    }
  }
}

TEST(Schedule, AMemberOfNoWeightOwnsNothing) {
  const std::vector<double> weights = {0, 3, 1, 0};
  const std::vector<Range> shares = CutShares(256 * 8, weights);
  EXPECT_EQ(shares[0], (Range{0, 0}));
  EXPECT_EQ(shares[1], (Range{0, 256 * 6}));
  EXPECT_EQ(shares[2], (Range{256 * 6, 256 * 8}));
  EXPECT_TRUE(shares[3].empty());
}

TEST(Schedule, FindsAChunkOnlyByItsExactRange) {
  const Range share = {512, 1300};
  EXPECT_EQ(ChunkCount(share, 512), 2);
  EXPECT_EQ(ChunkAt(share, 512, 1), (Range{1024, 1300}));
  EXPECT_EQ(ChunkIndex(share, 512, {1024, 1300}), 1);
  EXPECT_EQ(ChunkIndex(share, 512, {1024, 1299}), -1);
  EXPECT_EQ(ChunkIndex(share, 512, {513, 1025}), -1);
  EXPECT_EQ(ChunkIndex(share, 512, {0, 512}), -1);
  EXPECT_EQ(ChunkIndex(share, 512, {1300, 1400}), -1);
}

TEST(Reduction, SumsInMemberOrderWhateverTheOrderOfArrival) {
  for (const Codec codec : {Codec::kFp32, Codec::kBf16}) {
    for (int members = 1; members <= 9; ++members) {
      for (const int64_t elements : {0, 1, 7, 300, 5000}) {
        Sea sea(members, elements, codec, 256, 3, 17 * members + elements);
        sea.Run();
        const std::vector<float> expected = sea.Expected();
        for (int member = 0; member < members; ++member) {
          ASSERT_TRUE(sea.reduction(member).Complete());
          ASSERT_EQ(sea.reduction(member).elements_done(), elements);
          ASSERT_EQ(sea.reduction(member).held_bytes(), 0u);
          ExpectSameBits(sea.data(member), expected);
        }
      }
    }
  }
}

// A random arborescence towards `root`: each member's parent is one that was placed before it.
std::vector<int> RandomParents(int members, int root, const CounterRandom& random, uint64_t draw) {
  std::vector<int> order, parents(members, -1);
  for (int member = 0; member < members; ++member) {
    if (member != root) order.push_back(member);
  }
  for (size_t i = order.size(); i > 1; --i) {
    std::swap(order[i - 1], order[random.Bits(draw * 1000 + i) % i]);
  }
  std::vector<int> placed = {root};
  for (const int member : order) {
    parents[member] = placed[random.Bits(draw * 1000 + 500 + member) % placed.size()];
    placed.push_back(member);
  }
  return parents;
}

TEST(Reduction, SumsUpAnyTreesAndGivesEveryMemberTheSameBits) {
  const CounterRandom random(99);
  uint64_t draw = 0;
  for (const Codec codec : {Codec::kFp32, Codec::kBf16, Codec::kInt8, Codec::kInt4}) {
    for (int members = 2; members <= 9; ++members) {
      for (const int64_t elements : {1, 300, 7000}) {
        std::vector<Tree> trees(1 + draw % 4);
        for (Tree& tree : trees) {
          tree.weight = 1.0 / static_cast<double>(trees.size());
          tree.root = static_cast<int>(random.Bits(++draw) % members);
          tree.reduce_parent = RandomParents(members, tree.root, random, ++draw);
          tree.broadcast_parent = RandomParents(members, tree.root, random, ++draw);
        }
        SCOPED_TRACE(testing::Message() << CodecName(codec) << ", " << members << " members, "
                                        << elements << " elements, draw " << draw);
        Sea sea(trees, elements, codec, 256, 3, draw);
        sea.Run();
        const std::vector<float> expected = sea.ExpectedOverTrees();
        for (int member = 0; member < members; ++member) {
          ASSERT_TRUE(sea.reduction(member).Complete());
          ASSERT_EQ(sea.reduction(member).elements_done(), elements);
          ASSERT_EQ(sea.reduction(member).held_bytes(), 0u);
          ExpectSameBits(sea.data(member), expected);
        }
      }
    }
  }
}

TEST(Reduction, HoldsNoMoreThanTheWindow) {
  constexpr int kMembers = 5;
  constexpr int64_t kChunk = 256, kWindow = 2;
  Sea sea(kMembers, 200000, Codec::kFp32, kChunk, kWindow, 3);
  const size_t held = sea.Run();
  EXPECT_GT(held, 0u);
  // Early contributions of the others and one accumulator for each chunk in the window.
  EXPECT_LE(held, kWindow * kChunk * sizeof(float) * kMembers);
  ExpectSameBits(sea.data(4), sea.Expected());
}

TEST(Reduction, RefusesFramesThatMakeNoSense) {
  std::vector<float> data(256 * 8);
  ReductionShape shape;
  shape.self = 1;
  shape.chunk_elements = 256;
  shape.window = 2;
  shape.trees = EqualPlan(2).trees;
  Reduction reduction(shape, data);
  FrameHeader header;
  header.type = FrameType::kContribution;
  header.tree = 1;
  header.payload = 1024;
  header.range = {1024, 1280};
  EXPECT_TRUE(reduction.Check(0, header).ok());
  header.payload = 1020;
  EXPECT_FALSE(reduction.Check(0, header).ok()) << "size";
  header.payload = 1024;
  header.range = {0, 256};
  EXPECT_FALSE(reduction.Check(0, header).ok()) << "not ours";
  header.range = {1536, 1792};
  EXPECT_FALSE(reduction.Check(0, header).ok()) << "past the window";
  header.range = {1024, 1280};
  header.tree = 0;
  EXPECT_FALSE(reduction.Check(0, header).ok()) << "of a tree in which it is not our child";
  header.tree = 2;
  EXPECT_FALSE(reduction.Check(0, header).ok()) << "of no tree";
  header.tree = 0;
  header.type = FrameType::kResult;
  header.range = {0, 256};
  EXPECT_FALSE(reduction.Check(0, header).ok()) << "before our contribution";
  ASSERT_TRUE(reduction.NextPiece(0).has_value());
  EXPECT_TRUE(reduction.Check(0, header).ok());
  header.range = {1024, 1280};
  EXPECT_FALSE(reduction.Check(0, header).ok()) << "not the sender's";
}

}  // namespace
}  // namespace atl::wan
