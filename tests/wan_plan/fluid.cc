#include "tests/wan_plan/fluid.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/log.h"

namespace atl::wan {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kQueueSeconds = 0.1;  // of a link that is full
constexpr double kLossOfFull = 0.03;   // of what is not paced

// The fair rates of the flows that are `active`.
std::vector<double> FairRates(const LinkMatrix& truth, const std::vector<FluidFlow>& flows,
                              const std::vector<bool>& active) {
  const int n = truth.members();
  // Resources: ups, downs, pairs.
  std::vector<double> left = truth.up;
  left.insert(left.end(), truth.down.begin(), truth.down.end());
  left.insert(left.end(), truth.rates.begin(), truth.rates.end());
  const auto uses = [&](const FluidFlow& flow) {
    return std::vector<int>{flow.from, n + flow.to, 2 * n + flow.from * n + flow.to};
  };
  std::vector<double> rates(flows.size(), 0.0);
  std::vector<bool> growing = active;
  while (std::find(growing.begin(), growing.end(), true) != growing.end()) {
    std::vector<int> users(left.size(), 0);
    for (size_t f = 0; f < flows.size(); ++f) {
      if (!growing[f]) continue;
      for (const int r : uses(flows[f])) ++users[r];
    }
    double step = 1e12;
    for (size_t r = 0; r < left.size(); ++r) {
      if (users[r] > 0) step = std::min(step, left[r] / users[r]);
    }
    for (size_t f = 0; f < flows.size(); ++f) {
      if (growing[f] && flows[f].paced > 0) step = std::min(step, flows[f].paced - rates[f]);
    }
    step = std::max(step, 0.0);
    for (size_t f = 0; f < flows.size(); ++f) {
      if (!growing[f]) continue;
      rates[f] += step;
      for (const int r : uses(flows[f])) left[r] -= step;
    }
    for (size_t f = 0; f < flows.size(); ++f) {
      if (!growing[f]) continue;
      bool full = flows[f].paced > 0 && rates[f] >= flows[f].paced * (1 - 1e-9);
      for (const int r : uses(flows[f])) full = full || left[r] <= 1e-9 * (rates[f] + 1);
      if (full || rates[f] >= 1e12) growing[f] = false;
    }
  }
  return rates;
}

void Report(const LinkMatrix& truth, const std::vector<FluidFlow>& flows, double noise,
            Draws& draws, std::vector<LinkReport>* reports) {
  for (const FluidFlow& flow : flows) {
    LinkReport report;
    report.from = flow.from;
    report.to = flow.to;
    report.busy_seconds = flow.seconds;
    report.acked_bytes = flow.bytes * std::max(0.5, 1 + noise * draws.Normal());
    report.paced_rate = flow.paced;
    report.rtt_seconds = truth.delay(flow.from, flow.to) + truth.delay(flow.to, flow.from);
    const double rate = flow.seconds > 0 ? flow.bytes / flow.seconds : 0;
    // What is sent too fast stands in a queue, which grows all the time until it drops.
    const double grown = flow.paced > 0 ? (1 - rate / flow.paced) * flow.seconds / 2 : kInfinity;
    report.queue_seconds = 0.001 + std::clamp(grown, 0.0, kQueueSeconds);
    reports->push_back(report);
  }
}

}  // namespace

void RunFluid(const LinkMatrix& truth, double most_seconds, std::vector<FluidFlow>& flows) {
  std::vector<double> sent(flows.size(), 0.0);
  std::vector<bool> active(flows.size(), true);
  double now = 0;
  for (FluidFlow& flow : flows) flow.seconds = 0;
  while (now < most_seconds && std::find(active.begin(), active.end(), true) != active.end()) {
    const std::vector<double> rates = FairRates(truth, flows, active);
    double step = most_seconds - now;
    for (size_t f = 0; f < flows.size(); ++f) {
      if (active[f] && rates[f] > 0) step = std::min(step, (flows[f].bytes - sent[f]) / rates[f]);
    }
    CHECK(std::isfinite(step)) << "a flow over a link of rate 0 never ends";
    now += step;
    for (size_t f = 0; f < flows.size(); ++f) {
      if (!active[f]) continue;
      sent[f] += rates[f] * step;
      flows[f].seconds = now;
      if (sent[f] >= flows[f].bytes * (1 - 1e-9)) active[f] = false;
    }
  }
  for (size_t f = 0; f < flows.size(); ++f) flows[f].bytes = sent[f];
}

double RunOperation(const LinkMatrix& truth, const TreePlan& plan, double bytes, double noise,
                    Draws& draws, std::vector<PaceGain>* gains, std::vector<LinkReport>* reports) {
  const int n = truth.members();
  gains->resize(n * n);
  const std::vector<double> loads = EdgeLoads(plan);
  std::vector<FluidFlow> flows;
  for (int i = 0; i < n; ++i) {
    double least = kInfinity;
    int used = 0;
    for (int j = 0; j < n; ++j) {
      if (loads[i * n + j] <= 0) continue;
      least = std::min(least, (*gains)[i * n + j].value());
      ++used;
    }
    if (used == 1) least = kInfinity;
    for (int j = 0; j < n; ++j) {
      const double load = loads[i * n + j];
      if (load <= 0) continue;
      const double pace = (*gains)[i * n + j].Pace(load * plan.throughput, least);
      flows.push_back({i, j, load * bytes, pace});
    }
  }
  RunFluid(truth, kInfinity, flows);
  double seconds = 0;
  for (const FluidFlow& flow : flows) seconds = std::max(seconds, flow.seconds);
  Report(truth, flows, noise, draws, reports);
  for (const LinkReport& report : *reports) (*gains)[report.from * n + report.to].Observe(report);
  return seconds;
}

void RunProbe(const LinkMatrix& truth, const std::vector<std::pair<int, int>>& pairs, double noise,
              Draws& draws, std::vector<LinkReport>* reports) {
  std::vector<FluidFlow> flows;
  for (const auto& [from, to] : pairs) {
    if (truth.rate(from, to) > 0) flows.push_back({from, to, 1e15, 0});
  }
  RunFluid(truth, 1, flows);
  Report(truth, flows, noise, draws, reports);
  for (LinkReport& report : *reports) report.retransmitted = kLossOfFull;
}

}  // namespace atl::wan
