#include "orchestrator/store/lease_json.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "orchestrator/store/summary.h"
#include "proto/lease_terms.h"

namespace atl {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kHour = 3600;

// What a worker said comes before the job file.
double EndOf(const LeaseTerms& terms, const RegionRecord& region) {
  if (region.lease_end > 0) return region.lease_end;
  return terms.end > 0 ? terms.end - terms.lead : 0;
}

Json TimeOrNull(double time) { return time > 0 ? Json(TimeToText(time)) : Json(nullptr); }

}  // namespace

LeaseCost CostOf(const pb::Lease& lease, const RegionRecord& region, double first_heard,
                 double now) {
  LeaseCost cost;
  const LeaseTerms terms = TermsOf(lease);
  const double begin = terms.start > 0 ? terms.start : first_heard;
  if (terms.price <= 0) return cost;
  const double end = EndOf(terms, region);
  const bool gone = region.state == "left";
  const double until = end > 0 ? std::min(now, end) : gone ? region.since : now;
  const auto of = [&](double to) {
    return begin > 0 ? terms.price * std::max(0.0, to - begin) / kHour : 0;
  };
  cost.so_far = of(until);
  double last = end;
  if (region.job_ends > 0) last = last > 0 ? std::min(last, region.job_ends) : region.job_ends;
  if (gone && end <= 0) last = region.since;
  cost.at_end_known = begin > 0 && last > 0;
  cost.at_end = std::max(of(last), cost.so_far);
  return cost;
}

Json LeaseToJson(const pb::Lease& lease, const RegionRecord& region, double first_heard,
                 double now) {
  const LeaseTerms terms = TermsOf(lease);
  const double end = EndOf(terms, region);
  if (terms.start <= 0 && end <= 0 && terms.notice <= 0 && terms.price <= 0) return nullptr;
  const LeaseCost cost = CostOf(lease, region, first_heard, now);
  const auto or_null = [](bool there, auto value) { return there ? Json(value) : Json(nullptr); };
  return {{"start", TimeOrNull(terms.start)},
          {"end", TimeOrNull(end)},
          {"notice_seconds", or_null(terms.notice > 0, terms.notice)},
          {"last_round", or_null(region.lease_last_round > 0, region.lease_last_round)},
          {"job_ends", TimeOrNull(region.job_ends)},
          {"price_per_hour", or_null(terms.price > 0, terms.price)},
          {"currency", or_null(!terms.currency.empty(), terms.currency)},
          {"cost", or_null(terms.price > 0, cost.so_far)},
          {"cost_at_end", or_null(terms.price > 0 && cost.at_end_known, cost.at_end)}};
}

}  // namespace atl
