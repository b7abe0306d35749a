#include "collectives/wan/plan/tree_search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/log.h"
#include "collectives/wan/plan/arborescence.h"
#include "collectives/wan/plan/bounded_tree.h"
#include "collectives/wan/plan/linear_program.h"

namespace atl::wan {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Of equally cheap edges those of less delay, and those at the root: far below what counts.
constexpr double kTieBreak = 1e-5;
// How dear full links are at first; it grows with the root of the turn. Steeper is greedier: at 3
// and 16 members a tenth of the throughput is not found, at 0.4 eight members lose a fiftieth.
constexpr double kSteepness = 0.7;
// Each turn tries a few roots, in turn; all of a small view.
constexpr int kRootsInAll = 128;
constexpr int kLeastRoots = 4;
constexpr int kMostRoots = 16;
// A tree that costs that much less than it gains becomes a column.
constexpr double kPays = 1e-7;

struct Priced {
  double cost = 0;
  Tree tree;
};

std::vector<double> Transposed(const std::vector<double>& matrix, int n) {
  std::vector<double> turned(matrix.size());
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) turned[j * n + i] = matrix[i * n + j];
  }
  return turned;
}

// What a byte costs on each pair at these prices of rows; infinity: no link.
class PairCosts {
 public:
  PairCosts(const Packing& packing, const std::vector<double>& prices)
      : links_(packing.links()), n_(links_.members()), costs_(n_ * n_, kInfinity) {
    double most = 0;
    double longest = 0;
    for (int i = 0; i < n_; ++i) {
      for (int j = 0; j < n_; ++j) {
        longest = std::max(longest, links_.delay(i, j));
        if (i == j || !(links_.rate(i, j) > 0)) continue;
        double cost = 0;
        packing.ForEachRow(i, j, [&](int r) { cost += prices[r]; });
        costs_[i * n_ + j] = cost;
        most = std::max(most, cost);
      }
    }
    tie_ = most > 0 ? kTieBreak * most : 1.0;
    adjusted_ = costs_;
    for (int pair = 0; pair < n_ * n_; ++pair) {
      adjusted_[pair] += tie_ * (1 + (longest > 0 ? links_.delays[pair] / longest : 0));
    }
    turned_ = Transposed(adjusted_, n_);
    turned_delays_ = Transposed(links_.delays, n_);
  }

  // The cheapest tree of each of these roots, cheapest first. Of a finite latency they are cheap.
  std::vector<Priced> Trees(const std::vector<int>& roots, double latency) const {
    std::vector<Priced> trees;
    for (const int root : roots) {
      Priced priced;
      priced.tree.weight = 1;
      priced.tree.root = root;
      priced.tree.broadcast_parent = Cheapest(adjusted_, links_.delays, root, latency);
      priced.tree.reduce_parent = Cheapest(turned_, turned_delays_, root, latency);
      if (priced.tree.broadcast_parent.empty() || priced.tree.reduce_parent.empty()) continue;
      ForEachEdge(priced.tree, [&](int from, int to) { priced.cost += costs_[from * n_ + to]; });
      trees.push_back(std::move(priced));
    }
    std::stable_sort(trees.begin(), trees.end(),
                     [](const Priced& a, const Priced& b) { return a.cost < b.cost; });
    return trees;
  }

 private:
  std::vector<int> Cheapest(std::vector<double> costs, const std::vector<double>& delays, int root,
                            double latency) const {
    for (int j = 0; j < n_; ++j) costs[root * n_ + j] -= tie_ / 2;
    return std::isinf(latency) ? CheapestArborescence(costs, n_, root)
                               : BoundedTree(costs, delays, n_, root, latency / 2);
  }

  const LinkMatrix& links_;
  const int n_;
  std::vector<double> costs_;     // by from * n + to
  std::vector<double> adjusted_;  // with ties broken
  std::vector<double> turned_;    // by to * n + from
  std::vector<double> turned_delays_;
  double tie_ = 0;
};

}  // namespace

void Explore(Packing& packing, double latency, int turns) {
  const int n = packing.links().members();
  const int roots_a_turn = std::min(n, std::clamp(kRootsInAll / n, kLeastRoots, kMostRoots));
  const std::vector<double>& limits = packing.limits();
  std::vector<double> used(limits.size(), 0.0);
  std::vector<double> prices(limits.size(), 0.0);
  int next_root = 0;
  for (int turn = 0; turn < turns; ++turn) {
    double fullest = 0;
    for (int r = 0; r < packing.sum_row(); ++r) {
      if (limits[r] > 0) fullest = std::max(fullest, used[r] / limits[r]);
    }
    const double steep = kSteepness * std::sqrt(turn + 1.0);
    for (int r = 0; r < packing.sum_row(); ++r) {
      if (limits[r] <= 0) continue;  // no tree uses it
      const double full = fullest > 0 ? used[r] / limits[r] / fullest : 1;
      prices[r] = std::exp(steep * (full - 1)) / limits[r];
    }
    std::vector<int> roots;
    for (int i = 0; i < roots_a_turn; ++i) {
      roots.push_back(next_root);
      next_root = (next_root + 1) % n;
    }
    const std::vector<Priced> trees = PairCosts(packing, prices).Trees(roots, latency);
    if (trees.empty()) continue;
    packing.Add(trees.front().tree);
    ForEachEdge(trees.front().tree, [&](int from, int to) {
      packing.ForEachRow(from, to, [&](int r) { used[r] += 1; });
    });
  }
}

StatusOr<Proof> Generate(Packing& packing, double gap, int turns) {
  LinearProgram program;
  for (const double limit : packing.limits()) program.AddRow(limit, {});
  size_t known = 0;
  std::vector<int> roots(packing.links().members());
  std::iota(roots.begin(), roots.end(), 0);
  std::vector<double> prices(packing.limits().size());
  Proof proof = {0, 1};
  for (int turn = 0; turn < turns; ++turn) {
    for (; known < packing.columns().size(); ++known) {
      program.AddColumn(1, packing.columns()[known].uses);
    }
    RETURN_IF_ERROR(program.Solve());
    proof.value = program.value();
    for (size_t r = 0; r < prices.size(); ++r) prices[r] = program.price(static_cast<int>(r));
    const std::vector<Priced> trees = PairCosts(packing, prices).Trees(roots, kInfinity);
    if (trees.empty()) return proof;
    // Prices are a solution of the dual once every tree costs as much as it gains, 1: scaled up so
    // far that the cheapest one does, they prove a bound.
    const double sum_price = prices[packing.sum_row()];
    const double cheapest = trees.front().cost + sum_price;
    if (cheapest > 0) proof.bound = std::min(proof.bound, proof.value / std::min(cheapest, 1.0));
    if (proof.bound <= proof.value * (1 + gap)) return proof;
    int added = 0;
    for (const Priced& priced : trees) {
      if (priced.cost + sum_price >= 1 - kPays) break;
      if (packing.Add(priced.tree)) ++added;
    }
    if (added == 0) return proof;
  }
  return proof;
}

}  // namespace atl::wan
