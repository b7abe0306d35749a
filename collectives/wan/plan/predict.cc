// Predict, in steps:
// 1. The busiest of ups, downs and pairs gives the rate R of the whole; every pair then runs at the
//    rate of its load times R, as its sender paces it.
// 2. Each edge of each tree is a flow. It may start when the first chunk has come from all its
//    sources: leaves of the reduce arborescence at once, the broadcast when the root has a sum.
// 3. A pair serves its flows in the order in which they may start, which is what a queue does. So
//    while the first results are on their way, contributions to others keep the pair busy, and
//    latency costs less than the longest way up and down.
// 4. A flow ends no earlier than a chunk's time after its sources have ended.
// The vector is done when the last flow has arrived.
#include "collectives/wan/plan/predict.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "collectives/wan/plan/planner.h"

namespace atl::wan {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Longer chunks keep a slow link busy while something more urgent waits; shorter ones cost headers.
constexpr double kChunkSeconds = 0.020;
constexpr int64_t kLeastChunk = 16 << 10;
constexpr int64_t kMostChunk = 256 << 10;
constexpr int64_t kChunkStep = 1 << 10;

struct FlowAt {
  int from = 0;
  int to = 0;
  double bytes = 0;
  double chunk = 0;
  double release = 0;        // when its first chunk may leave
  std::vector<int> sources;  // flows that it waits for
};

class Timeline {
 public:
  Timeline(const TreePlan& plan, const LinkMatrix& links, double rate, double bytes)
      : links_(links), members_(plan.members()), pace_(EdgeLoads(plan)) {
    for (double& pace : pace_) {
      if (pace > 0) pace *= rate;
    }
    for (const Tree& tree : plan.trees) {
      const double part = tree.weight * bytes;
      AddTree(tree, part, std::min(part, static_cast<double>(plan.chunk_bytes)));
    }
  }

  double Run() const {
    std::vector<int> order(flows_.size());
    for (size_t f = 0; f < order.size(); ++f) order[f] = static_cast<int>(f);
    // Sources come before what waits for them, also where nothing takes time: they were added so.
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return flows_[a].release < flows_[b].release; });
    std::vector<double> free(pace_.size(), 0.0);
    std::vector<double> arrived(flows_.size(), 0.0);
    double end = 0;
    for (const int f : order) {
      const FlowAt& flow = flows_[f];
      double& pair_free = free[flow.from * members_ + flow.to];
      pair_free = std::max(pair_free, flow.release) + Seconds(flow, flow.bytes);
      double done = pair_free;
      for (const int source : flow.sources) {
        done = std::max(done, arrived[source] + Seconds(flow, flow.chunk));
      }
      arrived[f] = done + links_.delay(flow.from, flow.to);
      end = std::max(end, arrived[f]);
    }
    return end;
  }

 private:
  double Seconds(const FlowAt& flow, double bytes) const {
    return bytes > 0 ? bytes / pace_[flow.from * members_ + flow.to] : 0;
  }

  int Add(FlowAt flow) {
    for (const int source : flow.sources) {
      const FlowAt& before = flows_[source];
      flow.release = std::max(flow.release, before.release + Seconds(before, before.chunk) +
                                                links_.delay(before.from, before.to));
    }
    flows_.push_back(std::move(flow));
    return static_cast<int>(flows_.size()) - 1;
  }

  void AddTree(const Tree& tree, double part, double chunk) {
    std::vector<std::vector<int>> sources(members_);  // by member: what it waits for
    std::vector<int> order = FromTheRoot(tree.reduce_parent, tree.root);
    for (size_t i = order.size(); i-- > 1;) {
      const int from = order[i];
      const int to = tree.reduce_parent[from];
      sources[to].push_back(Add({from, to, part, chunk, 0, std::move(sources[from])}));
    }
    order = FromTheRoot(tree.broadcast_parent, tree.root);
    std::vector<int> result(members_, -1);  // by member: the flow that brings it the sum
    for (size_t i = 1; i < order.size(); ++i) {
      const int to = order[i];
      const int from = tree.broadcast_parent[to];
      const std::vector<int>& wait =
          from == tree.root ? sources[from] : std::vector<int>{result[from]};
      result[to] = Add({from, to, part, chunk, 0, wait});
    }
  }

  const LinkMatrix& links_;
  const int members_;
  std::vector<double> pace_;  // by from * members + to
  std::vector<FlowAt> flows_;
};

