// atoll-sim: the job's protocol on made-up networks, disks and regions, one run a seed.
//
//   atoll-sim --seeds=1..1000 [--regions=2..64] [--scenario FILE] [--json] [--verbose] [--all]
//   atoll-sim --grow [--rounds=20]      cost of the orchestrator's core from 4 to 1,000 regions
// Exit code 1: a promise was broken; the command that repeats it is printed. The first broken seed
// ends the campaign, but not with --all or --json.
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/status.h"
#include "tools/sim/settings.h"
#include "tools/sim/world.h"

namespace atl::sim {
namespace {

struct Arguments {
  uint64_t first = 1, last = 100;
  int least_regions = 2, most_regions = 6;
  std::string scenario;
  bool json = false, verbose = false, grow = false, quiet = false, all = false;
  int64_t rounds = 20;
};

// States that a campaign should reach; those that it never hit are listed.
constexpr const char* kRareStates[] = {"core:fence",
                                       "core:left_out",
                                       "core:planned",
                                       "core:caught_up",
                                       "core:leaving",
                                       "core:region_silent",
                                       "core:no_members",
                                       "core:orchestrator_back",
                                       "core:join_delayed",
                                       "core:lease_ends",
                                       "core:lease_short",
                                       "core:lease_too_short",
                                       "core:clock_differs",
                                       "a lease ended under a region",
                                       "core:suspected",
                                       "core:steps_lowered",
                                       "core:steps_raised",
                                       "core:late",
                                       "late, then taken",
                                       "a late region trained on",
                                       "a late contribution was short",
                                       "a late contribution survived a fence",
                                       "core:region_wrong",
                                       "caught up",
                                       "loaded a checkpoint",
                                       "went on from memory",
                                       "went back to a checkpoint",
                                       "exit 0",
                                       "exit 75",
                                       "a round was handed on",
                                       "a leaver contributed",
                                       "orchestrator killed at point 0",
                                       "orchestrator killed at point 1",
                                       "orchestrator killed at point 2"};

bool ParseRange(const std::string& text, uint64_t* first, uint64_t* last) {
  const std::vector<std::string> ends = absl::StrSplit(text, "..");
  if (ends.size() > 2 || !absl::SimpleAtoi(ends[0], first)) return false;
  *last = *first;
  return ends.size() == 1 || (absl::SimpleAtoi(ends[1], last) && *last >= *first);
}

StatusOr<Arguments> Parse(int argc, char** argv) {
  Arguments a;
  for (int i = 1; i < argc; ++i) {
    const std::vector<std::string> parts = absl::StrSplit(argv[i], absl::MaxSplits('=', 1));
    const std::string& name = parts[0];
    std::string value = parts.size() > 1 ? parts[1] : "";
    uint64_t first = 0, last = 0;
    bool ok = true;
    if (name == "--seeds") {
      ok = ParseRange(value, &a.first, &a.last);
    } else if (name == "--regions") {
      ok = ParseRange(value, &first, &last) && first >= 1 && last <= 4096;
      a.least_regions = static_cast<int>(first), a.most_regions = static_cast<int>(last);
    } else if (name == "--scenario") {
      if (parts.size() == 1 && i + 1 < argc) value = argv[++i];
      a.scenario = value;
    } else if (name == "--rounds") {
      ok = absl::SimpleAtoi(value, &a.rounds) && a.rounds > 0;
    } else if (name == "--json") {
      a.json = true;
    } else if (name == "--verbose") {
      a.verbose = true;
    } else if (name == "--grow") {
      a.grow = true;
    } else if (name == "--quiet") {
      a.quiet = true;
    } else if (name == "--all") {
      a.all = true;
    } else {
      ok = false;
    }
    if (!ok) {
      return absl::InvalidArgumentError(
          absl::StrCat(argv[i],
                       " is not understood; usage: atoll-sim --seeds=1..1000 [--regions=2..64] "
                       "[--scenario FILE] [--json] [--verbose] [--all] | --grow [--rounds=20]"));
    }
  }
  return a;
}

struct Campaign {
  int64_t seeds = 0;
  int64_t events = 0;
  int64_t rounds = 0;
  double seconds = 0;
  std::map<std::string, int64_t> counts;
  std::vector<std::pair<uint64_t, std::string>> broken;
};

void Print(const Arguments& a, const Campaign& c) {
  std::vector<std::string> never;
  for (const char* state : kRareStates) {
    if (!c.counts.contains(state)) never.push_back(state);
  }
  if (a.json) {
    nlohmann::ordered_json json{
        {"seeds", c.seeds},   {"seeds_per_second", c.seconds > 0 ? c.seeds / c.seconds : 0.0},
        {"events", c.events}, {"rounds_committed", c.rounds},
        {"counts", c.counts}, {"never", never}};
    for (const auto& [seed, what] : c.broken) {
      json["broken"].push_back({{"seed", seed}, {"what", what}});
    }
    std::printf("%s\n", json.dump(2).c_str());
    return;
  }
  std::printf("%ld seeds in %.1f s: %.0f a second, %ld events, %ld rounds committed, %zu broken\n",
              static_cast<long>(c.seeds), c.seconds, c.seconds > 0 ? c.seeds / c.seconds : 0.0,
              static_cast<long>(c.events), static_cast<long>(c.rounds), c.broken.size());
  for (const auto& [what, count] : c.counts) {
    std::printf("  %8ld  %s\n", static_cast<long>(count), what.c_str());
  }
  for (const std::string& state : never) std::printf("  never     %s\n", state.c_str());
}

int RunSeeds(const Arguments& a, const std::string& scenario_text) {
  Campaign campaign;
  const double begin = Clock::Real()->MonotonicSeconds();
  for (uint64_t seed = a.first; seed <= a.last; ++seed) {
    Settings settings = DrawSettings(seed, a.least_regions, a.most_regions);
    DrawSlowness(&settings);
    if (!a.scenario.empty()) {
      const StatusOr<Settings> parsed = ParseScenario(scenario_text);
      if (!parsed.ok()) {
        std::fprintf(stderr, "%s\n", std::string(parsed.status().message()).c_str());
        return 2;
      }
      settings = *parsed;
      settings.seed = seed;
    }
    if (a.quiet) settings.faults = 0, settings.loss = settings.repeat = settings.lateness = 0;
    World world(settings, false);
    const Outcome outcome = world.Run();
    ++campaign.seeds;
    campaign.events += outcome.events;
    campaign.rounds += outcome.rounds;
    for (const auto& [what, count] : outcome.counts) campaign.counts[what] += count;
    if (a.verbose) {
      for (const std::string& line : outcome.transcript) std::printf("%s\n", line.c_str());
    }
    if (outcome.broken.empty()) continue;
    campaign.broken.emplace_back(seed, outcome.broken);
    if (a.json || a.all) {
      if (!a.json) {
        std::printf("seed %llu breaks %s\n", static_cast<unsigned long long>(seed),
                    outcome.broken.c_str());
        std::fflush(stdout);
      }
      continue;
    }
    if (!a.verbose) {
      const size_t from = outcome.transcript.size() > 40 ? outcome.transcript.size() - 40 : 0;
      for (size_t i = from; i < outcome.transcript.size(); ++i) {
        std::printf("%s\n", outcome.transcript[i].c_str());
      }
    }
    std::printf(
        "seed %llu breaks %s\nrepeat: atoll-sim --seeds=%llu --regions=%d..%d%s%s --verbose\n",
        static_cast<unsigned long long>(seed), outcome.broken.c_str(),
        static_cast<unsigned long long>(seed), a.least_regions, a.most_regions,
        a.scenario.empty() ? "" : " --scenario ", a.scenario.c_str());
    break;
  }
  campaign.seconds = Clock::Real()->MonotonicSeconds() - begin;
  Print(a, campaign);
  return campaign.broken.empty() ? 0 : 1;
}

int Grow(const Arguments& a) {
  std::printf("           whole run          to begin:           each further round:\n");
  std::printf("regions  seconds    events  core ms   MiB out  core ms  core us/step  KiB out\n");
  for (const int regions : {4, 16, 64, 250, 1000}) {
    const double begin = Clock::Real()->MonotonicSeconds();
    World world(QuietSettings(a.first, regions, a.rounds), true);
    const Outcome outcome = world.Run();
    const double seconds = Clock::Real()->MonotonicSeconds() - begin;
    if (!outcome.broken.empty()) {
      std::printf("%d regions break %s\n", regions, outcome.broken.c_str());
      return 1;
    }
    // The first round is taken with what leads to it: greetings, the view.
    const double rounds = std::max<double>(1, static_cast<double>(a.rounds - 1));
    const double core_seconds = outcome.core_seconds - outcome.begin_seconds;
    const auto steps = static_cast<double>(outcome.core_steps - outcome.begin_steps);
    std::printf("%7d  %7.2f  %8ld  %7.1f  %8.1f  %7.3f  %12.2f  %7.1f\n", regions, seconds,
                static_cast<long>(outcome.events), 1e3 * outcome.begin_seconds,
                static_cast<double>(outcome.begin_bytes) / (1 << 20), 1e3 * core_seconds / rounds,
                1e6 * core_seconds / std::max(1.0, steps),
                static_cast<double>(outcome.core_bytes - outcome.begin_bytes) / 1024 / rounds);
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace

int Main(int argc, char** argv) {
  const StatusOr<Arguments> arguments = Parse(argc, argv);
  if (!arguments.ok()) {
    std::fprintf(stderr, "%s\n", std::string(arguments.status().message()).c_str());
    return 2;
  }
  if (arguments->grow) return Grow(*arguments);
  std::string text;
  if (!arguments->scenario.empty()) {
    const StatusOr<std::string> read = ReadFile(arguments->scenario);
    if (!read.ok()) {
      std::fprintf(stderr, "%s\n", std::string(read.status().message()).c_str());
      return 2;
    }
    text = *read;
  }
  return RunSeeds(*arguments, text);
}

}  // namespace atl::sim

int main(int argc, char** argv) { return atl::sim::Main(argc, argv); }
