// Who sends which part of a vector to whom in an all-reduce: the form that every schedule takes.
//
// The vector is cut into one part a tree, in proportion to the trees' weights (CutShares). A part
// is summed up its tree's reduce arborescence: a member adds what its children sent to its own
// numbers and sends the sum to its parent; the root holds the total, encodes it once and sends it
// down the broadcast arborescence, whose members keep what they decode and pass the same bytes on.
// Direct exchange with owner j is the star around j; a ring is N paths, one from each member; a
// route through a third region is a path of two edges.
//
// The sum at a member runs over its children and itself in member order. For stars that is the
// order of all members whatever the root: plans made of stars alone ("order-stable") give the same
// bits as each other; deeper trees associate differently and each plan has bits of its own.
//
// Cost for S encoded bytes: member i sends S * sum over trees of weight * (edges out of i) bytes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace atl::wan {

// Limits of a plan, so that one that came over the wire cannot make anybody allocate much.
inline constexpr int kMaxTrees = 256;
inline constexpr int64_t kMaxChunkBytes = 4 << 20;
// How far the sum of the weights may be from 1.
inline constexpr double kWeightSlack = 1e-6;

struct Tree {
  double weight = 0;  // share of the vector; a plan's sum to 1
  int root = 0;
  std::vector<int> reduce_parent;     // by member; -1 at the root
  std::vector<int> broadcast_parent;  // by member; -1 at the root
  friend bool operator==(const Tree&, const Tree&) = default;
};

enum class ScheduleKind : uint8_t {
  kEqual = 1,   // stars, equal weights: direct exchange
  kDirect = 2,  // stars, weights that fit the links
  kRing = 3,    // N paths around one cycle, the best cycle that was found
  kTrees = 4,   // any trees: the packing that fits the links
  kAuto = 0,    // whichever is predicted to be the quickest
};

struct TreePlan {
  ScheduleKind kind = ScheduleKind::kEqual;
  std::vector<Tree> trees;
  // Predicted: encoded bytes of the vector that are reduced a second once the pipeline is full; 0:
  // nothing is known about the links, nobody paces.
  double throughput = 0;
  // The longest way up and down a tree, seconds.
  double latency = 0;
  // Bytes that a frame should carry at most, so that no link is busy with one for long.
  int64_t chunk_bytes = 256 << 10;
  friend bool operator==(const TreePlan&, const TreePlan&) = default;

  int members() const {
    return trees.empty() ? 0 : static_cast<int>(trees.front().reduce_parent.size());
  }
};

// Equal stars, one a member (of more than kMaxTrees members the first own everything): what is used
// until something is known.
TreePlan EqualPlan(int members);
// Roots in range, parents that form arborescences over all members, weights above 0 that sum to 1:
// else kInvalidArgument with what is wrong; so are a kind that is none, more than kMaxTrees trees,
// chunks outside 1..kMaxChunkBytes. For plans that came over the wire: what the plan's own size is
// has been bounded by whoever parsed it, here nothing is allocated but one byte a member.
Status CheckPlan(const TreePlan& plan, int members);
// By from * members + to: the bytes that go from one to the other, a byte of the vector.
std::vector<double> EdgeLoads(const TreePlan& plan);
bool IsStar(const Tree& tree);
bool IsOrderStable(const TreePlan& plan);

// "direct", "ring", "trees", "equal", "auto".
const char* ScheduleName(ScheduleKind kind);
StatusOr<ScheduleKind> ParseSchedule(const std::string& name);

}  // namespace atl::wan
