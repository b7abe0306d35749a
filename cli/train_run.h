// Runs a prepared job on this host: starts its processes, watches them, passes signals on, and ends
// them all.
//
//   1. atoll-orchestrator on a free port of 127.0.0.1; its address is in orchestrator.json.
//   2. a region: mpirun with its workers, in a session and temporary directory of its own.
//   3. Until the orchestrator ends: show progress, take note of ends. The orchestrator decides how
//      a job ends; its exit code is the job's.
//      - first SIGINT, SIGTERM or SIGUSR1: SIGTERM to the orchestrator, which lets the regions
//        finish their round, commit and leave. A SIGINT after that: everything is killed, 130.
//      - a region ends badly: the others go on without it. It is started again, and joins them
//        (cli/restarts.h); not if its settings are wrong. When no region is left that runs or will
//        be started again, the job failed.
//      - the orchestrator is killed: it is started again at the same address, and goes on from its
//        store; the regions train on meanwhile. If that has no end, the job failed. With a standby
//        beside it (--standby), that leads on, and the former one is started as its standby.
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
#include "cli/restarts.h"
#include "cli/train_setup.h"

namespace atl {

struct TrainResult {
  int exit_code = 0;
  std::optional<Failure> failure;
  std::string message;  // without a failure: what ended the job otherwise, if anything did
  int64_t oom_kills = 0;
  std::string run_dir;  // of the orchestrator that led at the end
};

// Of tcp://HOST:PORT.
std::string PortOf(const std::string& address);
// Whether a process ended as it should: done, or stopped cleanly.
bool LeftWell(const ProcessEnd& end);

class TrainRun {
 public:
  TrainRun(const TrainSetup& setup, Output* output);
  ~TrainRun();
  // Errors: something could not be started. Once only.
  StatusOr<TrainResult> Run();

 private:
  struct Region {
    explicit Region(int64_t restarts) : restarts(restarts) {}
    RegionEvidence evidence;     // of its newest attempt
    Session* session = nullptr;  // none before its lease begins
    Restarts restarts;
    std::optional<double> start_at;  // again, or when its lease begins
    int64_t attempts = 0;
  };

  Status MakeTemporaryDirectory();
  // `port` 0: any.
  Status StartOrchestrator(const std::string& port);
  Status StartStandby();
  std::vector<std::string> OrchestratorWords(const std::string& run_dir,
                                             const std::string& port) const;
  std::string OrchestratorLog() const { return leader_dir_ + "/orchestrator.log"; }
  // The orchestrator has ended, and its standby has not. `wait`: until it is started again, in the
  // standby's place; nothing: never.
  void TakeOver(std::optional<double> wait);
  void NoteStandbyEnd();
  bool LeaderListens() const;
  void ShowProgress();
  // Until it has said where it listens.
  StatusOr<std::string> AwaitAddress();
  Status StartRegion(Region* region);
  void OnSignal(int signal);
  // True once nothing is left to wait for.
  bool Step();
  void NoteRegionEnds();
  void NoteRegionEnd(Region* region);
  // A region failed and the job goes on: the same block as at the end of a job.
  void ShowFailure(const RegionEvidence& evidence, const std::string& next);
  // Starts again what is due.
  void StartAgain();
  // Whether it is over; else it is, or will be, started again.
  bool OrchestratorIsOver();
  void AwaitRegions(double seconds);
  TrainResult Conclude();
  std::string LastDoing(const std::string& region) const;
  Status OrchestratorError() const;

  const TrainSetup& setup_;
  Output* const output_;
  const int64_t oom_kills_before_;
  // Each orchestrator has a run directory of its own; the first one's is the job's.
  std::string leader_dir_, standby_dir_;
  int64_t log_offset_ = 0;  // where this run begins in orchestrator.log
  std::string temporary_;
  SignalWaiter signals_;
  std::optional<FileLock> temporary_lock_;
  std::unique_ptr<Progress> progress_;
  ProcessGroup processes_;
  Session* orchestrator_ = nullptr;  // the one that leads
  Session* standby_ = nullptr;
  std::string leader_address_, standby_address_;
  std::string address_;  // what regions are told: of both
  Restarts orchestrator_restarts_;
  std::optional<double> orchestrator_start_at_, standby_start_at_;
  std::vector<Region> regions_;
  bool stopping_ = false;      // asked the orchestrator to stop
  bool killed_ = false;        // second SIGINT
  bool regions_lost_ = false;  // all, and one of them badly
  double all_left_at_ = 0;
};

}  // namespace atl
