// How long planning takes and how near plans come to the bound, over random links of all kinds.
//
// plan_bench [--members=2,4,8,16,32,64] [--seeds=5] [--schedule=auto] [--mib=64]
// prints a line a kind of links and number of members: milliseconds to plan (median, most), trees
// (median, most), throughput over the bound's (least, median), the bound's time over the predicted
// one (least, median), and how often each schedule was the choice.
#include <algorithm>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "base/clock.h"
#include "collectives/wan/plan/planner.h"
#include "tests/wan_plan/random_links.h"

namespace atl::wan {
namespace {

struct Settings {
  std::vector<int> members = {2, 4, 8, 16, 32, 64};
  int seeds = 5;
  int mib = 64;
  ScheduleKind schedule = ScheduleKind::kAuto;
};

bool Parse(int argc, char** argv, Settings* settings) {
  for (int i = 1; i < argc; ++i) {
    absl::string_view text = argv[i];
    bool good = false;
    if (absl::ConsumePrefix(&text, "--members=")) {
      settings->members.clear();
      good = true;
      for (const absl::string_view number : absl::StrSplit(text, ',')) {
        int members = 0;
        good = good && absl::SimpleAtoi(number, &members) && members >= 2 && members <= 64;
        settings->members.push_back(members);
      }
    } else if (absl::ConsumePrefix(&text, "--seeds=")) {
      good = absl::SimpleAtoi(text, &settings->seeds) && settings->seeds >= 1;
    } else if (absl::ConsumePrefix(&text, "--mib=")) {
      good = absl::SimpleAtoi(text, &settings->mib) && settings->mib >= 1;
    } else if (absl::ConsumePrefix(&text, "--schedule=")) {
      const StatusOr<ScheduleKind> kind = ParseSchedule(std::string(text));
      good = kind.ok();
      if (good) settings->schedule = *kind;
    }
    if (!good) {
      std::fprintf(stderr, "plan_bench: cannot use '%s'\n", argv[i]);
      return false;
    }
  }
  return true;
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}
double Least(const std::vector<double>& values) {
  return *std::min_element(values.begin(), values.end());
}
double Most(const std::vector<double>& values) {
  return *std::max_element(values.begin(), values.end());
}

void Measure(LinksKind kind, int members, const Settings& settings) {
  const double bytes = static_cast<double>(settings.mib) * (1 << 20);
  std::vector<double> milliseconds, trees, throughput, time;
  std::map<std::string, int> chosen;
  for (int seed = 0; seed < settings.seeds; ++seed) {
    const LinkMatrix links = RandomLinks(kind, members, seed);
    const double began = Clock::Real()->MonotonicSeconds();
    const StatusOr<TreePlan> plan = MakePlan(links, {bytes, settings.schedule, false});
    milliseconds.push_back(1e3 * (Clock::Real()->MonotonicSeconds() - began));
    if (!plan.ok()) {
      std::printf("%s, %d members, seed %d: %s\n", KindName(kind), members, seed,
                  plan.status().ToString().c_str());
      return;
    }
    trees.push_back(static_cast<double>(plan->trees.size()));
    LinkMatrix near = links;
    near.delays.assign(near.delays.size(), 0);
    throughput.push_back(plan->throughput * LowerBound(near, bytes).seconds / bytes);
    time.push_back(LowerBound(links, bytes).seconds / Predict(*plan, links, bytes).seconds);
    ++chosen[ScheduleName(plan->kind)];
  }
  std::string choices;
  for (const auto& [name, count] : chosen) choices += " " + name + " " + std::to_string(count);
  std::printf("%-16s %3d  %8.1f %8.1f  %4.0f %4.0f  %6.3f %6.3f  %6.3f %6.3f  %s\n", KindName(kind),
              members, Median(milliseconds), Most(milliseconds), Median(trees), Most(trees),
              Least(throughput), Median(throughput), Least(time), Median(time), choices.c_str());
  std::fflush(stdout);
}

int Main(int argc, char** argv) {
  Settings settings;
  if (!Parse(argc, argv, &settings)) return 2;
  std::printf("%-16s %3s  %8s %8s  %4s %4s  %6s %6s  %6s %6s   %s\n", "links", "N", "ms", "most",
              "tree", "most", "rate", "median", "time", "median", "chosen");
  for (const LinksKind kind : kAllLinksKinds) {
    for (const int members : settings.members) Measure(kind, members, settings);
  }
  return 0;
}

}  // namespace
}  // namespace atl::wan

int main(int argc, char** argv) { return atl::wan::Main(argc, argv); }
