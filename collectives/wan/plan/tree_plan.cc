#include "collectives/wan/plan/tree_plan.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace atl::wan {
namespace {

Status Wrong(const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("plan of trees: ", what));
}

// `parents` has one entry a member. Each member's way to the root is walked once: what was seen to
// arrive is not walked again, so the whole costs one step a member.
Status CheckArborescence(const std::vector<int>& parents, int root, const char* which, int tree) {
  const int members = static_cast<int>(parents.size());
  const auto where = [&] { return absl::StrCat("tree ", tree, ", ", which, " parents: "); };
  for (int i = 0; i < members; ++i) {
    if (i == root) {
      if (parents[i] != -1) {
        return Wrong(absl::StrCat(where(), "the root ", root, " has the parent ", parents[i]));
      }
    } else if (parents[i] < 0 || parents[i] >= members || parents[i] == i) {
      return Wrong(absl::StrCat(where(), "member ", i, " has the parent ", parents[i],
                                ", expected another of ", members, " members"));
    }
  }
  enum : uint8_t { kNew, kOnWay, kArrives };
  std::vector<uint8_t> state(members, kNew);
  state[root] = kArrives;
  for (int i = 0; i < members; ++i) {
    int at = i;
    while (state[at] == kNew) {
      state[at] = kOnWay;
      at = parents[at];
    }
    if (state[at] == kOnWay) {
      return Wrong(absl::StrCat(where(), "member ", at, " is its own ancestor"));
    }
    for (at = i; state[at] == kOnWay; at = parents[at]) state[at] = kArrives;
  }
  return OkStatus();
}

bool AllBelow(const std::vector<int>& parents, int root) {
  for (int i = 0; i < static_cast<int>(parents.size()); ++i) {
    if (i != root && parents[i] != root) return false;
  }
  return true;
}

}  // namespace

TreePlan EqualPlan(int members) {
  CHECK_GE(members, 1);
  TreePlan plan;
  const int roots = std::min(members, kMaxTrees);
  // With two members either star alone would carry as much, but only both together keep the two
  // directions busy from the first moment to the last.
  for (int root = 0; root < roots; ++root) {
    Tree tree;
    tree.weight = 1.0 / roots;
    tree.root = root;
    tree.reduce_parent.assign(members, root);
    tree.reduce_parent[root] = -1;
    tree.broadcast_parent = tree.reduce_parent;
    plan.trees.push_back(std::move(tree));
  }
  return plan;
}

Status CheckPlan(const TreePlan& plan, int members) {
  if (members < 1) return Wrong(absl::StrCat("for ", members, " members"));
  if (plan.kind < ScheduleKind::kEqual || plan.kind > ScheduleKind::kTrees) {
    return Wrong(absl::StrCat("unknown kind ", static_cast<int>(plan.kind)));
  }
  if (plan.trees.empty() || plan.trees.size() > kMaxTrees) {
    return Wrong(absl::StrCat(plan.trees.size(), " trees, expected 1 to ", kMaxTrees));
  }
  if (!std::isfinite(plan.throughput) || plan.throughput < 0) {
    return Wrong(absl::StrCat("throughput ", plan.throughput));
  }
  if (!std::isfinite(plan.latency) || plan.latency < 0) {
    return Wrong(absl::StrCat("latency ", plan.latency));
  }
  if (plan.chunk_bytes < 1 || plan.chunk_bytes > kMaxChunkBytes) {
    return Wrong(
        absl::StrCat("chunks of ", plan.chunk_bytes, " bytes, expected 1 to ", kMaxChunkBytes));
  }
  double sum = 0;
  for (int t = 0; t < static_cast<int>(plan.trees.size()); ++t) {
    const Tree& tree = plan.trees[t];
    if (!(tree.weight > 0) || tree.weight > 1 + kWeightSlack) {  // not a number is neither
      return Wrong(absl::StrCat("tree ", t, " has the weight ", tree.weight));
    }
    sum += tree.weight;
    if (tree.root < 0 || tree.root >= members) {
      return Wrong(
          absl::StrCat("tree ", t, " has the root ", tree.root, " of ", members, " members"));
    }
    if (tree.reduce_parent.size() != members || tree.broadcast_parent.size() != members) {
      return Wrong(absl::StrCat("tree ", t, " has ", tree.reduce_parent.size(), " reduce and ",
                                tree.broadcast_parent.size(), " broadcast parents, expected ",
                                members));
    }
    RETURN_IF_ERROR(CheckArborescence(tree.reduce_parent, tree.root, "reduce", t));
    RETURN_IF_ERROR(CheckArborescence(tree.broadcast_parent, tree.root, "broadcast", t));
  }
  if (std::abs(sum - 1) > kWeightSlack) {
    return Wrong(absl::StrCat("the weights sum to ", sum, ", expected 1"));
  }
  return OkStatus();
}

std::vector<double> EdgeLoads(const TreePlan& plan) {
  const int members = plan.members();
  std::vector<double> loads(static_cast<size_t>(members) * members, 0.0);
  for (const Tree& tree : plan.trees) {
    for (int i = 0; i < members; ++i) {
      if (i == tree.root) continue;
      loads[i * members + tree.reduce_parent[i]] += tree.weight;
      loads[tree.broadcast_parent[i] * members + i] += tree.weight;
    }
  }
  return loads;
}

bool IsStar(const Tree& tree) {
  return AllBelow(tree.reduce_parent, tree.root) && AllBelow(tree.broadcast_parent, tree.root);
}

bool IsOrderStable(const TreePlan& plan) {
  for (const Tree& tree : plan.trees) {
    if (!IsStar(tree)) return false;
  }
  return true;
}

const char* ScheduleName(ScheduleKind kind) {
  switch (kind) {
    case ScheduleKind::kAuto:
      return "auto";
    case ScheduleKind::kEqual:
      return "equal";
    case ScheduleKind::kDirect:
      return "direct";
    case ScheduleKind::kRing:
      return "ring";
    case ScheduleKind::kTrees:
      return "trees";
  }
  return "unknown";
}

StatusOr<ScheduleKind> ParseSchedule(const std::string& name) {
  for (const ScheduleKind kind : {ScheduleKind::kAuto, ScheduleKind::kEqual, ScheduleKind::kDirect,
                                  ScheduleKind::kRing, ScheduleKind::kTrees}) {
    if (name == ScheduleName(kind)) return kind;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown schedule '", name, "'; there are: auto, equal, direct, ring, trees"));
}

}  // namespace atl::wan