class Busiest {
 public:
  template <typename Name>
  void Offer(double capacity, double load, Name name) {
    if (load <= 0) return;
    const double rate = capacity / load;
    // What comes later has to be clearly busier, so that the name does not hang on rounding.
    if (rate >= best_.rate * (1 - 1e-9)) return;
    best_ = {rate, name()};
  }
  PlanRate Take() { return std::move(best_); }

 private:
  PlanRate best_ = {kInfinity, ""};
};

}  // namespace

std::vector<int> FromTheRoot(const std::vector<int>& parents, int root) {
  const int members = static_cast<int>(parents.size());
  std::vector<std::vector<int>> children(members);
  for (int i = 0; i < members; ++i) {
    if (i != root) children[parents[i]].push_back(i);
  }
  std::vector<int> order = {root};
  for (size_t i = 0; i < order.size(); ++i) {
    for (const int child : children[order[i]]) order.push_back(child);
  }
  return order;
}

PlanRate RateOf(const TreePlan& plan, const LinkMatrix& links) {
  const int n = plan.members();
  CHECK_EQ(n, links.members());
  const std::vector<double> loads = EdgeLoads(plan);
  Busiest busiest;
  for (int i = 0; i < n; ++i) {
    double out = 0;
    double in = 0;
    for (int j = 0; j < n; ++j) {
      out += loads[i * n + j];
      in += loads[j * n + i];
    }
    busiest.Offer(links.up[i], out, [&] { return absl::StrCat("up of '", links.names[i], "'"); });
    busiest.Offer(links.down[i], in,
                  [&] { return absl::StrCat("down of '", links.names[i], "'"); });
  }
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) {
      busiest.Offer(links.rate(i, j), loads[i * n + j], [&] {
        return absl::StrCat("pair '", links.names[i], "' -> '", links.names[j], "'");
      });
    }
  }
  return busiest.Take();
}

double TreeLatency(const Tree& tree, const LinkMatrix& links) {
  const int members = static_cast<int>(tree.reduce_parent.size());
  std::vector<double> up(members, 0.0);
  std::vector<double> down(members, 0.0);
  for (const int i : FromTheRoot(tree.reduce_parent, tree.root)) {
    const int parent = tree.reduce_parent[i];
    if (parent >= 0) up[i] = up[parent] + links.delay(i, parent);
  }
  for (const int i : FromTheRoot(tree.broadcast_parent, tree.root)) {
    const int parent = tree.broadcast_parent[i];
    if (parent >= 0) down[i] = down[parent] + links.delay(parent, i);
  }
  return *std::max_element(up.begin(), up.end()) + *std::max_element(down.begin(), down.end());
}

double PlanLatency(const TreePlan& plan, const LinkMatrix& links) {
  double latency = 0;
  for (const Tree& tree : plan.trees) latency = std::max(latency, TreeLatency(tree, links));
  return latency;
}

void Complete(const LinkMatrix& links, TreePlan& plan) {
  const double rate = RateOf(plan, links).rate;
  plan.throughput = std::isinf(rate) ? 0 : rate;
  plan.latency = PlanLatency(plan, links);
  plan.chunk_bytes = kMostChunk;
  if (plan.throughput <= 0) return;
  double slowest = kInfinity;
  for (const double load : EdgeLoads(plan)) {
    if (load > 0) slowest = std::min(slowest, load * rate);
  }
  if (slowest * kChunkSeconds >= kMostChunk) return;
  const int64_t fitting = static_cast<int64_t>(slowest * kChunkSeconds) / kChunkStep * kChunkStep;
  plan.chunk_bytes = std::max(fitting, kLeastChunk);
}

Prediction Predict(const TreePlan& plan, const LinkMatrix& links, double bytes) {
  CHECK_EQ(plan.members(), links.members());
  PlanRate rate = RateOf(plan, links);
  Prediction prediction;
  if (rate.rate <= 0 && bytes > 0) {
    prediction.seconds = kInfinity;
    prediction.bottleneck = std::move(rate.bottleneck);
    return prediction;
  }
  prediction.seconds = Timeline(plan, links, rate.rate, bytes).Run();
  const bool busy = bytes > 0 && bytes / rate.rate >= prediction.seconds / 2;
  prediction.bottleneck = busy && prediction.seconds > 0 ? std::move(rate.bottleneck) : "latency";
  return prediction;
}

}  // namespace atl::wan
