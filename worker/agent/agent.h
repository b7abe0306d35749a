// The protocol of a region's leader as a pure state machine: events and the time go in, messages,
// one command to the region and at last an exit come out. No sockets, threads, clocks or files: the
// leader's shell (worker/program/leader.h) drives it with real ones, a simulator with made-up ones.
//
//   state        what is done            what ends it -> the next state
//   kGreeting    Hello, repeated         Welcome -> kSettingUp
//   kSettingUp   command SetUp           answers: Ready is sent -> kWaiting
//   kWaiting     for a view              View -> kEntering
//   kEntering    command EnterView       well -> kEvaluating (before round 1), kTraining
//                                        a stop: abandon it; if that came before all stood -> kOver
//                                        checkpoint unusable: Ready with the reason -> kWaiting
//                                        a newer View: abandon this one, then -> kEntering
//   kTraining    command TrainRound      answers -> kReducing
//   kReducing    command ReduceRound     answers -> kCommitting
//   kCommitting  command CommitRound     answers: RoundReport -> what is due
//   kSaving      command SaveCheckpoint  answers: CheckpointReport -> what is due
//   kEvaluating  command Evaluate        answers: EvaluationReport -> what is due
//   kLeaving     Left                    JobEnded -> kOver
//   kFailed      Fault                   JobEnded, or too long -> kOver
// What is due after a round: kSaving, kEvaluating, then kTraining or, at the end, kLeaving. From
// any state: Refused or JobEnded -> kOver; a failed answer -> kFailed. At most one command is under
// way.
//
// Invariants: a steady view needs no word from the orchestrator between kTraining and kLeaving; a
// stop (signal here or anywhere, or the orchestrator's Stop) takes effect only through the notes of
// a round, so that all regions stop after the same one.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/digest.h"
#include "base/exit_code.h"
#include "proto/control.pb.h"
#include "proto/region.pb.h"
#include "worker/agent/outbox.h"

namespace atl {

struct AgentOptions {
  pb::Hello hello;
  double orchestrator_wait_seconds = 30;   // for the first Welcome
  double orchestrator_lost_seconds = 600;  // without a word where one is needed
};

struct AgentExit {
  ExitCode code = ExitCode::kDone;
  std::string why;       // empty when all went well
  bool is_cause = true;  // false: follows from a failure elsewhere
};

struct AgentActions {
  std::vector<pb::LeaderMessage> send;
  std::optional<pb::RegionCommand> run;
  // The command under way is EnterView, of a view that is no more or while a stop is wanted: give
  // up connecting.
  bool abandon_view = false;
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
    kTraining,
    kReducing,
    kCommitting,
    kSaving,
    kEvaluating,
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
  AgentActions OnStopRequested(const std::string& reason, double now);
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

 private:
  pb::LeaderMessage Greeting() const;
  void Report(pb::LeaderMessage message, double now, AgentActions* actions);
  void LeaveBeforeFirstRound(double now, AgentActions* actions);
  void Run(State state, pb::RegionCommand command, AgentActions* actions);
  void Fail(const std::string& what, ExitCode code, const std::string& blames, double now,
            AgentActions* actions);
  void Exit(ExitCode code, const std::string& why, bool is_cause, AgentActions* actions);

  void OnWelcome(const pb::Welcome& welcome, AgentActions* actions);
  void OnView(const pb::View& view, double now, AgentActions* actions);
  void Enter(const pb::View& view, AgentActions* actions);
  void OnEnded(const pb::JobEnded& ended, AgentActions* actions);
  void AfterSetUp(const std::vector<pb::RegionAnswer>& answers, double now, AgentActions* actions);
  void AfterEnterView(const std::vector<pb::RegionAnswer>& answers, double now,
                      AgentActions* actions);
  void AfterTrain(const std::vector<pb::RegionAnswer>& answers, double now, AgentActions* actions);
  void AfterReduce(const std::vector<pb::RegionAnswer>& answers, double now, AgentActions* actions);
  void AfterCommit(const std::vector<pb::RegionAnswer>& answers, double now, AgentActions* actions);
  void AfterSave(const std::vector<pb::RegionAnswer>& answers, double now, AgentActions* actions);
  void AfterEvaluate(const std::vector<pb::RegionAnswer>& answers, double now,
                     AgentActions* actions);
  // What comes after round `round_` is committed, saved and evaluated, each as far as it is due.
  void Continue(double now, AgentActions* actions);
  void SendReady(double now, AgentActions* actions);

  const AgentOptions options_;
  State state_ = State::kGreeting;
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
  std::optional<pb::View> next_view_;  // came while entering view_
  int64_t round_ = 0;                  // under way, or last committed once kCommitting is over
  bool saved_ = false;                 // round_ is on disk, or need not be
  bool evaluated_ = false;
  double round_started_at_ = 0;
  double reduce_started_at_ = 0;
  pb::RoundReport report_;  // of round_, filled in as it goes
  std::string digest_;      // of the outer state now
  double failed_at_ = 0;
  AgentExit failure_;
};

}  // namespace atl
