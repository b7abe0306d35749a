// The orchestrator's protocol as a pure state machine: an event and the time go in, messages,
// records and a wake-up time come out. No sockets, threads, clocks or files; the daemon (server/)
// and tests drive it.
//
// The life of a job (docs/protocols/orchestrator.md has the states and their successors):
//   1. Start. Regions say Hello and get Welcome with the job, load it and say Ready.      join.cc
//   2. When all are ready, and agree on model and data, the resume point is chosen and
//      view 1 goes out. A region that cannot load its checkpoint says Ready again with the
//      failure, and another view takes the next common one.                               join.cc
//   3. Regions run rounds without asking and report them. A round that all members reported
//      with one digest is committed: ledger, sums, record. Same for evaluations and
//      checkpoints.                                                                    progress.cc
//   4. After the last round, or a stop, the regions leave and the job ends. A fault, silence or a
//      differing digest ends it too, naming the cause.                                  failure.cc
//
// What the driver owes: it calls one method at a time, with times that never go back; it persists
// the records of a step, in order and in one transaction, before it sends the messages of that
// step; it calls OnTick at `wake_at` at the latest. Times are seconds since the Unix epoch on a
// clock that never goes back (anchored to calendar time once, at the start of the process).
//
// Invariants: rounds commit in order, each once; samples before the ledger's cursor are committed
// exactly once (P3); all members reported a committed round with one digest (P1); a report is
// acknowledged only in a step that recorded it or a later one (P5).
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "orchestrator/core/checkpoints.h"
#include "orchestrator/core/ledger.h"
#include "orchestrator/core/records.h"
#include "orchestrator/core/regions.h"
#include "orchestrator/core/states.h"

namespace atl {

struct Outgoing {
  std::string region;
  pb::OrchestratorMessage message;
};

struct Ended {
  JobState state = JobState::kDone;
  std::string reason;
  int exit_code = 0;
};

struct Actions {
  std::vector<Record> records;
  std::vector<Outgoing> messages;
  std::optional<double> wake_at;
  std::optional<Ended> ended;  // in the step that ends the job
};

class Core {
 public:
  struct Options {
    pb::Job job;  // complete: every default filled in
    uint32_t protocol = 0;
    double heartbeat_seconds = 1;
    std::function<std::string(size_t)> random_bytes;  // for keys
    History history;
  };

  explicit Core(Options options);

  Actions Start(double now);
  // `region` is who sent it, as its key says. Once the job has ended, answers say so.
  Actions OnMessage(const std::string& region, const pb::LeaderMessage& message, double now);
  Actions OnStop(const std::string& reason, double now);
  Actions OnTick(double now);
  // The orchestrator itself cannot go on (its disk is full, ...).
  Actions OnOwnFailure(const std::string& what, int exit_code, double now);

  JobState state() const { return state_; }
  // After the end: no region is left that may still want to hear of it.
  bool EveryoneGone() const;

 private:
  using Details = std::vector<std::pair<std::string, Detail>>;
  struct Sums {
    double loss_sum = 0;
    int64_t tokens = 0;
  };

  // core.cc: steps, records, messages, states.
  void BeginStep(double now);
  Actions EndStep();
  void Event(const std::string& kind, const std::string& region, int64_t round,
             const std::string& text, Details details = {});
  void Send(const std::string& region, pb::OrchestratorMessage message);
  void SendEnded(const std::string& region);
  void RecordRegion(const RegionEntry& entry, bool with_ready = false);
  void RecordJob();
  void EnterState(JobState state);
  void Dispatch(RegionEntry& entry, const pb::LeaderMessage& message);
  void AnswerAfterEnd(RegionEntry& entry, const pb::LeaderMessage& message);
  // Says in an event whom the job waits for, when that has changed (UX: waiting for X since T, will
  // do Y).
  void ExplainWaiting();
  std::string WaitingText() const;
  std::optional<double> WakeAt() const;

  // join.cc
  void OnHello(const std::string& region, const pb::Hello& hello);
  std::optional<std::pair<std::string, int>> WhyRefuse(const std::string& region,
                                                       const pb::Hello& hello) const;
  void Greet(const RegionEntry& entry);
  // A region that was thought gone before the first view is heard again, in the same attempt.
  void Revive(RegionEntry& entry);
  void OnReady(RegionEntry& entry, const pb::Ready& ready);
  void OnCheckpointFailure(RegionEntry& entry, const pb::Ready& ready);
  bool AllReady() const;
  bool RegionsAgree();
  // Both fill in resume_ and return false if the job ended instead.
  bool ChooseResume();
  bool HandleNoResumePoint(const std::map<std::string, RegionCheckpoints>& listed);
  void NoteResume();
  void MakeView();
  pb::OrchestratorMessage ViewFor(const RegionEntry& entry) const;
  void AnnounceView();

  // progress.cc
  void OnRoundReport(RegionEntry& entry, const pb::RoundReport& report);
  void AssignThrough(int64_t round);
  void ReturnSamples();
  void CommitReady();
  bool Commit(int64_t round);
  void OnEvaluation(RegionEntry& entry, const pb::EvaluationReport& report);
  void OnCheckpoint(RegionEntry& entry, const pb::CheckpointReport& report);
  bool InView(const RegionEntry& entry, int64_t view) const;

  // failure.cc
  void OnFault(RegionEntry& entry, const pb::Fault& fault);
  void DecideFailure();
  void OnLeft(RegionEntry& entry, const pb::Left& left);
  void BeginStop(const std::string& reason);
  void FinishIfAllLeft();
  void CheckSilence();
  void Fail(const std::string& reason, int exit_code, const std::string& region, int64_t round);
  void End(JobState state, const std::string& reason, int exit_code, const std::string& region = "",
           int64_t round = -1);

  const Options options_;
  std::map<std::string, RegionEntry> regions_;
  std::vector<std::string> order_;  // of the job

  JobState state_ = JobState::kWaiting;
  JobRecord job_;
  int64_t last_event_;

  std::optional<ResumePoint> resume_;
  pb::View view_;  // id 0: none yet; without the fields that differ between regions
  int64_t last_view_;
  std::optional<Ledger> ledger_;
  std::map<int64_t, std::map<std::string, pb::RoundReport>> reports_;  // not committed yet
  std::string committed_digest_;                                       // of ledger round - 1
  std::map<int64_t, std::map<std::string, Sums>> evaluations_;
  std::map<int64_t, std::map<std::string, pb::CheckpointReport>> checkpoints_;
  int64_t last_checkpoint_ = 0;

  std::string stop_reason_;
  double decide_at_ = 0;  // kFailing: no longer waits for the blamed region
  std::string failing_because_;

  double now_ = 0;
  std::optional<double> wake_at_;  // as told to the driver
  std::string waiting_;            // what the last waiting event said, without its time
  Actions actions_;                // of the step under way
};

}  // namespace atl
