// What a run is: sizes, speeds and faults, all drawn from its seed, or read from a scenario file.
//
// A scenario is text, one setting or fault a line ("#" begins a comment):
//     regions 4
//     rounds 10
//     at 12.5 crash 1
//     at 20 cut 0 2 for 5
// Every name of Settings can be set; kinds of faults are in faults.cc.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace atl::sim {

struct Fault {
  double time = 0;
  std::string kind;
  int a = -1;
  int b = -1;
  double seconds = 0;
};

struct Settings {
  uint64_t seed = 1;
  int regions = 4;
  int64_t rounds = 8;
  int64_t inner_steps = 3;
  int64_t batch = 8;
  double step_seconds = 0.5;
  double reduce_seconds = 0.4;
  double control_seconds = 0.04;  // one way
  double loss = 0;                // of control messages
  double repeat = 0;
  double lateness = 0;  // share of control messages that come much later
  int64_t save_every = 3;
  int64_t evaluate_every = 4;
  double clock_spread = 0;
  double clock_skew = 0;      // regions' calendars are off by so many seconds at most
  bool lease_starts = false;  // who comes later has a lease that says so
  int absent = 0;             // regions that come later
  int faults = 0;
  double fault_seconds = 60;  // they begin within so long
  int slow_policy = 0;        // SlowRegions.Policy
  int quorum = 0;             // SlowRegions.quorum
  int slow_regions = 0;       // the first so many are slow
  double slow_factor = 3;
  double slow_seconds = 1e9;  // for so long
  double limit_seconds = 4000;
  std::vector<Fault> script;  // besides the drawn ones
};

// `regions` above 0: instead of the drawn number.
Settings DrawSettings(uint64_t seed, int least_regions, int most_regions);
// What the job says of slow regions, and some that are.
void DrawSlowness(Settings* settings);
// Without faults, for measuring.
Settings QuietSettings(uint64_t seed, int regions, int64_t rounds);
StatusOr<Settings> ParseScenario(const std::string& text);

}  // namespace atl::sim
