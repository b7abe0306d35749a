// The orchestrator's protocol as a pure state machine: an event and the time go in, messages,
// records and a wake-up time come out. No sockets, threads, clocks or files; the daemon (server/)
// and tests drive it.
//
// The life of a job (docs/protocols/orchestrator.md, docs/protocols/membership.md):
//   1. Start. Regions say Hello and get Welcome with the job, load it and say Ready.      join.cc
//   2. When all are ready, and agree on model and data, the resume point is chosen and
//      view 1 goes out. A region that cannot load its checkpoint says Ready again with the
//      failure, and another view takes the next common one.                  join.cc, resume.cc
//   3. Regions run rounds without asking and report them. A round that all members reported
//      with one digest is committed: ledger, sums, record. Same for evaluations and
//      checkpoints.                                                                    progress.cc
//   4. After the last round, or a stop, the regions leave and the job ends.             failure.cc
// Where all regions survive changes (elastic_):
//   5. Who is suspected, silent or wrong is left out: a fence, then the next view.       fence.cc,
//      suspicion.cc
//   6. Who is slower than the others takes fewer inner steps, if the job wants that.   pace.cc
//   7. Who joins, has caught up or leaves: a planned view, taken at an edge.             planned.cc
//   8. Whose lease ends leaves after the last round that fits.                            leases.cc
//   9. A new core goes on from what the one before recorded.                             restore.cc
// Where one does not, a fault, silence or a differing digest ends the job, naming the cause.
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
#include <set>
#include <string>
#include <vector>

