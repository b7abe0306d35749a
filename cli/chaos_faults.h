// Which faults a run of `atoll chaos` does, from its seed alone; and how they are done to real
// processes and a lab.
//
// A fault comes when so many rounds are committed, never while too many regions are still away from
// an earlier one: the point is a region that comes back, not a job without regions. So the same
// seed gives the same faults in the same order at the same rounds; what they hit in a round
// differs. Thread rule: FaultPlan is pure; Injector has a thread of its own, started by its
// constructor.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "base/status.h"
#include "cli/run_directory.h"
#include "tools/wanlab/lab.h"

namespace atl {

enum class FaultKind {
  kKillRegion,        // SIGKILL to its workers
  kStopRegion,        // SIGSTOP, later SIGCONT
  kKillOrchestrator,  // SIGKILL
  kStopOrchestrator,  // SIGSTOP, later SIGCONT
  kCut,               // a pair of regions
  kCutOneWay,
  kLoss,  // 30% of the packets of a region's pairs
  // Only if asked for by name.
  kBlackHole,  // a region's pairs are all cut; it lives, and hears the orchestrator
};
inline constexpr int kFaultKinds = 8;
inline constexpr int kDrawnFaultKinds = 7;  // the first ones
const char* FaultName(FaultKind kind);
// "kill,black hole": these kinds; "" is those that are drawn.
StatusOr<std::vector<FaultKind>> FaultKindsFromText(const std::string& text);

struct ChaosFault {
  FaultKind kind = FaultKind::kKillRegion;
  int region = 0;      // index
  int other = 0;       // of a cut
  int64_t round = 0;   // once so many are committed
  double delay = 0;    // and so many seconds have passed then
  double seconds = 0;  // that it lasts
  std::string Text(const std::vector<std::string>& regions) const;
};

// `faults` of them spread over `rounds` rounds. Every kind of `kinds` comes once before one comes
// again.
std::vector<ChaosFault> PlanFaults(uint64_t seed, int faults, int regions, int64_t rounds,
                                   const std::vector<FaultKind>& kinds);

// What became of a fault.
struct FaultOutcome {
  ChaosFault fault;
  double at = 0;          // monotonic
  int64_t committed = 0;  // rounds, at that moment
  // The region that was hit was in the all-reduce of the round after these.
  bool in_all_reduce = false;
  double next_round = 0;  // seconds until the next round was committed; < 0: not in time
  // The same of a round without the region that was killed or stopped; < 0: it was not missed.
  double without = -1;
  std::string error;  // it could not be done
};

class Injector {
 public:
  // `lab` and what it names outlive this. `away_seconds` > 0: first of all the orchestrator is away
  // for so long.
  Injector(const RunningLab* lab, std::string run_dir, std::vector<std::string> regions,
           std::vector<ChaosFault> faults, double away_seconds);
  ~Injector();

  // Ends the thread; what was cut is healed, what was stopped goes on.
  void Stop();
  const std::vector<FaultOutcome>& outcomes() const { return outcomes_; }
  // Rounds that were committed while the orchestrator was away; -1: it was not.
  int64_t rounds_while_away() const { return rounds_while_away_; }

 private:
  void Run();
  void StepAway();
  FaultOutcome Inject(const ChaosFault& fault);
  Status Begin(const ChaosFault& fault);
  Status End(const ChaosFault& fault);
  Status Signal(const std::vector<pid_t>& pids, int signal);
  std::vector<pid_t> WorkersOf(int region) const;
  std::vector<pid_t> Orchestrator() const;
  int64_t Committed() const { return Newest().round; }
  RoundLine Newest() const;
  int Training() const;
  bool Reduces(int region, int64_t round) const;
  // Until `done`, `seconds` at most; false: not in time, or stopped.
  template <typename Done>
  bool Await(double seconds, Done done);

  const RunningLab* const lab_;
  const std::string run_dir_;
  const std::vector<std::string> regions_;
  const std::vector<ChaosFault> faults_;
  const double away_seconds_;
  std::vector<FaultOutcome> outcomes_;
  int64_t rounds_while_away_ = -1;
  Mutex mutex_;
  CondVar changed_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace atl
