// Trees, and the most weight that the links carry on them.
//
// The linear program: a variable a tree (column), its weight in units of `most`; a row for each up,
// down and pair that could bind, and one that keeps the sum of weights at 1.
//
// Weigh():
// 1. Solve over lines and the pairs that are fullest when all trees weigh the same. Pairs that turn
//    out too full become rows as well, until none is: few of a large view's pairs ever bind.
// 2. Leave out the smallest trees and solve again, as long as there are small ones and it costs
//    little.
// Thread rule: one thread. tree_search.h finds the trees.
#pragma once

#include <limits>
#include <set>
#include <utility>
#include <vector>

#include "base/status.h"
#include "collectives/wan/plan/link_matrix.h"
#include "collectives/wan/plan/tree_plan.h"

namespace atl::wan {

// Calls edge(from, to) for all edges of the tree, of both arborescences.
template <typename Edge>
void ForEachEdge(const Tree& tree, Edge edge) {
  for (int i = 0; i < static_cast<int>(tree.reduce_parent.size()); ++i) {
    if (i == tree.root) continue;
    edge(i, tree.reduce_parent[i]);
    edge(tree.broadcast_parent[i], i);
  }
}

class Packing {
 public:
  struct Column {
    Tree tree;
    double latency = 0;
    bool star = false;
    std::vector<std::pair<int, double>> uses;  // (row, times)
  };

  // `most`: no plan has a higher throughput, bytes/s; finite and above 0. `links` outlives this.
  Packing(const LinkMatrix& links, double most);

  // Adds the tree unless it is there or uses a pair without a link; its weight does not matter.
  // Returns whether it was added.
  bool Add(const Tree& tree);

  struct Filter {
    double latency = std::numeric_limits<double>::infinity();  // trees of at most that latency
    bool stars_only = false;
  };
  // The best weights for the trees that pass; of nearly equal throughputs the one of less latency.
  // Trees of less than kLeastWeight are left out where that costs little; at most kMaxTrees stay.
  // Empty: no tree passes, or none carries anything.
  StatusOr<std::vector<Tree>> Weigh(const Filter& filter) const;

  const LinkMatrix& links() const { return links_; }
  const std::vector<Column>& columns() const { return columns_; }
  // By row, in units of `most`. The last row is the sum of weights.
  const std::vector<double>& limits() const { return limits_; }
  int sum_row() const { return static_cast<int>(limits_.size()) - 1; }
  // Calls row(r) for each row that an edge uses.
  template <typename Row>
  void ForEachRow(int from, int to, Row row) const {
    const int pair = from * links_.members() + to;
    for (const int r : {up_row_[from], down_row_[to], pair_row_[pair]}) {
      if (r >= 0) row(r);
    }
  }

 private:
  const LinkMatrix& links_;
  const double most_;
  std::vector<int> up_row_;    // by member; -1: cannot bind
  std::vector<int> down_row_;  // by member
  std::vector<int> pair_row_;  // by from * members + to
  int line_rows_ = 0;          // those of ups and downs come first
  std::vector<double> limits_;
  std::vector<Column> columns_;
  std::set<std::vector<int>> known_;
};

}  // namespace atl::wan
