// The orchestrator as a process: drives the core with a real clock, a real control plane and a real
// store.
//
// A step:  receive -> core -> store (one transaction) -> run files -> send.
// Nothing is sent that is not stored (write-ahead, P5). If storing fails (disk full), the step's
// messages are not sent; the regions are told that the job has failed and the process ends with the
// error's exit code.
// After the end it goes on answering for a moment, so that every region hears of it.
//
// With a step log outside of this host (--store=etcd:...):
//   1. While the log is out of reach a step waits, and nothing is sent; the view trains on.
//   2. Once somebody else may lead, the control port is closed, so that regions look elsewhere;
//      it opens again if it turns out that nobody does.
//   3. Once somebody else leads, the process ends at once, and tells the regions nothing: they are
//      the other one's.
//
// Thread rule: one thread, but RequestStop.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/file.h"
#include "base/status.h"
#include "control/server.h"
#include "orchestrator/core/core.h"
#include "orchestrator/store/run_files.h"
#include "orchestrator/store/step_log.h"
#include "orchestrator/store/store.h"
#include "proto/job.pb.h"

namespace atl {

// Another orchestrator has taken the job over. Not among base/exit_code.h: no error has it.
inline constexpr int kReplacedExitCode = 6;

class Daemon {
 public:
  struct Options {
    pb::Job job;  // complete
    std::string run_dir;
    std::string database;  // empty: RUN_DIR/atoll.db
    std::string listen;    // "tcp://127.0.0.1:0"
    std::string keys_dir;  // made with its keys where absent
    Clock* clock = Clock::Real();
    double heartbeat_seconds = 1;
    double farewell_seconds = 2;  // at most, after the end
    StepLog* log = nullptr;       // outlives the daemon; none: SQLite alone
    // Took over from another one: an end of the job that is in the log is the job's end.
    bool standby = false;
    double give_up_seconds = 600;  // without the log
  };

  // Takes the run directory (another orchestrator in it: exit code 4), opens its store, makes keys
  // and leases, listens, and says where in orchestrator.json.
  static StatusOr<std::unique_ptr<Daemon>> Create(Options options);
  ~Daemon();

  // How the job ended before this process had it (a standby's); then there is nothing to run.
  std::optional<int> ended_before() const { return ended_before_; }
  // Where regions reach it.
  std::string address() const;
  // Until the job's end; returns its exit code.
  int Run();
  // Ends the job in good order: regions finish their round. Async-signal-safe; any thread.
  // `signal` is for the log.
  void RequestStop(int signal);

 private:
  Daemon(Options options, FileLock lock);
  Status Open();
  Status MakeKeys(ControlServer::Options* server);
  Status Announce();

  double Now() const;
  // Persists and sends what a step of the core decided.
  void Take(Actions actions);
  Status Persist(const std::vector<Record>& records);
  // Could not persist: ends the job as far as that is still possible.
  void Abandon(const Status& status);
  void Send(const std::vector<Outgoing>& messages);
  void Serve(double seconds);
  // Step 2 and 3: opens or closes the control port. False: this process no longer leads.
  bool MayServe();
  bool WaitForLog(const Status& why, double seconds);
  // DIR/drain/REGION, written by `atoll drain`: the reason.
  void TakeDrainRequests();
  void Farewell();

  const Options options_;
  const FileLock lock_;
  const double wall_at_start_;
  const double monotonic_at_start_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<RunFiles> files_;
  std::unique_ptr<ControlServer> server_;
  std::unique_ptr<Core> core_;
  std::optional<double> wake_at_;
  std::optional<int> exit_code_;
  bool stop_told_ = false;
  double drains_at_ = 0;
  std::optional<int> ended_before_;
  double waited_ = 0;           // without the log, when last asked
  double waiting_told_at_ = 0;  // the same, when that was last said
  std::atomic<int> stop_signal_{0};
};

}  // namespace atl
