// Runs a prepared job on this host: starts its processes, watches them, passes signals on, and ends
// them all.
//
//   1. atoll-orchestrator on a free port of 127.0.0.1; its address is in orchestrator.json.
//   2. a region: mpirun with its workers, in a session and temporary directory of its own.
//   3. Until the orchestrator ends: show progress, take note of ends. The orchestrator decides how
//      a job ends; its exit code is the job's.
//      - first SIGINT, SIGTERM or SIGUSR1: SIGTERM to the orchestrator, which lets the regions
//        finish their round, commit and leave. A SIGINT after that: everything is killed, 130.
//      - a region ends badly: the orchestrator hears it from the region or from its silence; if it
//        has not ended the job kFaultSeconds later, it is stopped. The job failed, whatever it
//        says.
//      - the orchestrator dies: the regions are stopped, the job failed.
//   4. Regions that do not leave by themselves are stopped (SIGTERM, SIGKILL). Nothing is left.
//
// Thread rule: one thread, the main one (cli/process.h).
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/failure_block.h"
#include "cli/output.h"
#include "cli/process.h"
#include "cli/progress.h"
#include "cli/train_setup.h"

namespace atl {

struct TrainResult {
  int exit_code = 0;
  std::optional<Failure> failure;
  std::string message;  // without a failure: what ended the job otherwise, if anything did
  int64_t oom_kills = 0;
};

class TrainRun {
 public:
  TrainRun(const TrainSetup& setup, Output* output);
  ~TrainRun();
  // Errors: something could not be started. Once only.
  StatusOr<TrainResult> Run();

 private:
  struct Region {
    RegionEvidence evidence;
    Session* session = nullptr;
  };

  Status MakeTemporaryDirectory();
  Status StartOrchestrator();
  // Until it has said where it listens.
  StatusOr<std::string> AwaitAddress();
  Status StartRegion(const std::string& name, const std::string& address);
  void OnSignal(int signal);
  // True once nothing is left to wait for.
  bool Step();
  void NoteRegionEnds();
  void AwaitRegions(double seconds);
  TrainResult Conclude();
  std::string LastDoing(const std::string& region) const;
  Status OrchestratorError() const;

  const TrainSetup& setup_;
  Output* const output_;
  const int64_t oom_kills_before_;
  const std::string orchestrator_log_;
  int64_t log_offset_ = 0;  // where this run begins in orchestrator.log
  std::string temporary_;
  SignalWaiter signals_;
  std::optional<FileLock> temporary_lock_;
  Progress progress_;
  ProcessGroup processes_;
  Session* orchestrator_ = nullptr;
  std::vector<Region> regions_;
  bool stopping_ = false;  // asked the orchestrator to stop
  bool killed_ = false;    // second SIGINT
  double region_failed_at_ = 0;
  double all_left_at_ = 0;
};

}  // namespace atl
