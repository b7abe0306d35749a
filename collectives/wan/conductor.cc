#include "collectives/wan/conductor.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/log.h"
#include "base/units.h"

namespace atl::wan {
namespace {

// Where round trips are shorter, equal shares without pacing are near enough to the best.
constexpr double kShortRoundTripSeconds = 1e-3;
// A slow start to 1 Gbit/s takes about ten round trips, then a few to measure.
constexpr double kProbeRoundTrips = 16;
constexpr double kMinProbeSeconds = 0.3;
constexpr double kMaxFirstProbeSeconds = 4;
// A new plan is worth the change of shares from this gain on; new rates from this difference on.
constexpr double kWorthwhileGain = 0.03;
constexpr double kRateDifference = 0.01;
// Of one member while another's are awaited; then the oldest goes.
constexpr size_t kMaxWaiting = 16;
// What the wire format carries; more comes only of reports that cannot be true.
constexpr double kMostThroughput = 1e18;
constexpr double kMostLatency = 1e9;
// Trees are taken from this gain over stars on.
constexpr double kTreesGain = 0.15;
// And not before so many operations: in a probe of all at once nobody shows what single pairs
// carry, and one pair that is thought too slow makes trees look better than they are.
constexpr int kEarlyOperations = 3;

}  // namespace

StatusOr<TreePlan> MakeSoundPlan(const LinkMatrix& links, const PlanRequest& request) {
  StatusOr<TreePlan> plan = MakePlan(links, request);
  if (!plan.ok() || request.kind != ScheduleKind::kAuto || IsOrderStable(*plan)) return plan;
  PlanRequest with_stars = request;
  with_stars.order_stable = true;
  StatusOr<TreePlan> stars = MakePlan(links, with_stars);
  if (!stars.ok()) return plan;
  if (request.early) return stars;
  const double trees_seconds = Predict(*plan, links, request.bytes).seconds;
  const double stars_seconds = Predict(*stars, links, request.bytes).seconds;
  return trees_seconds < stars_seconds * (1 - kTreesGain) ? plan : stars;
}

Conductor::Conductor(std::vector<std::string> names, ScheduleKind kind, bool order_stable,
                     uint32_t first_version, Hooks hooks, std::vector<bool> callable)
    : names_(std::move(names)),
      kind_(kind),
      order_stable_(order_stable),
      hooks_(std::move(hooks)),
      callable_(callable.empty() ? std::vector<bool>(names_.size(), true) : std::move(callable)),
      model_(names_),
      waiting_(names_.size()),
      standing_(names_.size()),
      version_(first_version) {}

void Conductor::Remember(const LinkModel& former) {
  if (!former.Knows(names_)) return;
  model_.TakeOver(former);
  known_ = true;
}

void Conductor::Restarted(int member) {
  if (phase_ == Phase::kSteady) {
    untold_.insert(member);
    return;
  }
  // Back to the start; the others stand already.
  phase_ = Phase::kStanding;
  for (size_t other = 0; other < waiting_.size(); ++other) {
    if (static_cast<int>(other) == member) {
      waiting_[other].clear();
    } else if (other < standing_.size() && !standing_[other].empty()) {
      waiting_[other] = {standing_[other]};
    }
  }
}

TreePlan Conductor::EvenPlan() const {
  const int members = static_cast<int>(names_.size());
  TreePlan plan = EqualPlan(members);
  const int roots = static_cast<int>(std::count(callable_.begin(), callable_.end(), true));
  if (roots >= members - 1 || roots == 0) return plan;  // a single one can reach all the others
  plan.kind = ScheduleKind::kDirect;
  plan.trees.clear();
  for (int root = 0; root < members && plan.trees.size() < kMaxTrees; ++root) {
    if (!callable_[root]) continue;
    Tree tree;
    tree.weight = 1.0 / std::min(roots, kMaxTrees);
    tree.root = root;
    tree.reduce_parent.assign(members, root);
    tree.reduce_parent[root] = -1;
    tree.broadcast_parent = tree.reduce_parent;
    plan.trees.push_back(std::move(tree));
  }
  return plan;
}

bool Conductor::Possible(const TreePlan& plan) const {
  const auto apart = [&](int a, int b) { return b >= 0 && !callable_[a] && !callable_[b]; };
  for (const Tree& tree : plan.trees) {
    for (int i = 0; i < static_cast<int>(names_.size()); ++i) {
      if (apart(i, tree.reduce_parent[i]) || apart(i, tree.broadcast_parent[i])) return false;
    }
  }
  return true;
}

void Conductor::OnSteadyReport(int member, std::vector<LinkReport> reports, uint64_t operation) {
  auto& round = steady_[operation];
  round[member] = std::move(reports);
  if (round.size() < names_.size()) {
    if (steady_.size() > kMaxWaiting) steady_.erase(steady_.begin());
    return;
  }
  std::vector<LinkReport> all;
  for (const auto& [from, seen] : round) all.insert(all.end(), seen.begin(), seen.end());
  // What lacks somebody's word until now will lack it.
  steady_.erase(steady_.begin(), steady_.upper_bound(operation));
  Advance(std::move(all));
}

void Conductor::OnReport(int member, std::vector<LinkReport> reports, uint64_t operation) {
  if (phase_ == Phase::kSteady) {
    if (untold_.erase(member) > 0) {
      hooks_.tell(member, announced_);
    } else {
      OnSteadyReport(member, std::move(reports), operation);
    }
    return;
  }
  if (phase_ == Phase::kStanding) standing_[member] = reports;
  waiting_[member].push_back(std::move(reports));
  if (waiting_[member].size() > kMaxWaiting) waiting_[member].pop_front();
  for (const auto& queue : waiting_) {
    if (queue.empty()) return;
  }
  std::vector<LinkReport> all;
  for (auto& queue : waiting_) {
    all.insert(all.end(), queue.front().begin(), queue.front().end());
    queue.pop_front();
  }
  Advance(std::move(all));
}

void Conductor::Advance(std::vector<LinkReport> reports) {
  for (const LinkReport& report : reports) {
    const double rate = report.busy_seconds > 0 ? report.acked_bytes / report.busy_seconds : 0;
    VLOG(1) << names_[report.from] << " -> " << names_[report.to] << ": " << FormatRate(8 * rate)
            << " over " << report.busy_seconds << " s, paced " << FormatRate(8 * report.paced_rate)
            << ", sent again " << report.retransmitted << ", rtt " << report.rtt_seconds
            << ", queue " << report.queue_seconds;
  }
  switch (phase_) {
    case Phase::kStanding:
      AfterStanding(reports);
      return;
    case Phase::kProbing:
    case Phase::kSteady:
      if (fast_) return;
      model_.Observe(reports);
      ++observed_;
      Solve();
      return;
  }
}

void Conductor::AfterStanding(const std::vector<LinkReport>& reports) {
  double longest = 0;
  for (const LinkReport& report : reports) longest = std::max(longest, report.rtt_seconds);
  fast_ = longest < kShortRoundTripSeconds || names_.size() < 2;
  if (!fast_ && known_) {
    phase_ = Phase::kProbing;  // which is over at once
    model_.Observe(reports);   // of what can be reached
    Solve();
    return;
  }
  if (!fast_) {
    phase_ = Phase::kProbing;
    hooks_.probe(std::clamp(kProbeRoundTrips * longest, kMinProbeSeconds, kMaxFirstProbeSeconds));
    return;
  }
  phase_ = Phase::kSteady;
  TreePlan plan = EvenPlan();
  if (kind_ == ScheduleKind::kRing || kind_ == ScheduleKind::kTrees) {
    // Wished for by name: without limits any will do.
    PlanRequest request;
    request.kind = kind_;
    const int members = static_cast<int>(names_.size());
    LinkMatrix links(members);
    for (int i = 0; i < members; ++i) {
      for (int j = 0; j < members; ++j) {
        if (!callable_[i] && !callable_[j]) links.rate(i, j) = 0;
      }
    }
    StatusOr<TreePlan> wished = MakePlan(links, request);
    if (wished.ok() && Possible(*wished)) plan = *std::move(wished);
    plan.throughput = 0;
  }
  plan.chunk_bytes = kMaxPayload;  // what the engine's options allow
  announced_ = Numbered(std::move(plan));
  hooks_.first_plan(announced_);
}

void Conductor::Solve() {
  if (solving_) {
    again_ = true;
    return;
  }
  solving_ = true;
  PlanRequest request;
  request.bytes = bytes_;
  request.kind = kind_;
  request.order_stable = order_stable_;
  request.early = observed_ <= kEarlyOperations;
  hooks_.solve(model_.ForPlans(), request);
}

NumberedPlan Conductor::Numbered(TreePlan plan) {
  if (!(plan.throughput <= kMostThroughput)) plan.throughput = 0;
  if (!(plan.latency <= kMostLatency)) plan.latency = kMostLatency;
  // Through the wire format and back, so that the weights are those that the others see.
  const NumberedPlan numbered = {++version_, std::move(plan)};
  const StatusOr<NumberedPlan> seen =
      ParsePlan(EncodePlan(numbered), static_cast<int>(names_.size()));
  CHECK(seen.ok()) << seen.status();
  current_ = *seen;
  return *seen;
}

void Conductor::OnPlanned(StatusOr<TreePlan> plan) {
  solving_ = false;
  if (phase_ == Phase::kStanding) {  // somebody began anew meanwhile: there will be another probe
    again_ = false;
    return;
  }
  if (plan.ok() && !Possible(*plan)) {
    plan = absl::InternalError("it uses a pair of regions that only call out");
  }
  if (!plan.ok()) {
    LOG(WARNING) << "no plan for the links as they are: " << plan.status().message();
    if (phase_ == Phase::kSteady) return;
    plan = EvenPlan();
  }
  if (phase_ == Phase::kProbing) {
    phase_ = Phase::kSteady;
    announced_ = Numbered(*std::move(plan));
    hooks_.first_plan(announced_);
  } else {
    const LinkMatrix links = model_.ForPlans();
    const double now = Predict(current_.plan, links, bytes_).seconds;
    const double then = Predict(*plan, links, bytes_).seconds;
    const double rate = current_.plan.throughput;
    TreePlan next = *std::move(plan);
    if (then > now * (1 - kWorthwhileGain)) {
      // The same trees, at the rate that they are now thought to have.
      const double seconds = now - current_.plan.latency;
      next = current_.plan;
      // Of a short vector nearly all is latency: that says nothing about the rate.
      if (seconds > now / 2 && std::isfinite(seconds)) next.throughput = bytes_ / seconds;
    }
    const bool same = next.trees == current_.plan.trees &&
                      std::abs(next.throughput - rate) <= kRateDifference * rate;
    if (!same) candidate_ = Numbered(std::move(next));
  }
  VLOG(1) << "plan " << current_.version << ": " << ScheduleName(current_.plan.kind) << ", "
          << current_.plan.trees.size() << " trees, " << FormatRate(8 * current_.plan.throughput);
  if (std::exchange(again_, false)) Solve();
}

std::optional<NumberedPlan> Conductor::TakeCandidate() {
  if (candidate_.has_value()) announced_ = *candidate_;
  return std::exchange(candidate_, std::nullopt);
}

}  // namespace atl::wan
