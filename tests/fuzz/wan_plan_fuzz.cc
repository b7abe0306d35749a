// Fuzz entry: plans and link matrices from anywhere. A plan that passes CheckPlan is one: each
// member's way leads to the root, the loads add up, its prediction is a time. What MakePlan makes
// of a matrix, as it stands in a file or as reports made it, passes CheckPlan and sends nothing
// where there is no link.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include "collectives/wan/plan/link_model.h"
#include "collectives/wan/plan/planner.h"
#include "collectives/wan/plan/predict.h"

namespace {

using namespace atl::wan;

constexpr int kMostMembers = 6;

void Require(bool condition) {
  if (!condition) std::abort();
}

// 0 where the bytes have come to their end.
class Source {
 public:
  Source(const uint8_t* data, size_t size) : at_(data), end_(data + size) {}
  bool empty() const { return at_ == end_; }
  uint8_t Byte() { return empty() ? 0 : *at_++; }
  int Small() { return static_cast<int8_t>(Byte()); }
  double Any() {
    uint64_t bits = 0;
    for (int i = 0; i < 8; ++i) bits = bits << 8 | Byte();
    return std::bit_cast<double>(bits);
  }
  // Mostly numbers that links may have; some that nothing can have, and some at the very ends.
  double Number() {
    const uint8_t code = Byte();
    if (code == 0) return 0;
    if (code == 255) return std::numeric_limits<double>::infinity();
    if (code == 254) return Any();
    return std::pow(10.0, code / 8.0 - 16);
  }

 private:
  const uint8_t* at_;
  const uint8_t* const end_;
};

LinkMatrix MatrixOf(Source* source, int members) {
  LinkMatrix links(members);
  for (int i = 0; i < members; ++i) {
    links.names[i] = std::string(1, static_cast<char>('a' + i));
    links.up[i] = source->Number();
    links.down[i] = source->Number();
    for (int j = 0; j < members; ++j) {
      links.rate(i, j) = source->Number();
      links.delay(i, j) = source->Number();
    }
  }
  return links;
}

LinkMatrix LearnedMatrix(Source* source, int members) {
  std::vector<std::string> names;
  for (int i = 0; i < members; ++i) names.push_back(std::string(1, static_cast<char>('a' + i)));
  LinkModel model(names);
  for (int operation = 0; operation < 4 && !source->empty(); ++operation) {
    std::vector<LinkReport> reports;
    for (int flow = source->Byte() % (members * members); flow > 0; --flow) {
      LinkReport report;
      report.from = source->Small() % (members + 1);
      report.to = source->Small() % (members + 1);
      report.busy_seconds = source->Number();
      report.acked_bytes = source->Number();
      report.paced_rate = source->Number();
      report.retransmitted = source->Number();
      report.rtt_seconds = source->Number();
      report.queue_seconds = source->Number();
      report.reachable = source->Byte() % 4 != 0;
      reports.push_back(report);
    }
    model.Observe(reports);
  }
  return model.matrix();
}

TreePlan PlanOf(Source* source, int members) {
  TreePlan plan;
  plan.kind = static_cast<ScheduleKind>(source->Byte() % 8);
  plan.throughput = source->Number();
  plan.latency = source->Number();
  const double chunk = source->Number();
  plan.chunk_bytes = std::abs(chunk) < 1e18 ? static_cast<int64_t>(chunk) : -1;
  const int trees = source->Byte() % 5;
  for (int t = 0; t < trees; ++t) {
    Tree tree;
    const uint8_t weight = source->Byte();
    tree.weight = weight == 255 ? source->Any() : weight == 0 ? 1.0 / trees : weight / 64.0;
    tree.root = source->Small();
    // Seldom of another size than the plan's.
    const uint8_t odd = source->Byte();
    tree.reduce_parent.resize(odd == 255 ? source->Byte() : members);
    tree.broadcast_parent.resize(odd == 254 ? source->Byte() : members);
    for (int& parent : tree.reduce_parent) parent = source->Small();
    for (int& parent : tree.broadcast_parent) parent = source->Small();
    plan.trees.push_back(std::move(tree));
  }
  return plan;
}

void RequireWays(const std::vector<int>& parents, int root) {
  for (int at = 0; at < static_cast<int>(parents.size()); ++at) {
    int steps = 0;
    for (int on = at; on != root; on = parents[on]) {
      Require(on >= 0 && on < static_cast<int>(parents.size()));
      Require(++steps < static_cast<int>(parents.size()));
    }
  }
}

void RequireSound(const TreePlan& plan, const LinkMatrix& links) {
  const int members = links.members();
  Require(plan.members() == members);
  for (const Tree& tree : plan.trees) {
    RequireWays(tree.reduce_parent, tree.root);
    RequireWays(tree.broadcast_parent, tree.root);
  }
  double loads = 0;
  for (const double load : EdgeLoads(plan)) loads += load;
  Require(std::abs(loads - 2 * (members - 1)) < 1e-3);
  (void)IsOrderStable(plan);
  (void)ScheduleName(plan.kind);
}

void TryPlanning(const LinkMatrix& links, const PlanRequest& request) {
  const auto plan = MakePlan(links, request);
  if (!plan.ok()) return;
  Require(CheckPlan(*plan, links.members()).ok());
  RequireSound(*plan, links);
  Require(!request.order_stable || IsOrderStable(*plan) || request.kind != ScheduleKind::kAuto);
  const std::vector<double> loads = EdgeLoads(*plan);
  for (int from = 0; from < links.members(); ++from) {
    for (int to = 0; to < links.members(); ++to) {
      if (loads[from * links.members() + to] > 0) Require(links.rate(from, to) > 0);
    }
  }
  Require(Predict(*plan, links, request.bytes).seconds >= 0);
  Require(LowerBound(links, request.bytes).seconds >= 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Source source(data, size);
  const int members = 1 + source.Byte() % kMostMembers;
  const uint8_t mode = source.Byte();
  PlanRequest request;
  request.kind = static_cast<ScheduleKind>(mode / 4 % 5);
  request.order_stable = mode & 2;
  const LinkMatrix links = mode & 1 ? LearnedMatrix(&source, members) : MatrixOf(&source, members);
  TryPlanning(links, request);
  const TreePlan plan = PlanOf(&source, members);
  if (CheckPlan(plan, members).ok()) RequireSound(plan, links);
  return 0;
}
