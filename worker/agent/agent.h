// The protocol of a region's leader as a pure state machine: events and the time go in, messages,
// one command to the region and at last an exit come out. No sockets, threads, clocks or files: the
// leader's shell (worker/program/leader.h) drives it with real ones, a simulator with made-up ones.
//
//   state        what is done             what ends it -> the next state
//   kGreeting    Hello, repeated          Welcome -> kSettingUp
//   kSettingUp   command SetUp            answers: Ready is sent -> kWaiting
//   kWaiting     for a view               View -> kEntering; planned View -> kSwitching
//   kEntering    command EnterView        well -> what is due
//                                         a stop: abandon it; before all stood -> kOver
//                                         checkpoint unusable: Ready with the reason -> kWaiting
//   kPreparing   command PrepareView      answers -> what is due
//   kSwitching   command SwitchView       answers -> what is due
//   kTraining    command TrainRound       answers -> what is due
//   kReducing    command ReduceRound      answers -> kCommitting; interrupted -> kHolding
//   kCommitting  command CommitRound      answers: RoundReport -> what is due
//   kSaving      command SaveCheckpoint   answers: CheckpointReport, or none yet -> what is due
//                nothing, before leaving  the saves under way have ended -> what is due
//   kEvaluating  command Evaluate         answers: EvaluationReport -> what is due
//   kHolding     nothing                  View -> what is due
//   kLeaving     Left                     JobEnded, Dropped -> kOver; View -> what is due
//   kFailed      Fault                    JobEnded, or too long -> kOver
// What is due (Next): another view; a result to give or to take; a save, an evaluation; leaving;
// inner steps; the reduction. From any state: Refused or JobEnded -> kOver; a failed answer ->
// kFailed; Dropped -> kWaiting. At most one command is under way.
//
// agent.cc has the messages, agent_round.cc what a round does, agent_view.cc how views change
// (docs/protocols/membership.md). Where AgentOptions.survives is false, views do not change.
//
// Where the job goes on without slow regions (sync.slow.policy quorum), TrainRound also ends when
// so many members have begun the reduction. Then this region takes part with nothing (LATE),
// commits the round and goes on training what it has, a contribution to the next round now; or, if
// somebody was late in the round before, contributes what it has.
//
// Invariants: a steady view needs no word from the orchestrator between kTraining and kLeaving; a
// stop (the orchestrator's, or a signal where views do not change) takes effect only through the
// notes of a round, so that all regions stop after the same one. After Fenced{f} nothing is
// reduced or committed before a view with an id of f or more.
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/digest.h"
#include "base/exit_code.h"
#include "proto/control.pb.h"
#include "proto/region.pb.h"
#include "proto/round_plan.h"
#include "worker/agent/outbox.h"

namespace atl {

// The path of a "checkpoint" that a region which was dropped still holds in memory: EnterView with
// it keeps the outer state that is there.
inline constexpr char kMemoryCheckpoint[] = "memory";

struct AgentOptions {
  pb::Hello hello;
  // The region knows the commands of changing views (Ready.survives).
  bool survives = false;
  double orchestrator_wait_seconds = 30;   // for the first Welcome
  double orchestrator_lost_seconds = 600;  // without a word where one is needed
  double leave_seconds = 20;               // a leaver waits this long for its release
  double wall_offset = 0;  // `now` of all calls + this: seconds since the Unix epoch
};

struct AgentExit {
  ExitCode code = ExitCode::kDone;
  std::string why;       // empty when all went well
  bool is_cause = true;  // false: follows from a failure elsewhere
};

// What is to be done on rank 0, beside the command under way.
struct AgentMend {
  pb::MendCheckpoint order;
  pb::View view;  // the present one
};

struct AgentActions {
  std::vector<pb::LeaderMessage> send;
  std::optional<pb::RegionCommand> run;
  // The command under way is EnterView, of a view that is no more or while a stop is wanted: give
  // up connecting.
  bool abandon_view = false;
  // The command under way ends as soon as it can (region.proto).
  bool interrupt = false;
  std::optional<AgentMend> mend;
  std::optional<AgentExit> exit;
  std::vector<std::string> say;  // for the log: state changes, waits
};

class Agent {
 public:
  enum class State {
    kGreeting,
    kSettingUp,
    kWaiting,
    kEntering,
    kPreparing,
    kSwitching,
    kTraining,
    kReducing,
    kCommitting,
    kSaving,
    kEvaluating,
    kHolding,
    kLeaving,
    kFailed,
    kOver
  };
  // How the control connection stands, as far as the protocol cares.
  enum class Link { kTrying, kUp, kKeyRejected };

