#include "collectives/wan/plan/arborescence.h"

#include <algorithm>
#include <limits>

#include "base/log.h"

namespace atl::wan {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

class Search {
 public:
  Search(const std::vector<double>& cost, int n, int root)
      : n_(n), root_(root), nodes_(2 * n), owner_(n) {
    for (int v = 0; v < n; ++v) {
      owner_[v] = v;
      nodes_[v].cost.resize(n);
      nodes_[v].into.assign(n, v);
      for (int u = 0; u < n; ++u) nodes_[v].cost[u] = cost[u * n + v];
    }
    count_ = n;
  }

  // False: some node cannot be reached.
  bool Contract() {
    nodes_[root_].done = true;
    std::vector<int> walk;
    for (int v = 0; v < n_; ++v) {
      walk.clear();
      int at = owner_[v];
      while (!nodes_[at].done) {
        Node& node = nodes_[at];
        node.on_walk = true;
        walk.push_back(at);
        if (!TakeCheapest(at)) return false;
        const int met = owner_[node.from];
        at = nodes_[met].on_walk ? CloseCycle(walk, met) : met;
      }
      for (const int done : walk) {
        nodes_[done].on_walk = false;
        nodes_[done].done = true;
      }
    }
    return true;
  }

  std::vector<int> Open() const {
    std::vector<int> parent(n_, -1);
    std::vector<int> open;  // nodes whose way in is known to be their own cheapest edge
    for (int x = 0; x < count_; ++x) {
      if (nodes_[x].outer < 0 && x != root_) open.push_back(x);
    }
    while (!open.empty()) {
      const int x = open.back();
      open.pop_back();
      // The edge enters the original node `to`; the nodes around `to` inside x get it as theirs,
      // the others of their cycles keep their own.
      const int to = nodes_[x].to;
      parent[to] = nodes_[x].from;
      for (int inner = to; inner != x; inner = nodes_[inner].outer) {
        for (const int other : nodes_[nodes_[inner].outer].cycle) {
          if (other != inner) open.push_back(other);
        }
      }
    }
    return parent;
  }

 private:
  struct Node {
    std::vector<double> cost;  // by original node u: of the cheapest edge from u into this
    std::vector<int> into;     // by u: the original node that this edge enters
    double cheapest = 0;       // of the chosen edge, from -> to
    int from = -1;
    int to = -1;
    int outer = -1;          // the contraction that this is part of
    std::vector<int> cycle;  // what this contracts
    bool on_walk = false;
    bool done = false;
  };

  bool TakeCheapest(int at) {
    Node& node = nodes_[at];
    node.cheapest = kInfinity;
    for (int u = 0; u < n_; ++u) {
      if (owner_[u] != at && node.cost[u] < node.cheapest) {
        node.cheapest = node.cost[u];
        node.from = u;
      }
    }
    if (node.cheapest == kInfinity) return false;
    node.to = node.into[node.from];
    return true;
  }

  // Makes one node of the walk's end from `first` on; returns it.
  int CloseCycle(std::vector<int>& walk, int first) {
    const int whole = count_++;
    CHECK_LT(whole, static_cast<int>(nodes_.size()));
    Node& node = nodes_[whole];
    node.cost.assign(n_, kInfinity);
    node.into.assign(n_, -1);
    while (true) {
      const int part = walk.back();
      walk.pop_back();
      Node& inner = nodes_[part];
      inner.on_walk = false;
      inner.outer = whole;
      node.cycle.push_back(part);
      for (int u = 0; u < n_; ++u) {
        const double saved = inner.cost[u] - inner.cheapest;
        if (saved < node.cost[u]) {
          node.cost[u] = saved;
          node.into[u] = inner.into[u];
        }
      }
      if (part == first) break;
    }
    for (int v = 0; v < n_; ++v) {
      if (nodes_[owner_[v]].outer == whole) owner_[v] = whole;
    }
    return whole;
  }

  const int n_;
  const int root_;
  std::vector<Node> nodes_;  // the original ones, then contractions
  std::vector<int> owner_;   // by original node: the outermost that holds it
  int count_ = 0;
};

}  // namespace

std::vector<int> CheapestArborescence(const std::vector<double>& cost, int n, int root) {
  CHECK_EQ(static_cast<int>(cost.size()), n * n);
  CHECK(root >= 0 && root < n);
  Search search(cost, n, root);
  if (!search.Contract()) return {};
  return search.Open();
}

}  // namespace atl::wan
