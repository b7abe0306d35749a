#include "collectives/wan/plan/packing.h"

#include <algorithm>
#include <cmath>

#include "base/log.h"
#include "collectives/wan/plan/linear_program.h"
#include "collectives/wan/plan/predict.h"

namespace atl::wan {
namespace {

// What the trees of the highest latency lose of their gain.
constexpr double kLatencyFavour = 0.003;
// Parts below that share of the vector would be lost in headers and turns.
constexpr double kLeastWeight = 0.005;
// What leaving out small trees may cost of the throughput, all in all.
constexpr double kPruneCost = 0.01;
// A pair is a row from the start if it is that full against the fullest; one that is overfull by
// less than the slack may stay so: the plan's rate counts it.
constexpr double kFull = 0.65;
constexpr double kOverfull = 0.005;

std::vector<int> KeyOf(const Tree& tree) {
  std::vector<int> key = {tree.root};
  key.insert(key.end(), tree.reduce_parent.begin(), tree.reduce_parent.end());
  key.insert(key.end(), tree.broadcast_parent.begin(), tree.broadcast_parent.end());
  return key;
}

// Weights for some columns of a packing, by a program that has the rows that matter.
class Weights {
 public:
  Weights(const Packing& packing, const std::vector<int>& columns, int line_rows)
      : packing_(packing), columns_(columns), entries_(packing.limits().size()) {
    double longest = 0;
    for (const int c : columns_) longest = std::max(longest, packing.columns()[c].latency);
    for (size_t i = 0; i < columns_.size(); ++i) {
      const Packing::Column& column = packing.columns()[columns_[i]];
      const double loss = longest > 0 ? kLatencyFavour * column.latency / longest : 0;
      program_.AddColumn(1 - loss);
      for (const auto& [row, times] : column.uses) {
        entries_[row].push_back({static_cast<int>(i), times});
      }
    }
    in_.assign(entries_.size(), false);
    for (int r = 0; r < line_rows; ++r) AddRow(r);
    AddRow(packing.sum_row());
    double fullest = 0;
    for (size_t r = line_rows; r < entries_.size(); ++r) fullest = std::max(fullest, EvenUse(r));
    for (size_t r = line_rows; r < entries_.size(); ++r) {
      if (EvenUse(r) > kFull * fullest) AddRow(static_cast<int>(r));
    }
  }

  Status Solve() {
    while (true) {
      RETURN_IF_ERROR(program_.Solve());
      bool added = false;
      for (size_t r = 0; r < entries_.size(); ++r) {
        if (in_[r] || entries_[r].empty()) continue;
        double use = 0;
        for (const auto& [i, times] : entries_[r]) use += times * program_.x(i);
        if (use <= packing_.limits()[r] * (1 + kOverfull)) continue;
        AddRow(static_cast<int>(r));
        added = true;
      }
      if (!added) return OkStatus();
    }
  }

  double x(int i) const { return program_.x(i); }
  void LeaveOut(int i) { program_.Allow(i, false); }

 private:
  double EvenUse(size_t row) const {
    if (static_cast<int>(row) == packing_.sum_row()) return 0;
    double use = 0;
    for (const auto& [i, times] : entries_[row]) use += times;
    return packing_.limits()[row] > 0 ? use / packing_.limits()[row] : use;
  }

  void AddRow(int row) {
    if (in_[row] || entries_[row].empty()) return;
    in_[row] = true;
    program_.AddRow(packing_.limits()[row], entries_[row]);
  }

  const Packing& packing_;
  const std::vector<int>& columns_;
  std::vector<std::vector<std::pair<int, double>>> entries_;  // by row: (index in columns_, times)
  std::vector<bool> in_;                                      // by row: the program has it
  LinearProgram program_;
};

}  // namespace

Packing::Packing(const LinkMatrix& links, double most) : links_(links), most_(most) {
  CHECK(std::isfinite(most) && most > 0) << most;
  const int n = links.members();
  CHECK_GE(n, 2);
  // A tree of all the weight loads an up or down n times at most, a pair twice: limits above that
  // cannot bind, nor can a pair's limit above those of its lines. That spares most rows.
  const auto row = [&](double rate, double load) {
    if (rate >= load * most_) return -1;
    limits_.push_back(rate / most_);
    return static_cast<int>(limits_.size()) - 1;
  };
  for (int i = 0; i < n; ++i) {
    up_row_.push_back(row(links_.up[i], n));
    down_row_.push_back(row(links_.down[i], n));
  }
  line_rows_ = static_cast<int>(limits_.size());
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) {
      const double rate = links_.rate(i, j);
      const bool bound = i == j || rate >= std::min(links_.up[i], links_.down[j]);
      pair_row_.push_back(bound ? -1 : row(rate, 2));
    }
  }
  limits_.push_back(1);
}

bool Packing::Add(const Tree& tree) {
  bool linked = true;
  std::vector<double> times(limits_.size(), 0.0);
  times.back() = 1;
  ForEachEdge(tree, [&](int from, int to) {
    linked = linked && links_.rate(from, to) > 0;
    ForEachRow(from, to, [&](int r) { times[r] += 1; });
  });
  if (!linked || !known_.insert(KeyOf(tree)).second) return false;
  Column column = {tree, TreeLatency(tree, links_), IsStar(tree), {}};
  for (size_t r = 0; r < times.size(); ++r) {
    if (times[r] > 0) column.uses.push_back({static_cast<int>(r), times[r]});
  }
  columns_.push_back(std::move(column));
  return true;
}

StatusOr<std::vector<Tree>> Packing::Weigh(const Filter& filter) const {
  std::vector<int> passing;
  for (size_t c = 0; c < columns_.size(); ++c) {
    if (columns_[c].latency > filter.latency || (filter.stars_only && !columns_[c].star)) continue;
    passing.push_back(static_cast<int>(c));
  }
  std::vector<Tree> best;
  if (passing.empty()) return best;
  Weights weights(*this, passing, line_rows_);
  std::vector<bool> out(passing.size(), false);
  double first = 0;
  while (true) {
    RETURN_IF_ERROR(weights.Solve());
    std::vector<std::pair<double, int>> used;  // (weight, index in passing), smallest first
    double sum = 0;
    for (size_t i = 0; i < passing.size(); ++i) {
      const double x = out[i] ? 0.0 : weights.x(static_cast<int>(i));
      if (x <= 1e-9) continue;
      used.push_back({x, static_cast<int>(i)});
      sum += x;
    }
    if (used.empty()) return best;
    std::sort(used.begin(), used.end());
    if (first == 0) first = sum;
    if (sum < first * (1 - kPruneCost) && !best.empty()) return best;
    if (used.size() <= kMaxTrees) {
      best.clear();
      for (const auto& [x, i] : used) {
        best.push_back(columns_[passing[i]].tree);
        best.back().weight = x / sum;
      }
    }
    const auto small = std::count_if(
        used.begin(), used.end(), [&](const auto& one) { return one.first < kLeastWeight * sum; });
    if (small == 0) return best;
    // The smallest go first; what is not in use goes as well, or others as small would come.
    std::vector<bool> stays(passing.size(), false);
    for (size_t u = (small + 2) / 3; u < used.size(); ++u) stays[used[u].second] = true;
    for (size_t i = 0; i < passing.size(); ++i) {
      if (stays[i] || out[i]) continue;
      out[i] = true;
      weights.LeaveOut(static_cast<int>(i));
    }
  }
}

}  // namespace atl::wan
