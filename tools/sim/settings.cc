#include "tools/sim/settings.h"

#include <algorithm>
#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/exit_code.h"
#include "base/random.h"
#include "proto/job.pb.h"
#include "tools/sim/events.h"

namespace atl::sim {

Settings DrawSettings(uint64_t seed, int least_regions, int most_regions) {
  Dice dice(DeriveSeed(seed, "sim:settings"));
  Settings s;
  s.seed = seed;
  s.regions = static_cast<int>(dice.Between(least_regions, most_regions));
  s.rounds = dice.Between(3, 12);
  s.inner_steps = dice.Between(1, 5);
  s.batch = dice.Between(s.regions, 4 * s.regions);
  s.step_seconds = dice.Uniform(0.05, 1.5);
  s.reduce_seconds = dice.Uniform(0.05, 1.5);
  s.control_seconds = dice.Uniform(0.001, 0.2);
  if (dice.Chance(0.6)) s.loss = dice.Uniform(0, 0.15);
  if (dice.Chance(0.5)) s.repeat = dice.Uniform(0, 0.1);
  if (dice.Chance(0.5)) s.lateness = dice.Uniform(0, 0.1);
  s.save_every = dice.Between(0, 4);
  s.evaluate_every = dice.Between(0, 4);
  if (dice.Chance(0.3)) s.clock_spread = 0.02;
  if (dice.Chance(0.3)) s.absent = static_cast<int>(dice.Below(s.regions));
  s.faults = dice.Chance(0.05) ? 0 : static_cast<int>(dice.Between(1, 12));
  s.fault_seconds = dice.Uniform(5, 90);
  Dice leases(DeriveSeed(seed, "sim:leases"));
  if (leases.Chance(0.4)) s.clock_skew = leases.Uniform(0, 10);
  s.lease_starts = leases.Chance(0.5);
  return s;
}

void DrawSlowness(Settings* settings) {
  Settings& s = *settings;
  Dice dice(DeriveSeed(s.seed, "sim:slowness"));
  s.slow_policy = static_cast<int>(dice.Below(pb::SlowRegions::Policy_ARRAYSIZE));
  if (dice.Chance(0.5)) s.quorum = static_cast<int>(dice.Between(1, s.regions));
  if (s.slow_policy == pb::SlowRegions::WAIT || dice.Chance(0.2)) return;
  s.slow_regions = static_cast<int>(dice.Between(1, std::max(1, s.regions - 1)));
  s.slow_factor = dice.Uniform(1.2, 6);
  s.inner_steps += dice.Between(1, 5);
  s.rounds += dice.Between(0, 10);
  if (dice.Chance(0.5)) s.slow_seconds = dice.Uniform(5, 90);
}

Settings QuietSettings(uint64_t seed, int regions, int64_t rounds) {
  Settings s;
  s.seed = seed;
  s.regions = regions;
  s.rounds = rounds;
  s.batch = 2 * static_cast<int64_t>(regions);
  s.save_every = 0;
  s.evaluate_every = 0;
  return s;
}

StatusOr<Settings> ParseScenario(const std::string& text) {
  Settings s;
  int number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    const absl::string_view code = line.substr(0, line.find('#'));
    const std::vector<std::string> words = absl::StrSplit(code, ' ', absl::SkipWhitespace());
    if (words.empty()) continue;
    const auto wrong = [&](const std::string& what) {
      return UsageError(absl::StrCat("line ", number, " of the scenario: ", what, ": ", line));
    };
    if (words[0] == "at") {
      Fault fault;
      if (words.size() < 3 || !absl::SimpleAtod(words[1], &fault.time)) {
        return wrong("a fault reads \"at SECONDS KIND [REGION [REGION]] [for SECONDS]\"");
      }
      fault.kind = words[2];
      for (size_t i = 3; i < words.size(); ++i) {
        const bool ok = words[i] == "for"
                            ? ++i < words.size() && absl::SimpleAtod(words[i], &fault.seconds)
                        : fault.a < 0 ? absl::SimpleAtoi(words[i], &fault.a)
                                      : absl::SimpleAtoi(words[i], &fault.b);
        if (!ok) return wrong("a region's number or \"for SECONDS\" is missing");
      }
      s.script.push_back(fault);
      continue;
    }
    const std::map<std::string, double*> reals = {{"step_seconds", &s.step_seconds},
                                                  {"reduce_seconds", &s.reduce_seconds},
                                                  {"control_seconds", &s.control_seconds},
                                                  {"loss", &s.loss},
                                                  {"repeat", &s.repeat},
                                                  {"lateness", &s.lateness},
                                                  {"clock_spread", &s.clock_spread},
                                                  {"clock_skew", &s.clock_skew},
                                                  {"fault_seconds", &s.fault_seconds},
                                                  {"slow_factor", &s.slow_factor},
                                                  {"slow_seconds", &s.slow_seconds},
                                                  {"limit_seconds", &s.limit_seconds}};
    const std::map<std::string, int64_t*> wholes = {{"rounds", &s.rounds},
                                                    {"inner_steps", &s.inner_steps},
                                                    {"batch", &s.batch},
                                                    {"save_every", &s.save_every},
                                                    {"evaluate_every", &s.evaluate_every}};
    const std::map<std::string, int*> counts = {
        {"regions", &s.regions},         {"absent", &s.absent}, {"faults", &s.faults},
        {"slow_policy", &s.slow_policy}, {"quorum", &s.quorum}, {"slow_regions", &s.slow_regions}};
    bool ok = words.size() == 2;
    if (!ok) return wrong("a setting reads \"NAME VALUE\"");
    if (const auto real = reals.find(words[0]); real != reals.end()) {
      ok = absl::SimpleAtod(words[1], real->second) && *real->second >= 0;
    } else if (const auto whole = wholes.find(words[0]); whole != wholes.end()) {
      ok = absl::SimpleAtoi(words[1], whole->second) && *whole->second >= 0;
    } else if (const auto count = counts.find(words[0]); count != counts.end()) {
      ok = absl::SimpleAtoi(words[1], count->second) && *count->second >= 0;
    } else if (words[0] == "seed") {
      ok = absl::SimpleAtoi(words[1], &s.seed);
    } else {
      return wrong("there is no such setting");
    }
    if (!ok) return wrong("not a number that it may have");
  }
  if (s.quorum < 0 || !pb::SlowRegions::Policy_IsValid(s.slow_policy) ||
      s.slow_regions > s.regions || s.slow_factor <= 0) {
    return UsageError("the scenario's slow_policy, slow_regions or slow_factor is none");
  }
  if (s.regions < 1 || s.regions > 4096 || s.rounds < 1 || s.inner_steps < 1 ||
      s.absent >= s.regions) {
    return UsageError(
        "the scenario needs 1 to 4096 regions, of which one is there at the start, a "
        "round and a step");
  }
  s.batch = std::max<int64_t>(s.batch, s.regions);
  // How many regions each kind of fault names.
  const std::map<std::string, int> kinds = {
      {"crash", 1},    {"wipe", 1},  {"pause", 1}, {"leave", 1},       {"damage", 1},
      {"drain", 1},    {"slow", 1},  {"cut", 2},   {"cut-control", 1}, {"cut-up", 1},
      {"cut-down", 1}, {"lease", 1}, {"all", 0},   {"all-leave", 0},   {"orchestrator", 0}};
  for (const Fault& fault : s.script) {
    const auto kind = kinds.find(fault.kind);
    if (kind == kinds.end() || (fault.a >= 0) + (fault.b >= 0) != kind->second ||
        (kind->second == 2 && fault.a == fault.b)) {
      return UsageError(absl::StrCat("the scenario's fault ", fault.kind,
                                     " is not known, or names too few or too many regions"));
    }
    if (fault.a >= s.regions || fault.b >= s.regions) {
      return UsageError(absl::StrCat("the scenario's fault ", fault.kind, " names region ",
                                     std::max(fault.a, fault.b), ", the last one is ",
                                     s.regions - 1));
    }
  }
  return s;
}

}  // namespace atl::sim
