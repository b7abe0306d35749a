#include "collectives/wan/plan/link_model.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/log.h"

namespace atl::wan {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Shorter, and a rate says little: the first round trips, a single burst.
constexpr double kLeastBusySeconds = 0.02;
// For the gain: what lasts so few round trips was over before the pacing mattered.
constexpr double kLeastRoundTrips = 3;
// A flow that got less of its pacing fell short. Paced at kPacingGain over a limit that is known
// exactly it gets 1 / kPacingGain; measuring is off by some percent.
constexpr double kShort = 0.94;
// A flow that did not fall short kept up unless its bytes stood in a queue: then the limit is known
// already. Where the round trip is not known, by its rate, which says less.
constexpr double kQueueSeconds = 0.01;
constexpr double kKeptUp = 0.985;

// A flow on a full limit that has less than that of the largest met its limit elsewhere.
constexpr double kFairShare = 0.6;
// A limit explains its flows only if that share of its traffic fell short.
constexpr double kMostOfIt = 0.75;
// A flow that is explained already speaks for a further limit as that share of another one.
constexpr double kAgain = 0.5;

// How surprising it is that a limit is full: of which nothing was known;
constexpr double kNewLine = 0.7;
constexpr double kNewPair = 0.65;
// of a line that would be as fast down as it is known to be up, or up as down;
constexpr double kLikeOtherWay = 0.3;
// of one that is known, at what is known; and besides the logarithm of the change;
constexpr double kKnown = 0.05;
// and that much more where the limit carried more not long ago, by the logarithm of the fall;
constexpr double kFallen = 3;
// of a line by the word of a single flow.
constexpr double kLonely = 1;

// A limit counts as tried if it carried that share of what is believed.
constexpr double kTried = 0.93;
// The steps of PaceGain. A wrong guess queues, and drops when the queue is full, for one operation:
// small at first.
constexpr double kGains[] = {kPacingGain, 1.06, 1.12, 1.25, 1.45, 1.85};
// By a single flow's word the belief moves that share of the way, at first.
constexpr double kFirstDoubt = 0.4;
// A smaller change may be chance: the belief is a mean that moves by that share each time.
constexpr double kSmallChange = 0.1;
constexpr double kMemory = 0.3;
constexpr double kProven = 0.8;
// After some operations without use a limit grows by that share with each.
constexpr int kUnusedBeforeForgetting = 5;
constexpr double kForgetting = 0.02;
// Routes change: a delay that was not seen again moves up by the rest of that each time.
constexpr double kDelayMemory = 0.8;
// What an open limit is hoped to carry, of what is believed.
constexpr double kHopes[] = {1.4, 2.2, 3};
constexpr int kMostPatience = 100;
// A probe that fills a line sends at least that share again.
constexpr double kFullLoses = 0.005;
constexpr double kWeakHope = 4;
constexpr int kMostRotations = 8;
// Rates that are not further apart are one, for plans.
constexpr double kAlike = 0.05;

// Rates of 0 and without limit stay.
void MakeAlike(std::vector<double*> rates) {
  std::erase_if(rates, [](const double* rate) { return !(*rate > 0) || std::isinf(*rate); });
  std::sort(rates.begin(), rates.end(), [](const double* a, const double* b) { return *a < *b; });
  for (size_t begin = 0, end = 0; begin < rates.size(); begin = end) {
    const double most = *rates[begin] * (1 + kAlike);
    double sum = 0;
    for (; end < rates.size() && *rates[end] <= most; ++end) sum += *rates[end];
    for (size_t i = begin; i < end; ++i) *rates[i] = sum / static_cast<double>(end - begin);
  }
}

bool Good(const LinkReport& report, int members) {
  const auto number = [](double x) { return std::isfinite(x) && x >= 0; };
  return report.from >= 0 && report.from < members && report.to >= 0 && report.to < members &&
         report.from != report.to && number(report.busy_seconds) && number(report.acked_bytes) &&
         number(report.paced_rate) && number(report.rtt_seconds) && number(report.queue_seconds);
}

// Of an operation's report.
bool Says(const LinkReport& report) {
  return report.reachable && report.busy_seconds >= kLeastBusySeconds;
}

bool FellShort(const LinkReport& report) {
  return report.paced_rate <= 0 ||
         report.acked_bytes < kShort * report.paced_rate * report.busy_seconds;
}

bool KeptUp(const LinkReport& report) {
  if (FellShort(report)) return false;
  return report.rtt_seconds > 0
             ? report.queue_seconds <= kQueueSeconds
             : report.acked_bytes >= kKeptUp * report.paced_rate * report.busy_seconds;
}

}  // namespace

double PaceGain::value() const { return kGains[step_]; }

