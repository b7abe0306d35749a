#include "orchestrator/core/round_time.h"

#include <algorithm>
#include <limits>

namespace atl {
namespace {

// What was longest is forgotten in some rounds; evaluations and checkpoints come seldom.
constexpr double kForget = 0.8;
constexpr double kForgetBetween = 0.95;
// A rate is a guess where little was sent: it says no more than this about the next all-reduce.
constexpr double kMostSlower = 3;

}  // namespace

void RoundTime::OnCommitted(const RoundRecord& record,
                            const std::map<std::string, pb::RoundReport>& reports) {
  double train = 0;
  double reduce = std::numeric_limits<double>::infinity();
  bytes_.clear();
  for (const auto& [region, report] : reports) {
    if (report.heard()) continue;
    train = std::max(train, report.seconds() - report.wan_seconds());
    reduce = std::min(reduce, report.wan_seconds());
    bytes_[region] = report.wan_bytes_sent();
  }
  if (!(reduce < std::numeric_limits<double>::infinity())) return;  // all who trained are gone
  train_ = std::max(train, kForget * train_);
  reduce_ = std::max(reduce, kForget * reduce_);
  // A change of the view in between is no habit.
  if (record.view == view_ && committed_at_ > 0) {
    const double between = record.time - committed_at_ - train - reduce;
    between_ = std::max(between, kForgetBetween * between_);
  }
  view_ = record.view;
  committed_at_ = record.time;
}

void RoundTime::OnLinks(const std::string& region, double rate) { rates_[region] = rate; }

double RoundTime::Reduce() const {
  double reduce = reduce_;
  for (const auto& [region, bytes] : bytes_) {
    const auto rate = rates_.find(region);
    if (rate == rates_.end() || rate->second <= 0) continue;
    const double seconds = static_cast<double>(bytes) / rate->second;
    reduce = std::max(reduce, std::min(seconds, kMostSlower * reduce_));
  }
  return reduce;
}

}  // namespace atl
