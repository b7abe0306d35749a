#include "collectives/wan/plan/planner.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "collectives/wan/plan/bound.h"
#include "collectives/wan/plan/packing.h"
#include "collectives/wan/plan/predict.h"
#include "collectives/wan/plan/ring.h"
#include "collectives/wan/plan/tree_search.h"

namespace atl::wan {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Of plans whose times differ by less the simpler one is taken.
constexpr double kNearlyEqual = 0.01;
// What a tree more is worth in seconds of latency when plans are nearly equal.
constexpr double kTreeSeconds = 1e-4;
// How near to the optimum the search for trees goes.
constexpr double kGap = 0.002;
// Latencies at which it is tried to do without the slower stars, or paths of the ring.
constexpr int kLatencyLevels = 4;
// The same for trees: each level has that much of the latency of the one before, and the search
// ends where plans clearly become worse.
constexpr int kTreeLevels = 6;
constexpr double kLatencyStep = 0.65;
constexpr double kWorse = 1.1;
// Above that many members a plan of trees is one attempt, at a latency that is likely to do.
constexpr int kSmallView = 16;
constexpr double kStarTimes = 1.5;
// Trees to explore. What a large view's plan lacks is then about a tenth where each of its pairs is
// a limit of its own, nothing where lines are.
constexpr int kTurns = 80;
constexpr int kTurnsOfLarge = 120;
// Where all trees can be searched, the optimum, as far as that many turns go.
constexpr int kGenerateTurns = 40;

// Bytes/s that a link can have.
constexpr double kLeastRate = 1;
constexpr double kMostRate = 1e13;

bool HasLink(const LinkMatrix& links, int from, int to) {
  return from != to && links.rate(from, to) > 0 && links.up[from] > 0 && links.down[to] > 0;
}

Status CheckNumbers(const LinkMatrix& links) {
  const size_t n = links.up.size();
  if (n == 0) return absl::InvalidArgumentError("link matrix: no members");
  if (links.names.size() != n || links.down.size() != n || links.rates.size() != n * n ||
      links.delays.size() != n * n) {
    return absl::InvalidArgumentError(absl::StrCat(
        "link matrix: ", n, " ups, but ", links.names.size(), " names, ", links.down.size(),
        " downs, ", links.rates.size(), " rates and ", links.delays.size(), " delays"));
  }
  const auto bad = [](double rate) { return std::isnan(rate) || rate < 0; };
  for (size_t i = 0; i < n; ++i) {
    if (bad(links.up[i]) || bad(links.down[i])) {
      return absl::InvalidArgumentError(absl::StrCat("link matrix: up ", links.up[i], " and down ",
                                                     links.down[i], " of '", links.names[i],
                                                     "': a rate is 0 or more"));
    }
    for (size_t j = 0; j < n; ++j) {
      const size_t pair = i * n + j;
      if (i == j || (!bad(links.rates[pair]) && !bad(links.delays[pair]) &&
                     std::isfinite(links.delays[pair]))) {
        continue;
      }
      return absl::InvalidArgumentError(
          absl::StrCat("link matrix: from '", links.names[i], "' to '", links.names[j], "' rate ",
                       links.rates[pair], ", delay ", links.delays[pair],
                       ": both are 0 or more, delays finite"));
    }
  }
  return OkStatus();
}

// Rates so far apart that sums lose the smaller ones tell nothing: less than kLeastRate is as bad
// as that, more than kMostRate is no limit.
LinkMatrix WithinReason(LinkMatrix links) {
  for (std::vector<double>* rates : {&links.up, &links.down, &links.rates}) {
    for (double& rate : *rates) {
      if (rate > 0 && rate < kLeastRate) rate = kLeastRate;
      if (rate > kMostRate) rate = kInfinity;
    }
  }
  return links;
}

// Who can be reached from `start` over links, or, backwards, who reaches it.
std::vector<bool> Reached(const LinkMatrix& links, int start, bool backwards) {
  const int n = links.members();
  std::vector<bool> reached(n, false);
  std::vector<int> queue = {start};
  reached[start] = true;
  for (size_t i = 0; i < queue.size(); ++i) {
    for (int j = 0; j < n; ++j) {
      const bool link = backwards ? HasLink(links, j, queue[i]) : HasLink(links, queue[i], j);
      if (!link || reached[j]) continue;
      reached[j] = true;
      queue.push_back(j);
    }
  }
  return reached;
}

// All members must be able to reach all others, through others if need be.
Status CheckReachable(const LinkMatrix& links) {
  const int n = links.members();
  std::vector<bool> largest;
  int most = 0;
  for (int i = 0; i < n && most < n; ++i) {
    const std::vector<bool> from = Reached(links, i, false);
    const std::vector<bool> to = Reached(links, i, true);
    std::vector<bool> both(n);
    for (int j = 0; j < n; ++j) both[j] = from[j] && to[j];
    const int count = static_cast<int>(std::count(both.begin(), both.end(), true));
    if (count <= most) continue;
    most = count;
    largest = both;
  }
  if (most == n) return OkStatus();
  std::vector<std::string> lost;
  for (int i = 0; i < n; ++i) {
    if (!largest[i]) lost.push_back(absl::StrCat("'", links.names[i], "'"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("no way over the links to and from ", absl::StrJoin(lost, ", "),
                   ": every member must reach the others, directly or through others; look at the "
                   "rates that are 0"));
}

bool StarFits(const LinkMatrix& links, int root) {
  for (int i = 0; i < links.members(); ++i) {
    if (i != root && !(HasLink(links, i, root) && HasLink(links, root, i))) return false;
  }
  return true;
}

struct Candidate {
  TreePlan plan;
  double seconds = 0;
};

class Planner {
 public:
  Planner(const LinkMatrix& links, const PlanRequest& request)
      : links_(links), request_(request), stars_(EqualPlan(links.members()).trees) {
    bound_ = BoundThroughput(links).rate;
    scale_ = bound_;
    if (std::isinf(bound_)) {
      // What has a limit is to be avoided, what has none is not to count.
      scale_ = 1;
      for (const double rate : links.rates) {
        if (std::isfinite(rate)) scale_ = std::max(scale_, rate * 2 * links.members());
      }
    }
  }

  StatusOr<TreePlan> Make() {
    switch (request_.kind) {
      case ScheduleKind::kEqual:
        RETURN_IF_ERROR(Equal());
        break;
      case ScheduleKind::kDirect:
        RETURN_IF_ERROR(Direct());
        break;
      case ScheduleKind::kRing:
        RETURN_IF_ERROR(Ring());
        break;
      case ScheduleKind::kTrees:
        RETURN_IF_ERROR(Trees());
        break;
      case ScheduleKind::kAuto:
        RETURN_IF_ERROR(Auto());
        break;
    }
    return Best();
  }

 private:
  // As far as a kind is possible over these links; of kAuto one has to be.
  Status Auto() {
    const Status equal = Equal();
    // Where nothing is known, evenly.
    if (equal.ok() && std::isinf(bound_)) return OkStatus();
    const Status direct = Direct();
    if (!direct.ok() && !absl::IsFailedPrecondition(direct)) return direct;
    if (request_.order_stable) return candidates_.empty() ? direct : OkStatus();
    if (links_.members() == 2) return OkStatus();  // there are no other trees
    const Status ring = Ring();
    if (!ring.ok() && !absl::IsFailedPrecondition(ring)) return ring;
    double most = 0;
    for (const Candidate& candidate : candidates_) {
      most = std::max(most, candidate.plan.throughput);
    }
    return most >= bound_ * (1 - kGap) ? OkStatus() : Trees();
  }

  Status Equal() {
    for (int i = 0; i < links_.members(); ++i) {
      for (int j = 0; j < links_.members(); ++j) {
        if (i == j || HasLink(links_, i, j)) continue;
        return absl::FailedPreconditionError(
            absl::StrCat("schedule 'equal': no link from '", links_.names[i], "' to '",
                         links_.names[j], "', and it needs all; choose 'trees' or 'auto'"));
      }
    }
    Offer(ScheduleKind::kEqual, stars_);
    return OkStatus();
  }

  Status Direct() {
    Packing packing(links_, scale_);
    for (const Tree& star : stars_) {
      if (!StarFits(links_, star.root)) continue;
      packing.Add(star);
      Tree alone = star;
      alone.weight = 1;
      Offer(ScheduleKind::kDirect, {alone});
    }
    if (packing.columns().size() == stars_.size()) Offer(ScheduleKind::kDirect, stars_);
    if (packing.columns().empty()) {
      return absl::FailedPreconditionError(
          "schedule 'direct': no member has links to and from all others; choose 'trees' or "
          "'auto'");
    }
    return OfferLevels(ScheduleKind::kDirect, packing);
  }

  Status Ring() {
    const std::vector<int> cycle = BestCycle(links_);
    for (size_t i = 0; i < cycle.size(); ++i) {
      const int next = cycle[(i + 1) % cycle.size()];
      if (HasLink(links_, cycle[i], next)) continue;
      return absl::FailedPreconditionError(absl::StrCat(
          "schedule 'ring': found no cycle through all members over links; the best "
          "one lacks '",
          links_.names[cycle[i]], "' -> '", links_.names[next], "'; choose 'trees' or 'auto'"));
    }
    ring_ = RingTrees(cycle);
    Offer(ScheduleKind::kRing, ring_);
    Packing packing(links_, scale_);
    for (const Tree& tree : ring_) packing.Add(tree);
    return OfferLevels(ScheduleKind::kRing, packing);
  }

  // In a small view trees of any latency first; then of less and less, as long as that makes the
  // vector arrive sooner. In a large one a single attempt.
  Status Trees() {
    const int n = links_.members();
    const bool small = n <= kSmallView;
    // Equal stars are trees as well: where they carry as much, nobody waits for a single owner.
    if (Equal().ok()) candidates_.back().plan.kind = ScheduleKind::kTrees;
    double latency = small ? kInfinity : LikelyLatency();
    double least = kInfinity;
    for (int level = 0; level < kTreeLevels; ++level) {
      Packing packing(links_, scale_);
      for (const Tree& star : stars_) packing.Add(star);
      for (const Tree& tree : ring_) packing.Add(tree);
      Explore(packing, latency, n < kSmallView ? kTurns : kTurnsOfLarge);
      if (std::isinf(latency) && n <= kExactMembers) {
        RETURN_IF_ERROR(Generate(packing, kGap, kGenerateTurns).status());
      }
      ASSIGN_OR_RETURN(std::vector<Tree> trees, packing.Weigh({.latency = latency}));
      if (trees.empty() && level == 0 && !small) {
        latency = kInfinity;  // nothing is as quick as that
        continue;
      }
      if (trees.empty()) return OkStatus();
      const Candidate& made = Offer(ScheduleKind::kTrees, std::move(trees));
      if (!small || !LatencyCounts(made) || made.seconds > least * kWorse) return OkStatus();
      least = std::min(least, made.seconds);
      latency = kLatencyStep * std::min(latency, made.plan.latency);
    }
    return OkStatus();
  }

  // Half of the time that the vector takes at best, and no less than what a good star needs.
  double LikelyLatency() const {
    double star = kInfinity;
    for (const Tree& tree : stars_) star = std::min(star, TreeLatency(tree, links_));
    return std::max(kStarTimes * star, request_.bytes / bound_ / 2);
  }

  // The best weights over the packing's trees, and over those of less latency as long as it counts.
  Status OfferLevels(ScheduleKind kind, const Packing& packing) {
    std::vector<double> latencies;
    for (const Packing::Column& column : packing.columns()) latencies.push_back(column.latency);
    std::sort(latencies.begin(), latencies.end());
    const int last = static_cast<int>(latencies.size()) - 1;
    for (int level = kLatencyLevels; level >= 1; --level) {
      ASSIGN_OR_RETURN(std::vector<Tree> trees,
                       packing.Weigh({.latency = latencies[last * level / kLatencyLevels]}));
      if (trees.empty()) return OkStatus();
      if (!LatencyCounts(Offer(kind, std::move(trees)))) return OkStatus();
    }
    return OkStatus();
  }

  bool LatencyCounts(const Candidate& candidate) const {
    return candidate.seconds > request_.bytes / bound_ * (1 + kNearlyEqual);
  }

  const Candidate& Offer(ScheduleKind kind, std::vector<Tree> trees) {
    Candidate candidate;
    candidate.plan.kind = kind;
    candidate.plan.trees = std::move(trees);
    Complete(links_, candidate.plan);
    candidate.seconds = Predict(candidate.plan, links_, request_.bytes).seconds;
    candidates_.push_back(std::move(candidate));
    return candidates_.back();
  }

  StatusOr<TreePlan> Best() const {
    CHECK(!candidates_.empty());
    double least = kInfinity;
    for (const Candidate& candidate : candidates_) least = std::min(least, candidate.seconds);
    const Candidate* best = nullptr;
    double best_price = kInfinity;
    for (const Candidate& candidate : candidates_) {
      if (candidate.seconds > least * (1 + kNearlyEqual)) continue;
      const double price =
          candidate.plan.latency + kTreeSeconds * static_cast<double>(candidate.plan.trees.size());
      if (best != nullptr && price >= best_price) continue;
      best = &candidate;
      best_price = price;
    }
    CHECK(best != nullptr);
    return best->plan;
  }

  const LinkMatrix& links_;
  const PlanRequest& request_;
  const std::vector<Tree> stars_;
  double bound_ = 0;  // bytes/s; infinity: nothing limits
  double scale_ = 0;  // for Packing
  std::vector<Tree> ring_;
  std::vector<Candidate> candidates_;
};

}  // namespace

StatusOr<TreePlan> MakePlan(const LinkMatrix& links, const PlanRequest& request) {
  RETURN_IF_ERROR(CheckNumbers(links));
  if (!(request.bytes >= 0) || std::isinf(request.bytes)) {
    return absl::InvalidArgumentError(absl::StrCat("a plan for ", request.bytes, " bytes"));
  }
  const int n = links.members();
  if (n > kMostPlanned && request.kind != ScheduleKind::kAuto &&
      request.kind != ScheduleKind::kEqual) {
    return absl::FailedPreconditionError(
        absl::StrCat("schedule '", ScheduleName(request.kind), "' is planned for up to ",
                     kMostPlanned, " members, these are ", n, "; choose 'equal'"));
  }
  RETURN_IF_ERROR(CheckReachable(links));
  if (n == 1 || n > kMostPlanned) {
    TreePlan plan = EqualPlan(n);
    Complete(links, plan);
    return plan;
  }
  const LinkMatrix reasonable = WithinReason(links);
  return Planner(reasonable, request).Make();
}

}  // namespace atl::wan