void PaceGain::Observe(const LinkReport& report) {
  if (!Says(report) || report.paced_rate <= 0) return;
  if (report.busy_seconds < kLeastRoundTrips * report.rtt_seconds) return;
  const int last = static_cast<int>(std::size(kGains)) - 1;
  if (FellShort(report)) {
    step_ = 0;
    met_limit_ = true;
    carried_ = 0;
  } else if (KeptUp(report)) {
    if (held_back_) return;  // that it can carry its gain has not been seen
    if (!met_limit_) carried_ = report.acked_bytes / report.busy_seconds;
    step_ = std::min(step_ + (met_limit_ ? 1 : 2), last);
  } else {
    step_ = std::max(step_ - 1, 0);
  }
}

struct LinkModel::Flow {
  int limits[3];  // up, pair, down
  double rate = 0;
  double paced = 0;
  double lost = 0;  // bytes/s that were sent again
  bool fell_short = false;
  bool kept_up = false;
  bool held_up = false;  // to be explained
  bool explained = false;
};

// The reports of one operation against what is believed.
class LinkModel::Round {
 public:
  Round(LinkModel& model, const std::vector<LinkReport>& reports)
      : model_(model), uses_(model.limits_.size()), carried_(model.limits_.size(), 0.0) {
    for (const LinkReport& report : reports) {
      if (!Says(report)) continue;
      Flow flow;
      flow.limits[0] = model.UpOf(report.from);
      flow.limits[1] = model.PairOf(report.from, report.to);
      flow.limits[2] = model.DownOf(report.to);
      flow.rate = report.acked_bytes / report.busy_seconds;
      flow.paced = report.paced_rate;
      flow.lost = std::min(1.0, report.retransmitted) * flow.rate;
      flow.fell_short = FellShort(report);
      flow.kept_up = KeptUp(report);
      for (const int l : flow.limits) {
        uses_[l].push_back(static_cast<int>(flows_.size()));
        carried_[l] += flow.rate;
      }
      flows_.push_back(flow);
    }
  }

  // Steps 2 and 6.
  void Explain() {
    for (Flow& flow : flows_) flow.held_up = flow.fell_short;
    full_.assign(uses_.size(), 0);
    Explain(full_);
    for (Flow& flow : flows_) flow.held_up = !flow.kept_up;
    explains_ = full_;
    for (size_t l = 0; l < uses_.size(); ++l) {
      if (full_[l] == 0) continue;
      for (const int f : uses_[l]) flows_[f].explained = true;
    }
    Explain(explains_);
  }

  // Steps 3 to 6.
  void Learn() {
    for (size_t l = 0; l < uses_.size(); ++l) {
      Limit& limit = model_.limits_[l];
      if (uses_[l].empty()) {
        Forget(limit);
        continue;
      }
      Hope(limit, carried_[l], explains_[l] > 0);
      if (full_[l] > 0) {
        limit.met = limit.met || PacedFellShort(uses_[l]);
        limit.weak = !limit.met && Lost(uses_[l]) < kFullLoses * carried_[l];
      }
      limit.proven = std::max(carried_[l], limit.proven * (1 - kForgetting));
      if (full_[l] > 0) {
        const bool fell = Meet(limit, carried_[l], full_[l]);
        if (fell) ForgetProof(uses_[l]);
      } else {
        Carry(limit, static_cast<int>(l));
      }
    }
  }

 private:
  // Counts for each limit the flows that are held up and that it explains.
  void Explain(std::vector<int>& counts) {
    while (true) {
      int best = -1;
      double best_price = kInfinity;
      for (int l = 0; l < static_cast<int>(uses_.size()); ++l) {
        const double weight = counts[l] > 0 ? 0 : Explains(l);
        if (weight <= 0) continue;
        const double price = Surprise(l) / weight;
        if (price >= best_price) continue;
        best_price = price;
        best = l;
      }
      if (best < 0) return;
      for (const int f : uses_[best]) {
        if (!Fits(best, flows_[f])) continue;
        flows_[f].explained = true;
        ++counts[best];
      }
    }
  }

  // Is held up, and could have met this limit.
  bool Fits(int limit, const Flow& flow) const {
    if (!flow.held_up) return false;
    double largest = 0;
    for (const int f : uses_[limit]) {
      if (flows_[f].held_up) largest = std::max(largest, flows_[f].rate);
    }
    return flow.rate >= kFairShare * largest;
  }

  // How many flows that nothing explains yet would be explained; 0 if the limit cannot be full.
  double Explains(int limit) const {
    double traffic = 0;
    double held_up = 0;
    double explained = 0;
    double again = 0;
    for (const int f : uses_[limit]) {
      const Flow& flow = flows_[f];
      const double wanted = std::max(flow.paced, flow.rate);
      traffic += wanted;
      if (flow.held_up) held_up += wanted;
      if (!Fits(limit, flow)) continue;
      (flow.explained ? again : explained) += 1;
    }
    if (explained <= 0 || held_up < kMostOfIt * traffic) return 0;
    return explained + kAgain * again;
  }