#include "orchestrator/core/checkpoints.h"
#include "orchestrator/core/ledger.h"
#include "orchestrator/core/records.h"
#include "orchestrator/core/regions.h"
#include "orchestrator/core/replicas.h"
#include "orchestrator/core/round_time.h"
#include "orchestrator/core/states.h"
#include "proto/round_plan.h"

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
    // The first view is made when so many regions are ready and no other one is loading; 0: all.
    int least_regions = 0;
    std::function<std::string(size_t)> random_bytes;  // for keys
    History history;
  };

  explicit Core(Options options);

  Actions Start(double now);
  // `region` is who sent it, as its key says. Once the job has ended, answers say so.
  Actions OnMessage(const std::string& region, const pb::LeaderMessage& message, double now);
  Actions OnStop(const std::string& reason, double now);
  // Asks one region to leave. Nothing if it is no full member.
  Actions OnDrain(const std::string& region, const std::string& reason, double now);
  Actions OnTick(double now);
  // The orchestrator itself cannot go on (its disk is full, ...).
  Actions OnOwnFailure(const std::string& what, int exit_code, double now);

  JobState state() const { return state_; }
  // Views change with the regions (docs/protocols/membership.md).
  bool elastic() const { return elastic_; }
  const pb::View& view() const { return view_; }
  bool fencing() const { return fence_.has_value(); }
  int64_t committed_round() const { return ledger_ ? ledger_->next_round() - 1 : 0; }
  // What must be the same after a restart, as text.
  std::string DurableState() const;
  // After the end: no region is left that may still want to hear of it.
  bool EveryoneGone() const;

 private:
  using Details = std::vector<std::pair<std::string, Detail>>;
  struct Sums {
    double loss_sum = 0;
    int64_t tokens = 0;
  };
  struct Fencing {
    int64_t id = 0;
    std::string reason;
    std::set<std::string> left_out;
    std::map<std::string, pb::Fenced> answers;
    double began = 0;
    double asked = 0;                  // Fence went out last
    std::vector<std::string> leavers;  // because of whom it is
  };
  struct Suspicion {
    bool gone = false;
    bool silent = false;  // it said no more than that
    double since = 0;
    int64_t round = 0;
    std::string what;
  };
  // What the notes of a round said; from its first report until it is committed.
  struct RoundFacts {
    ShortContributions short_contributions;
    int64_t next_view = 0;
    std::vector<std::string> leaving;
    bool edge_known = false;
  };

  // core.cc: steps, records, messages, states.
  void BeginStep(double now);
  // What is due by the state of all regions together, or by time.
  void WatchAll();
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
  std::vector<std::string> ReadyRegions() const;
  bool RegionsAgree();
  void BeginIfReady();
  bool AllSurvive() const;
  Status AgreesWithJob(const pb::Ready& ready) const;
  void Refuse(RegionEntry& entry, const std::string& why);
  void MakeView();
  void AddMember(pb::View* view, const std::string& region, bool full) const;
  Status GiveShares(pb::View* view) const;
  pb::OrchestratorMessage ViewFor(const RegionEntry& entry) const;
  void AnnounceView();
  void BeginLedger(const SamplePool& pool, int64_t round);

  // resume.cc: both fill in resume_ and return false if the job ended or waits instead.
  bool ChooseResume();
  bool HandleNoResumePoint(const std::map<std::string, RegionCheckpoints>& listed);
  bool IsContradicted(const pb::CheckpointOnDisk& checkpoint) const;
  // A checkpoint on which start after start fails is left for an older one.
  void LeaveCrashLoop(std::map<std::string, RegionCheckpoints> listed);
  void CountStart();
  void NoteResume();

  // progress.cc
  void OnRoundReport(RegionEntry& entry, const pb::RoundReport& report);
  // False: it is no report that this round could have; what to do about that has been done.
  bool IsSoundReport(RegionEntry& entry, const pb::RoundReport& report);
  void TakeFacts(const std::string& region, const pb::RoundReport& report);
  void TakeShort(int64_t round, const RoundFacts& facts);
  // The region goes on training what it has of `round`, and gives it to the next one.
  void Postpone(int64_t round, const std::string& region);
  // What it waited for has come after all.
  void GoesOn(RegionEntry& entry, int64_t round);
  // From a member that had no part in the round, but holds its result.
  void TakeHeard(RegionEntry& entry, const pb::RoundReport& report);
  void OnHeardRound(RegionEntry& entry, const pb::RoundReport& report);
  void Wrong(RegionEntry& entry, const std::string& what, int64_t round);
  void AssignThrough(int64_t round);
  void Assign(std::vector<Ledger::Entry> entries);
  void ReturnSamplesFrom(int64_t round);
  void CommitReady();
  // After members have gone: what only they were waited for is done.
  void Reckon();
  bool Commit(int64_t round);
  // Empty: there is no majority, and the job has failed.
  std::string MajorityDigest(int64_t round);
  RoundRecord SumOf(int64_t round, const std::string& digest);
  void OnEvaluation(RegionEntry& entry, const pb::EvaluationReport& report);
  void OnCheckpoint(RegionEntry& entry, const pb::CheckpointReport& report);
  void TellReplicaDifferences(int64_t round,
                              const std::map<std::string, pb::CheckpointReport>& reports);
  // Whether the regions are told to mend it. `paths`: their checkpoints.
  bool HaveMended(const ReplicaDifference& difference, int64_t round,
                  const std::map<std::string, std::string>& paths);
  // Whether the regions are told to say whose is right.
  bool HaveProved(int64_t round, const std::map<std::string, pb::CheckpointReport>& reports);
  // False: it is no answer to that.
  bool TakeProof(const RegionEntry& entry, const pb::CheckpointTended& tended);
  void Decide(int64_t round, const ReplicaProof& proof);
  bool TendsCheckpoints(int64_t round) const;
  void OnTended(RegionEntry& entry, const pb::CheckpointTended& tended);
  bool InView(const RegionEntry& entry, int64_t view) const;
  int64_t FullMembers() const;

  // failure.cc
  void OnFault(RegionEntry& entry, const pb::Fault& fault);
  void DecideFailure();
  void OnLeft(RegionEntry& entry, const pb::Left& left);
  void OnLeftElastic(RegionEntry& entry, const pb::Left& left);
  void BeginStop(const std::string& reason);
  void FinishIfAllLeft();
  void CheckSilence();
  double NextSilence() const;
  void Fail(const std::string& reason, int exit_code, const std::string& region, int64_t round);
  void End(JobState state, const std::string& reason, int exit_code, const std::string& region = "",
           int64_t round = -1);

  // fence.cc
  void StartFence(const std::string& reason);
  void LeaveOut(const std::string& region, RegionState state, const std::string& reason);
  void AskFenced();
  void OnFenced(RegionEntry& entry, const pb::Fenced& fenced);
  // Makes the next view if all that are waited for have answered.
  void DecideFence();
  std::vector<std::string> Scope() const;
  bool LeaveOutMinority(int64_t newest);
  // The newest round that anybody has answered to hold; -1: nobody has state. All have answered.
  int64_t NewestAnswer() const;
  // The members that are left can say of each open round up to `newest` what was in it.
  bool IsAccounted(int64_t newest) const;
  pb::View ViewAfterFence(int64_t newest, const std::string& giver);
  std::vector<Ledger::Entry> CarriedEntries(pb::View* view,
                                            const std::map<std::string, Ledger::Entry>& held) const;
  // Who has left already and whose newest round others hold too.
  bool AwaitsLeaver() const;
  void ReleaseNotNeeded();
  // Nobody else holds the state: it is not given up for silence alone, but for a long one.
  bool IsLastHolder(const std::string& region) const;
  void TakeUp(pb::View view);
  // `attempt`: of the start that is meant, where it is not the present one.
  void SendDropped(const RegionEntry& entry, const std::string& reason,
                   const std::string& attempt = "");
  void WaitForCheckpoints(const std::string& reason);
  void RecordMembership();
  void RecordLedger();

  // suspicion.cc
  void OnSuspect(RegionEntry& entry, const pb::Suspect& suspect);
  // For how long words against members that we hear are gathered.
  double GatherSeconds() const;
  void WeighSuspicions();
  void WatchFence();
  // What the heartbeat shows to be lacking is sent again.
  void SendWhatLacks(RegionEntry& entry, const pb::Heartbeat& heartbeat);

  // planned.cc
  void OnCaughtUp(RegionEntry& entry, const pb::CaughtUp& caught_up);
  void OnLeaving(RegionEntry& entry, const pb::Leaving& leaving);
  void PlanView();
  pb::View WantedView();
  void TakeEdge(int64_t edge, const std::string& digest, const RoundFacts& facts);
  void Release(RegionEntry& entry);
  void ReleaseLeavers();

  // leases.cc
  // It is there, or is to come: the first view waits for it.
  bool IsExpected(const RegionEntry& entry) const;
  bool LeaseIsTooShort(RegionEntry& entry);
  void TakeClock(RegionEntry& entry, double clock);
  void WatchLeases();
  void WeighNotice(RegionEntry& entry);
  void SendLeaseEnd(RegionEntry& entry, double end, bool whole);
  // Says once that the lease ends before the job will.
  void TellLease(RegionEntry& entry, double end);

  // pace.cc
  // Of the round that is being committed.
  void NotePaces(int64_t round);
  // Lowers and raises inner steps so that regions finish rounds together, where the job says so.
  void EvenOutSteps();

  // restore.cc
  void Restore(const History& history);

  const Options options_;
  std::map<std::string, RegionEntry> regions_;
  std::vector<std::string> order_;  // of the job

  JobState state_ = JobState::kWaiting;
  JobRecord job_;
  int64_t last_event_;

  bool elastic_ = false;
  bool restored_ = false;
  std::map<int64_t, pb::View> planned_;  // that may follow view_
  double planned_since_ = 0;
  int64_t absolute_ = 0;  // id of the newest absolute view
  std::optional<Fencing> fence_;
  std::map<std::string, std::map<std::string, Suspicion>> suspicions_;  // of whom, by whom
  std::map<int64_t, RoundFacts> facts_;
  std::map<int64_t, std::string> digests_;  // of committed rounds
  int64_t committed_samples_ = 0;
  // Starts from each checkpoint (round, digest) since a round was committed.
  std::map<std::pair<int64_t, std::string>, int64_t> fruitless_;
  int64_t newest_saved_ = 0;  // round of the newest checkpoint that any region has written
  double round_seconds_ = 0;  // the longest of late
  RoundTime round_time_;
  double job_ends_ = 0;  // as it looks; 0: not known

  std::optional<ResumePoint> resume_;
  pb::View view_;  // id 0: none yet; without the fields that differ between regions
  int64_t last_view_;
  std::optional<Ledger> ledger_;
  std::map<int64_t, std::map<std::string, pb::RoundReport>> reports_;  // not committed yet
  std::map<std::pair<int64_t, int64_t>, std::map<std::string, Sums>> evaluations_;  // (view, round)
  std::map<int64_t, int64_t> full_of_;  // full members of the newest views
  std::map<int64_t, std::map<std::string, pb::CheckpointReport>> checkpoints_;
  int64_t last_checkpoint_ = 0;
  std::map<int64_t, ReplicaProof> proofs_;  // asked for, not yet decided

  std::string stop_reason_;
  double decide_at_ = 0;  // kFailing: no longer waits for the blamed region
  std::string failing_because_;

  double now_ = 0;
  std::optional<double> wake_at_;  // as told to the driver
  double waiting_since_ = 0;       // kWaiting, though there were views
  double silence_at_ = 0;          // no region is silent before
  bool reckon_ = false;            // a member has gone in this step
  bool stirred_ = false;           // something has changed that concerns more than one region
  double watch_at_ = 0;            // all regions are looked at again
  std::string waiting_;            // what the last waiting event said, without its time
  Actions actions_;                // of the step under way
};

}  // namespace atl
