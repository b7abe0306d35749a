#include "collectives/wan/plan/min_cut.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/log.h"

namespace atl::wan {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Dinic's algorithm; `left` is what the arcs can still carry.
class Flow {
 public:
  Flow(std::vector<double> capacity, int n) : n_(n), left_(std::move(capacity)) {
    double most = 0;
    for (const double c : left_) most = std::max(most, c);
    least_ = most * 1e-13;  // less than that is rounding
  }

  double Run(int from, int to) {
    double flow = 0;
    while (Layers(from, to)) {
      next_.assign(n_, 0);
      while (true) {
        const double more = Push(from, to, kInfinity);
        if (more <= 0) break;
        flow += more;
      }
    }
    return flow;
  }

  // After Run: what `from` still reaches.
  std::vector<bool> Near() const {
    std::vector<bool> near(n_);
    for (int v = 0; v < n_; ++v) near[v] = layer_[v] >= 0;
    return near;
  }

 private:
  bool Open(int u, int v) const { return left_[u * n_ + v] > least_; }

  bool Layers(int from, int to) {
    layer_.assign(n_, -1);
    layer_[from] = 0;
    std::vector<int> queue = {from};
    for (size_t i = 0; i < queue.size(); ++i) {
      for (int v = 0; v < n_; ++v) {
        if (layer_[v] < 0 && Open(queue[i], v)) {
          layer_[v] = layer_[queue[i]] + 1;
          queue.push_back(v);
        }
      }
    }
    return layer_[to] >= 0;
  }

  double Push(int at, int to, double most) {
    if (at == to) return most;
    for (int& v = next_[at]; v < n_; ++v) {
      if (layer_[v] != layer_[at] + 1 || !Open(at, v)) continue;
      const double pushed = Push(v, to, std::min(most, left_[at * n_ + v]));
      if (pushed > 0) {
        left_[at * n_ + v] -= pushed;
        left_[v * n_ + at] += pushed;
        return pushed;
      }
    }
    return 0;
  }

  const int n_;
  std::vector<double> left_;
  double least_ = 0;
  std::vector<int> layer_;
  std::vector<int> next_;
};

// The partition (part by node) with the least capacity between parts minus price a part.
std::vector<int> CheapestPartition(const std::vector<double>& capacity, int n, double price) {
  std::vector<int> part(n);
  std::vector<double> paid(n, 0.0);  // what each node adds to the sum
  for (int v = 0; v < n; ++v) {
    // Least of: half of what leaves a set of nodes up to v, with v, minus the price, minus what its
    // other nodes have paid. One cut: v on the near side, all nodes behind v on the far side.
    const int far = v + 1;
    const int size = v + 2;
    std::vector<double> arcs(size * size, 0.0);
    double constant = -price;
    for (int u = 0; u <= v; ++u) {
      for (int w = 0; w < n; ++w) {
        if (w != u) arcs[u * size + std::min(w, far)] += capacity[u * n + w] / 2;
      }
      if (u == v) continue;
      if (paid[u] > 0) {
        arcs[v * size + u] += paid[u];
        constant -= paid[u];
      } else {
        arcs[u * size + far] -= paid[u];
      }
    }
    const Cut cut = MinCut(std::move(arcs), size, v, far);
    paid[v] = cut.capacity + constant;
    part[v] = v;
    for (int u = 0; u < v; ++u) {
      if (!cut.near[u] || part[u] == v) continue;
      // Sets that fit exactly and overlap fit exactly together.
      const int joined = part[u];
      for (int w = 0; w < v; ++w) {
        if (part[w] == joined) part[w] = v;
      }
    }
  }
  return part;
}

int CountFromZero(std::vector<int>& part) {
  std::vector<int> number(part.size(), -1);
  int count = 0;
  for (int& p : part) {
    if (number[p] < 0) number[p] = count++;
    p = number[p];
  }
  return count;
}

double Strength(const std::vector<double>& capacity, const std::vector<int>& part, int parts) {
  const int n = static_cast<int>(part.size());
  double between = 0;
  for (int u = 0; u < n; ++u) {
    for (int v = 0; v < u; ++v) {
      if (part[u] != part[v]) between += capacity[u * n + v];
    }
  }
  return between / (parts - 1);
}

// By node the number of its group: groups are joined without limit inside.
std::vector<int> JoinedWithoutLimit(const std::vector<double>& capacity, int n) {
  std::vector<int> group(n);
  for (int v = 0; v < n; ++v) group[v] = v;
  for (int u = 0; u < n; ++u) {
    for (int v = 0; v < u; ++v) {
      if (!std::isinf(capacity[u * n + v]) || group[u] == group[v]) continue;
      const int joined = group[v];
      for (int& g : group) {
        if (g == joined) g = group[u];
      }
    }
  }
  CountFromZero(group);
  return group;
}

}  // namespace

Cut MinCut(std::vector<double> capacity, int n, int from, int to) {
  CHECK_EQ(static_cast<int>(capacity.size()), n * n);
  CHECK(from != to && from >= 0 && from < n && to >= 0 && to < n);
  Flow flow(std::move(capacity), n);
  Cut cut;
  cut.capacity = flow.Run(from, to);
  cut.near = flow.Near();
  return cut;
}

Partition WeakestPartition(const std::vector<double>& capacity, int n) {
  CHECK_EQ(static_cast<int>(capacity.size()), n * n);
  const std::vector<int> group = JoinedWithoutLimit(capacity, n);
  const int groups = group.empty() ? 0 : *std::max_element(group.begin(), group.end()) + 1;
  Partition best;
  best.strength = kInfinity;
  best.part.assign(n, 0);
  best.parts = groups > 0 ? 1 : 0;
  if (groups <= 1) return best;
  std::vector<double> joined(groups * groups, 0.0);
  for (int u = 0; u < n; ++u) {
    for (int v = 0; v < n; ++v) {
      if (group[u] != group[v]) joined[group[u] * groups + group[v]] += capacity[u * n + v];
    }
  }
  std::vector<int> part(groups);
  for (int g = 0; g < groups; ++g) part[g] = g;
  int parts = groups;
  // The guess falls with every turn; a graph has far fewer different partitions on the way down.
  for (int turn = 0; turn < 100 && parts > 1; ++turn) {
    const double strength = Strength(joined, part, parts);
    if (strength >= best.strength * (1 - 1e-12)) break;
    best.strength = strength;
    best.parts = parts;
    for (int v = 0; v < n; ++v) best.part[v] = part[group[v]];
    if (strength <= 0) break;
    part = CheapestPartition(joined, groups, strength);
    parts = CountFromZero(part);
  }
  return best;
}

}  // namespace atl::wan