  double Surprise(int limit) const {
    const double belief = model_.limits_[limit].belief;
    const double proven = model_.limits_[limit].proven;
    const double carried = std::max(carried_[limit], 1.0);
    const auto change = [&](double from) {
      return std::abs(std::log(carried / std::max(from, 1.0)));
    };
    const bool pair = limit >= 2 * model_.members();
    double surprise = proven > carried ? kFallen * change(proven) : 0;
    // The word of one flow is said of its pair rather than of a line that others use as well: then
    // ways around the pair are tried, and if they meet the same limit, it is the line's.
    if (!pair && uses_[limit].size() == 1 && model_.members() > 2) surprise += kLonely;
    if (std::isfinite(belief)) return surprise + kKnown + change(belief);
    if (pair) return surprise + kNewPair;
    const double other = model_.limits_[model_.OtherWay(limit)].belief;
    const double like = std::isfinite(other) ? kLikeOtherWay + change(other) : kNewLine;
    return surprise + std::min(kNewLine, like);
  }

  // What these flows proved elsewhere was before a limit of theirs fell.
  void ForgetProof(const std::vector<int>& flows) {
    for (const int f : flows) {
      for (const int l : flows_[f].limits) {
        model_.limits_[l].proven = std::min(model_.limits_[l].proven, carried_[l]);
      }
    }
  }

  // Whether the limit is clearly lower than was believed.
  bool Meet(Limit& limit, double carried, int flows) {
    limit.unused = 0;
    double& belief = limit.belief;
    if (std::isinf(belief)) {
      belief = carried;
      return false;
    }
    const double drop = 1 - carried / std::max(belief, 1.0);
    if (std::abs(drop) <= kSmallChange) {
      belief += kMemory * (carried - belief);
      limit.doubted = false;
      return false;
    }
    const bool sure = drop < 0 || flows > 1 || limit.doubted;
    belief += (sure ? 1 : kFirstDoubt) * (carried - belief);
    if (sure) limit.proven = carried;
    limit.doubted = !sure;
    return drop > 0;
  }

  void Carry(Limit& limit, int l) {
    limit.unused = 0;
    limit.doubted = false;
    double& belief = limit.belief;
    if (std::isinf(belief)) return;
    const double carried = carried_[l];
    bool all_kept_up = true;
    for (const int f : uses_[l]) {
      all_kept_up = all_kept_up && flows_[f].kept_up;
    }
    if (carried < kTried * belief || (carried < belief && all_kept_up)) return;
    // A small change may be chance; but what flows that kept up have carried, it can carry.
    const bool large = carried > belief * (1 + kSmallChange);
    belief += (large ? 1 : all_kept_up ? kProven : kMemory) * (carried - belief);
  }

  bool PacedFellShort(const std::vector<int>& flows) const {
    return std::any_of(flows.begin(), flows.end(),
                       [&](int f) { return flows_[f].fell_short && flows_[f].paced > 0; });
  }

  double Lost(const std::vector<int>& flows) const {
    double lost = 0;
    for (const int f : flows) lost += flows_[f].lost;
    return lost;
  }

  // Step 6.
  void Hope(Limit& limit, double carried, bool explains) {
    if (explains) {
      // Patience grows if it had been hoped to carry more.
      if (limit.open > limit.patience) {
        limit.patience = std::min(2 * limit.patience + 2, kMostPatience);
      }
      limit.open = 0;
      return;
    }
    const bool more = carried > limit.belief * (1 + kSmallChange);
    if (carried < kTried * limit.belief || (limit.met && !more)) return;
    limit.met = false;
    ++limit.open;
  }

  void Forget(Limit& limit) {
    limit.doubted = false;
    if (++limit.unused > kUnusedBeforeForgetting) limit.belief *= 1 + kForgetting;
  }

  LinkModel& model_;
  std::vector<Flow> flows_;
  std::vector<std::vector<int>> uses_;  // by limit: its flows
  std::vector<double> carried_;         // by limit
  std::vector<int> full_;               // by limit: how many flows that fell short say so
  std::vector<int> explains_;           // the same, and those that stood in a queue
};

LinkModel::LinkModel(std::vector<std::string> names)
    : matrix_(static_cast<int>(names.size())), seen_(2 * names.size(), false) {
  matrix_.names = std::move(names);
  const int n = members();
  limits_.resize(2 * n + n * n);
  for (int i = 0; i < n; ++i) {
    limits_[UpOf(i)].planned = &matrix_.up[i];
    limits_[DownOf(i)].planned = &matrix_.down[i];
    for (int j = 0; j < n; ++j) limits_[PairOf(i, j)].planned = &matrix_.rate(i, j);
  }
}

