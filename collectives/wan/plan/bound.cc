#include "collectives/wan/plan/bound.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "collectives/wan/plan/min_cut.h"
#include "collectives/wan/plan/planner.h"

namespace atl::wan {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

class Least {
 public:
  Least() { bound_.rate = kInfinity; }
  // The reason is made only where it is needed.
  template <typename Reason>
  void Offer(double rate, Reason reason) {
    // A hair more is the same: the simpler reason, which comes first, stays.
    if (rate >= bound_.rate * (1 - 1e-9)) return;
    bound_ = {rate, reason()};
  }
  ThroughputBound Take() { return std::move(bound_); }

 private:
  ThroughputBound bound_;
};

void OfferLines(const LinkMatrix& links, Least& least) {
  double up = 0;
  double down = 0;
  for (int i = 0; i < links.members(); ++i) {
    least.Offer(links.up[i], [&] { return absl::StrCat("up of '", links.names[i], "'"); });
    least.Offer(links.down[i], [&] { return absl::StrCat("down of '", links.names[i], "'"); });
    up += links.up[i];
    down += links.down[i];
  }
  const double edges = 2.0 * (links.members() - 1);
  least.Offer(up / edges, [] { return "the sum of all ups"; });
  least.Offer(down / edges, [] { return "the sum of all downs"; });
}

std::string Parts(const LinkMatrix& links, const std::vector<int>& part, int parts) {
  if (parts == links.members() && parts > 2) return "the sum of the rates of all pairs";
  std::vector<std::string> words;
  for (int p = 0; p < parts; ++p) {
    std::vector<std::string> names;
    for (int i = 0; i < links.members(); ++i) {
      if (part[i] == p) names.push_back(absl::StrCat("'", links.names[i], "'"));
    }
    words.push_back(absl::StrJoin(names, " "));
  }
  return absl::StrCat("the rates between the parts ", absl::StrJoin(words, " | "));
}

void OfferPairs(const LinkMatrix& links, Least& least) {
  const int n = links.members();
  std::vector<double> both(n * n, 0.0);
  double finite = 0;
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) {
      if (i == j) continue;
      both[i * n + j] = (links.rate(i, j) + links.rate(j, i)) / 2;
      if (std::isfinite(links.rate(i, j))) finite += links.rate(i, j);
    }
  }
  const Partition weakest = WeakestPartition(both, n);
  least.Offer(weakest.strength, [&] { return Parts(links, weakest.part, weakest.parts); });

  // One way alone; any two parts are parted by a cut between member 0 and another.
  std::vector<double> one_way(n * n, 0.0);
  const double unlimited = 2 * finite + 1;
  for (int i = 0; i < n * n; ++i) {
    if (i % (n + 1) != 0) one_way[i] = std::min(links.rates[i], unlimited);
  }
  for (int v = 1; v < n; ++v) {
    for (const auto& [from, to] : {std::pair(0, v), std::pair(v, 0)}) {
      const Cut cut = MinCut(one_way, n, from, to);
      if (cut.capacity > finite) continue;  // through a pair without a limit
      least.Offer(cut.capacity, [&] {
        std::vector<int> part(n);
        for (int i = 0; i < n; ++i) part[i] = cut.near[i] ? 0 : 1;
        return absl::StrCat(Parts(links, part, 2), ", one way");
      });
    }
  }
}

}  // namespace

ThroughputBound BoundThroughput(const LinkMatrix& links) {
  Least least;
  if (links.members() >= 2) {
    OfferLines(links, least);
    OfferPairs(links, least);
  }
  return least.Take();
}

Bound LowerBound(const LinkMatrix& links, double bytes) {
  const ThroughputBound throughput = BoundThroughput(links);
  double delay = 0;
  std::string farthest = "nothing";
  for (int i = 0; i < links.members(); ++i) {
    for (int j = 0; j < links.members(); ++j) {
      if (i == j || links.rate(i, j) <= 0 || links.delay(i, j) <= delay) continue;
      delay = links.delay(i, j);
      farthest = absl::StrCat("the delay from '", links.names[i], "' to '", links.names[j], "'");
    }
  }
  Bound bound;
  const double busy = bytes > 0 ? bytes / throughput.rate : 0;
  bound.seconds = busy + delay;
  bound.reason = busy >= delay && busy > 0 ? throughput.reason : farthest;
  return bound;
}

}  // namespace atl::wan