  explicit Agent(AgentOptions options) : options_(std::move(options)) {}

  AgentActions Start(double now);
  AgentActions OnMessage(const pb::OrchestratorMessage& message, double now);
  // The answers of all ranks to the command under way, by rank.
  AgentActions OnAnswers(const std::vector<pb::RegionAnswer>& answers, double now);
  // A save that is, or will be, answered with `pending` has ended. In the order of the commands; a
  // quick one ends before its answer is here.
  AgentActions OnSaved(const pb::SaveEnded& ended, double now);
  // A checkpoint was mended or pushed, or could not be.
  AgentActions OnTended(pb::CheckpointTended tended, double now);
  // A signal, or whoever may ask this region to leave. Where views change the others go on.
  AgentActions OnStopRequested(const std::string& reason, double now);
  // A member that the command under way waits for has been silent for so long.
  AgentActions OnSilence(const std::string& region, double seconds, double now);
  // It is heard again, or no longer waited for.
  AgentActions OnHeardAgain(const std::string& region, double now);
  AgentActions OnLink(Link link, const std::string& text, double now);
  // Call at least once a second.
  AgentActions OnTick(double now);
  // Due every heartbeat_seconds() once greeted.
  pb::LeaderMessage Heartbeat(const std::string& doing, const pb::PhaseSeconds& phases,
                              const std::vector<pb::WanLink>& links = {}) const;

  State state() const { return state_; }
  int64_t round() const { return round_; }
  double heartbeat_seconds() const { return heartbeat_seconds_; }
  const pb::View& view() const { return view_; }
  // Newest committed here, and the digest after it; no state: has_state() is false.
  bool has_state() const { return has_state_; }
  int64_t committed() const { return committed_; }
  const std::string& digest() const { return digest_; }

 private:
  pb::LeaderMessage Greeting() const;
  void Report(pb::LeaderMessage message, double now, AgentActions* actions);
  void Run(State state, pb::RegionCommand command, AgentActions* actions);
  void Exit(ExitCode code, const std::string& why, bool is_cause, AgentActions* actions);
  void Fail(const std::string& what, ExitCode code, const std::string& blames, double now,
            AgentActions* actions);
  std::string DoingText() const;

  void Handle(const std::vector<pb::RegionAnswer>& answers, double now, AgentActions* actions);
  void OnWelcome(const pb::Welcome& welcome, AgentActions* actions);
  void OnView(const pb::View& view, double now, AgentActions* actions);
  void Enter(const pb::View& view, AgentActions* actions);
  void OnEnded(const pb::JobEnded& ended, AgentActions* actions);
  bool IsBeforeAnyView() const;
  // It connects to a view, and nothing would be lost if it gave that up.
  bool EntersWithoutState() const;
  void LeaveBeforeAnyView(const std::string& reason, double now, AgentActions* actions);
  void AfterSetUp(const std::vector<pb::RegionAnswer>& answers, double now, AgentActions* actions);
  void AfterEnterView(const std::vector<pb::RegionAnswer>& answers, double now,
                      AgentActions* actions);
  void SendReady(double now, AgentActions* actions);