void LinkModel::Observe(const std::vector<LinkReport>& reports) {
  std::vector<LinkReport> good;
  for (const LinkReport& report : reports) {
    if (Good(report, members())) good.push_back(report);
  }
  ObserveReach(good);
  ObserveDelays(good);
  Round round(*this, good);
  round.Explain();
  round.Learn();
  for (int l = 0; l < static_cast<int>(limits_.size()); ++l) {
    const Limit& limit = limits_[l];
    const int hopes = std::min<int>(limit.open - limit.patience, std::size(kHopes));
    const double hoped = limit.belief * (limit.weak  ? kWeakHope
                                         : hopes > 0 ? kHopes[hopes - 1]
                                                     : 1);
    const Limit& other = limits_[OtherWay(l)];
    *limit.planned = std::max(limit.belief, std::min({hoped, other.belief, other.proven}));
  }
}

LinkMatrix LinkModel::ForPlans() const {
  LinkMatrix links = matrix_;
  std::vector<double*> lines, pairs;
  for (double& rate : links.up) lines.push_back(&rate);
  for (double& rate : links.down) lines.push_back(&rate);
  for (double& rate : links.rates) pairs.push_back(&rate);
  MakeAlike(std::move(lines));
  MakeAlike(std::move(pairs));
  return links;
}

int LinkModel::OtherWay(int limit) const {
  const int n = members();
  if (limit < 2 * n) return limit < n ? limit + n : limit - n;
  const int pair = limit - 2 * n;
  return PairOf(pair % n, pair / n);
}

void LinkModel::ObserveReach(const std::vector<LinkReport>& reports) {
  for (const LinkReport& report : reports) {
    double& rate = limits_[PairOf(report.from, report.to)].belief;
    if (!report.reachable) {
      rate = 0;
    } else if (rate <= 0) {
      rate = kInfinity;
    }
    if (report.reachable && report.busy_seconds >= kLeastBusySeconds) {
      seen_[UpOf(report.from)] = true;
      seen_[DownOf(report.to)] = true;
    }
  }
}

void LinkModel::ObserveDelays(const std::vector<LinkReport>& reports) {
  for (const LinkReport& report : reports) {
    if (!report.reachable || report.rtt_seconds <= 0) continue;
    for (double* delay :
         {&matrix_.delay(report.from, report.to), &matrix_.delay(report.to, report.from)}) {
      const double seen = report.rtt_seconds / 2;
      *delay =
          *delay <= 0 || seen < *delay ? seen : kDelayMemory * *delay + (1 - kDelayMemory) * seen;
    }
  }
}

std::vector<std::vector<std::pair<int, int>>> ProbeRounds(int members) {
  std::vector<std::vector<std::pair<int, int>>> rounds;
  const int rotations = std::min(members - 1, kMostRotations);
  for (int r = 0; r < rotations; ++r) {
    const int step = 1 + r * (members - 1) / rotations;
    rounds.emplace_back();
    for (int i = 0; i < members; ++i) rounds.back().push_back({i, (i + step) % members});
  }
  if (members <= 2) return rounds;
  rounds.emplace_back();
  for (int i = 0; i < members; ++i) {
    for (int j = 0; j < members; ++j) {
      if (i != j) rounds.back().push_back({i, j});
    }
  }
  return rounds;
}

bool LinkModel::complete() const {
  return std::find(seen_.begin(), seen_.end(), false) == seen_.end();
}

bool LinkModel::Knows(const std::vector<std::string>& names) const {
  return complete() && std::all_of(names.begin(), names.end(), [&](const std::string& name) {
           return std::find(matrix_.names.begin(), matrix_.names.end(), name) !=
                  matrix_.names.end();
         });
}

void LinkModel::TakeOver(const LinkModel& former) {
  CHECK(former.Knows(matrix_.names));
  std::vector<int> was;
  for (const std::string& name : matrix_.names) {
    const auto at = std::find(former.matrix_.names.begin(), former.matrix_.names.end(), name);
    was.push_back(static_cast<int>(at - former.matrix_.names.begin()));
  }
  const auto take = [&](int to, int from) {
    double* const planned = limits_[to].planned;
    *planned = *former.limits_[from].planned;
    limits_[to] = former.limits_[from];
    limits_[to].planned = planned;
  };
  for (int i = 0; i < members(); ++i) {
    take(UpOf(i), former.UpOf(was[i]));
    take(DownOf(i), former.DownOf(was[i]));
    for (int j = 0; j < members(); ++j) {
      take(PairOf(i, j), former.PairOf(was[i], was[j]));
      matrix_.delay(i, j) = former.matrix_.delay(was[i], was[j]);
    }
  }
  seen_.assign(seen_.size(), true);
}

}  // namespace atl::wan
