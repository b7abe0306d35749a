#include "collectives/wan/plan/bounded_tree.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/log.h"

namespace atl::wan {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// How much dearer an edge at the radius counts, in mean costs of an edge.
constexpr double kFarIsDear = 0.5;
constexpr int kMostPasses = 4;

class Grower {
 public:
  Grower(const std::vector<double>& cost, const std::vector<double>& length, int n, int root,
         double radius)
      : cost_(cost), length_(length), n_(n), root_(root), radius_(radius * (1 + 1e-12)) {}

  // Node after node, the least key first. False: somebody is left out.
  template <typename Key>
  bool Grow(Key key) {
    parent_.assign(n_, -1);
    way_.assign(n_, kInfinity);
    way_[root_] = 0;
    std::vector<double> least(n_, kInfinity);
    std::vector<bool> in(n_, false);
    int at = root_;
    for (int count = 1; count < n_; ++count) {
      in[at] = true;
      int next = -1;
      for (int v = 0; v < n_; ++v) {
        if (in[v]) continue;
        const int edge = at * n_ + v;
        const double way = way_[at] + length_[edge];
        if (cost_[edge] < kInfinity && way <= radius_) {
          const double k = key(edge, way);
          if (k < least[v]) {
            least[v] = k;
            parent_[v] = at;
            way_[v] = way;
          }
        }
        if (least[v] < kInfinity && (next < 0 || least[v] < least[next])) next = v;
      }
      if (next < 0) return false;
      at = next;
    }
    return true;
  }

  bool GrowCheap() {
    double sum = 0;
    int edges = 0;
    for (int i = 0; i < n_ * n_; ++i) {
      if (i % (n_ + 1) == 0 || !(cost_[i] < kInfinity)) continue;
      sum += cost_[i];
      ++edges;
    }
    const double dear =
        edges > 0 && std::isfinite(radius_) && radius_ > 0 ? kFarIsDear * sum / edges / radius_ : 0;
    return Grow([&](int edge, double way) { return cost_[edge] + dear * way; });
  }
  bool GrowShort() {
    return Grow([](int, double way) { return way; });
  }

  void Improve() {
    for (int pass = 0; pass < kMostPasses; ++pass) {
      bool moved = false;
      for (int v = 0; v < n_; ++v) {
        if (v != root_ && Move(v)) moved = true;
      }
      if (!moved) return;
    }
  }

  std::vector<int> Take() { return std::move(parent_); }

 private:
  // Moves v, with all that hangs below it, under a cheaper parent.
  bool Move(int v) {
    std::vector<int> below = {v};
    std::vector<bool> hangs(n_, false);
    hangs[v] = true;
    double deepest = way_[v];
    for (size_t i = 0; i < below.size(); ++i) {
      deepest = std::max(deepest, way_[below[i]]);
      for (int w = 0; w < n_; ++w) {
        if (w == root_ || hangs[w] || parent_[w] != below[i]) continue;
        hangs[w] = true;
        below.push_back(w);
      }
    }
    const double height = deepest - way_[v];
    int best = parent_[v];
    for (int u = 0; u < n_; ++u) {
      if (hangs[u] || way_[u] + length_[u * n_ + v] + height > radius_) continue;
      if (cost_[u * n_ + v] < cost_[best * n_ + v]) best = u;
    }
    if (best == parent_[v]) return false;
    const double longer = way_[best] + length_[best * n_ + v] - way_[v];
    parent_[v] = best;
    for (const int w : below) way_[w] += longer;
    return true;
  }

  const std::vector<double>& cost_;
  const std::vector<double>& length_;
  const int n_;
  const int root_;
  const double radius_;
  std::vector<int> parent_;
  std::vector<double> way_;  // from the root
};

}  // namespace

std::vector<int> BoundedTree(const std::vector<double>& cost, const std::vector<double>& length,
                             int n, int root, double radius) {
  CHECK_EQ(static_cast<int>(cost.size()), n * n);
  CHECK_EQ(static_cast<int>(length.size()), n * n);
  Grower grower(cost, length, n, root, radius);
  if (!grower.GrowCheap() && !grower.GrowShort()) return {};
  grower.Improve();
  return grower.Take();
}

}  // namespace atl::wan