  // agent_round.cc: what comes next, and what its answers mean.
  void Next(double now, AgentActions* actions);
  bool Finished() const;
  bool IsLastSave() const;  // of the job, for all that is known
  bool SaveOrEvaluate(AgentActions* actions);
  void BeginRound(double now);
  void Train(double now, AgentActions* actions);
  void Reduce(pb::ReduceRound::Mode mode, double now, AgentActions* actions);
  void Leave(double now, AgentActions* actions);
  void AfterTrain(const std::vector<pb::RegionAnswer>& answers, double now, AgentActions* actions);
  void AfterReduce(const std::vector<pb::RegionAnswer>& answers, double now, AgentActions* actions);
  void ReadNotes(const std::vector<pb::RoundNote>& notes);
  // What member `i` says of its contribution.
  void ReadContribution(int i, const pb::RoundNote& note, bool was_late);
  // Contributions that are enough for a round; 0: all.
  int Quorum() const;
  bool MayBeLate() const;
  // Another view: what it says of late members and parts of rounds begins anew.
  void ForgetLateness();
  // The round that is committed now, in which this region had no part.
  void ReportHeard(double now, AgentActions* actions);
  void ReportCommitted(const std::vector<pb::RegionAnswer>& answers, double now,
                       AgentActions* actions);
  void AfterCommit(const std::vector<pb::RegionAnswer>& answers, double now, AgentActions* actions);
  void AfterSave(const std::vector<pb::RegionAnswer>& answers, double now, AgentActions* actions);
  pb::CheckpointReport SaveReport() const;
  void TellSaves(double now, AgentActions* actions);
  void ReportSave(pb::CheckpointReport report, double now, AgentActions* actions);
  void AfterEvaluate(const std::vector<pb::RegionAnswer>& answers, double now,
                     AgentActions* actions);

  // agent_view.cc: where views change.
  void OnChangingView(const pb::View& view, double now, AgentActions* actions);
  void OnPlannedView(const pb::View& view, double now, AgentActions* actions);
  void OnFence(const pb::Fence& fence, double now, AgentActions* actions);
  void OnDropped(const pb::Dropped& dropped, double now, AgentActions* actions);
  void OnDrain(const pb::Drain& drain, double now, AgentActions* actions);
  // At the beginning of a round: is it the last one that fits before the lease ends?
  void WatchLease(double now, AgentActions* actions);
  // Who has left does not wait for its release any longer.
  bool LeaseIsOver(double now) const;
  void AnswerFence(double now, AgentActions* actions);
  bool Held() const;
  bool Observes() const;
  // In no view yet, or in a planned one that has not begun for all it knows.
  bool IsNewcomer() const;
  bool IsPreparedFor(const pb::View& view) const;
  // True if a command of the change of views was begun.
  bool ChangeView(double now, AgentActions* actions);
  void LosePlace(double now, AgentActions* actions);
  void SwitchTo(const pb::View& view, AgentActions* actions);
  void RunReduction(pb::ReduceRound::Mode mode, int64_t round, AgentActions* actions);
  void AfterSwitch(const std::vector<pb::RegionAnswer>& answers, double now, AgentActions* actions);
  // What was trained for the round that is taken now is this region's part of the one after it.
  bool TrainedForNext() const;
  void AfterHanding(const std::vector<pb::RegionAnswer>& answers, double now,
                    AgentActions* actions);
  void AfterObserve(const std::vector<pb::RegionAnswer>& answers, AgentActions* actions);
  void AfterObservedCommit(const std::vector<pb::RegionAnswer>& answers, double now,
                           AgentActions* actions);
  // A reduction or connection broke that nobody here interrupted.
  void Broken(const pb::RegionAnswer& answer, double now, AgentActions* actions);
  void Interrupt(AgentActions* actions);
  void TakeEdge();
  void ListMemory();
  void Rejoin(double now, AgentActions* actions);

