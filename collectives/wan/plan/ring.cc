#include "collectives/wan/plan/ring.h"

#include <algorithm>
#include <limits>
#include <tuple>

#include "base/log.h"

namespace atl::wan {
namespace {

// Turns and moves until none makes it better; far more than searches have been seen to take.
constexpr int kMostSteps = 1000;

// Less is better.
struct Cost {
  double slowness = 0;  // of the slowest hop: seconds a byte; infinity: no link
  double sum = 0;       // of all hops' slowness: leads out of plateaus
  double delay = 0;
  bool operator<(const Cost& other) const {
    return std::tie(slowness, sum, delay) < std::tie(other.slowness, other.sum, other.delay);
  }
};

class Cycles {
 public:
  explicit Cycles(const LinkMatrix& links) : links_(links), n_(links.members()) {
    slowness_.resize(n_ * n_);
    for (int i = 0; i < n_; ++i) {
      for (int j = 0; j < n_; ++j) {
        slowness_[i * n_ + j] = 1 / std::min({links.up[i], links.rate(i, j), links.down[j]});
      }
    }
  }

  Cost CostOf(const std::vector<int>& cycle) const {
    Cost cost;
    for (int i = 0; i < n_; ++i) {
      const int from = cycle[i];
      const int to = cycle[i + 1 < n_ ? i + 1 : 0];
      cost.slowness = std::max(cost.slowness, slowness_[from * n_ + to]);
      cost.sum += slowness_[from * n_ + to];
      cost.delay += links_.delay(from, to);
    }
    return cost;
  }

  std::vector<int> Greedy(int start) const {
    std::vector<int> cycle = {start};
    std::vector<bool> seen(n_, false);
    seen[start] = true;
    while (static_cast<int>(cycle.size()) < n_) {
      const int from = cycle.back();
      int best = -1;
      for (int to = 0; to < n_; ++to) {
        if (!seen[to] && (best < 0 || Hop(from, to) < Hop(from, best))) best = to;
      }
      seen[best] = true;
      cycle.push_back(best);
    }
    return cycle;
  }

  void Improve(std::vector<int>& cycle) const {
    Cost cost = CostOf(cycle);
    for (int step = 0; step < kMostSteps; ++step) {
      std::vector<int> best = cycle;
      Cost least = cost;
      for (int i = 0; i < n_; ++i) {
        for (int j = i + 1; j < n_; ++j) {
          std::vector<int> turned = cycle;
          std::reverse(turned.begin() + i, turned.begin() + j + 1);
          Offer(turned, best, least);
          std::vector<int> moved = cycle;  // the member at i goes to j, and back to front
          std::rotate(moved.begin() + i, moved.begin() + i + 1, moved.begin() + j + 1);
          Offer(moved, best, least);
          moved = cycle;
          std::rotate(moved.begin() + i, moved.begin() + j, moved.begin() + j + 1);
          Offer(moved, best, least);
        }
      }
      if (!(least < cost)) return;
      cycle = best;
      cost = least;
    }
  }

 private:
  std::pair<double, double> Hop(int from, int to) const {
    return {slowness_[from * n_ + to], links_.delay(from, to)};
  }
  void Offer(const std::vector<int>& cycle, std::vector<int>& best, Cost& least) const {
    const Cost cost = CostOf(cycle);
    if (cost < least) {
      least = cost;
      best = cycle;
    }
  }

  const LinkMatrix& links_;
  const int n_;
  std::vector<double> slowness_;
};

std::vector<int> FromMemberZero(std::vector<int> cycle) {
  std::rotate(cycle.begin(), std::find(cycle.begin(), cycle.end(), 0), cycle.end());
  return cycle;
}

}  // namespace

std::vector<int> BestCycle(const LinkMatrix& links) {
  const int n = links.members();
  CHECK_GE(n, 2);
  const Cycles cycles(links);
  std::vector<int> best(n);
  for (int i = 0; i < n; ++i) best[i] = i;
  Cost least = cycles.CostOf(best);
  const auto offer = [&](const std::vector<int>& cycle) {
    const Cost cost = cycles.CostOf(cycle);
    if (cost < least) {
      least = cost;
      best = cycle;
    }
  };
  if (n <= kExactMembers) {
    std::vector<int> cycle = best;
    while (std::next_permutation(cycle.begin() + 1, cycle.end())) offer(cycle);
    return best;
  }
  // A few starts: one is all that a large view has time for, and it is nearly as good.
  const int starts = std::min(n, std::max(1, 160 / n));
  for (int s = 0; s < starts; ++s) offer(cycles.Greedy(s * n / starts));
  cycles.Improve(best);
  return FromMemberZero(best);
}

std::vector<Tree> RingTrees(const std::vector<int>& cycle) {
  const int n = static_cast<int>(cycle.size());
  std::vector<Tree> trees;
  for (int r = 0; r < n; ++r) {
    Tree tree;
    tree.weight = 1.0 / n;
    tree.root = cycle[r];
    tree.reduce_parent.assign(n, -1);
    tree.broadcast_parent.assign(n, -1);
    for (int step = 1; step < n; ++step) {
      const int at = cycle[(r + step) % n];
      tree.reduce_parent[at] = cycle[(r + step + 1) % n];
      tree.broadcast_parent[at] = cycle[(r + step - 1) % n];
    }
    trees.push_back(std::move(tree));
  }
  return trees;
}

}  // namespace atl::wan