  const AgentOptions options_;
  State state_ = State::kGreeting;
  bool busy_ = false;         // a command is under way
  bool interrupted_ = false;  // and was asked to end
  Outbox outbox_;
  double started_at_ = 0;
  double hello_at_ = 0;
  double heard_at_ = 0;  // from the orchestrator, anything
  double heartbeat_seconds_ = 1;
  Link link_ = Link::kTrying;
  std::string link_text_;
  double link_since_ = 0;
  std::optional<std::string> stop_reason_;  // wanted here; not yet agreed
  bool stopping_ = false;                   // agreed through a round's notes

  pb::Job job_;
  pb::Ready ready_;
  pb::View view_;
  std::optional<pb::View> next_view_;  // takes over as soon as it can
  pb::View switching_;                 // that SwitchView was given last
  int64_t round_ = 0;                  // under way, or committed_
  int64_t committed_ = 0;
  bool has_state_ = false;
  bool saved_ = false;  // committed_ is on disk, or need not be
  bool evaluated_ = false;
  std::deque<pb::CheckpointReport> pending_saves_;  // being written; as they will be reported
  std::deque<pb::SaveEnded> ended_saves_;           // whose answers are still on their way
  int64_t skipped_saves_ = 0;
  double round_started_at_ = 0;
  double reduce_started_at_ = 0;
  double train_started_at_ = 0;
  RoundPlan plan_;          // of round committed_ + 1, once it has begun
  int64_t steps_done_ = 0;  // of it
  bool begun_ = false;
  // A reduction was begun with it. Somebody may know what was in it: it stays as it is, though that
  // one was cut short and there would be time to train.
  bool offered_ = false;
  pb::RoundReport report_;  // of round committed_ + 1, filled in as it goes
  pb::RoundReport heard_;   // of the newest round in which this region had no part
  std::string digest_;      // of the outer state now
  double failed_at_ = 0;
  AgentExit failure_;

  // Where views change.
  std::map<int64_t, pb::View> planned_;  // that may follow view_
  int64_t preparing_ = 0;                // newest view that PrepareView was given
  int64_t prepared_ = 0;
  int64_t floor_ = 0;        // views up to here hold no longer
  int64_t fence_ = 0;        // newest that was asked for
  int64_t fenced_ = 0;       // newest that was answered
  int64_t position_ = 0;     // reductions done in view_
  int64_t broken_view_ = 0;  // could not be connected
  bool broken_ = false;      // the round waits for another view
  bool handed_ = false;      // the result that the view hands on is handed on
  int64_t abandoned_ = 0;    // a planned view that was left before it had begun
  bool rejoin_ = false;      // dropped: says Ready once the command under way has ended
  bool heard_any_ = false;   // an observer has heard a result in this view
  bool caught_up_ = false;
  pb::ReduceRound::Mode mode_ = pb::ReduceRound::CONTRIBUTE;
  double lease_end_ = 0;       // Unix epoch; 0: open
  double round_began_ = 0;     // the newest one, and
  double round_seconds_ = 0;   // from one to the next, with what lies between: the longest of late
  bool leave_wanted_ = false;  // this region, alone
  bool leave_after_round_ = false;
  bool left_round_ = false;  // the notes of committed_ say that it was our last
  double left_at_ = 0;
  int64_t result_tokens_ = 0;  // of round committed_
  int64_t result_expected_ = 0;
  int64_t edge_view_ = 0;             // the notes of the round agree on it
  ShortContributions short_;          // of the newest round that was reduced in view_
  std::vector<PartOfRound> parts_;    // of all rounds of view_, where less than the plan's counts
  std::set<std::string> late_;        // members that were late in the newest round of view_
  bool quorum_begun_ = false;         // the others have begun; inner steps were ended for that
  bool keeps_training_ = false;       // the commit under way leaves what was trained as it is
  bool carries_late_ = false;         // plan_ is of the round before, which went on without us
  std::vector<std::string> leaving_;  // likewise
  std::set<std::string> suspected_;   // in this round
  std::vector<pb::RoundNote> notes_;  // of the round that is being committed
};

}  // namespace atl
