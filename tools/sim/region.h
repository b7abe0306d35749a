// A region as a process: its agent, unchanged, and a model of what its workers do for each command
// (proto/region.proto). The outer state is a number that follows from the one before and from the
// sum of contributions, and a contribution from the samples that were really trained; so two states
// are the same only if they were made of the same.
// region.cc is the process and its agent, the others what the agent has it do: region_views.cc,
// region_rounds.cc, region_disk.cc.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tools/sim/sea.h"
#include "worker/agent/agent.h"

namespace atl::sim {

class World;

class Region {
 public:
  Region(World* world, int index);

  void Start();
  void Crash(double seconds_away, bool loses_disk);
  void Pause(double seconds);
  void Leave();
  void SetSlow(double factor) { slow_ = factor; }
  // The next state that it makes is damaged.
  void Damage() { damage_ = true; }
  bool IsDamaged() const { return memory_.damaged; }
  // The next start's site takes everything back after so long.
  void SetLease(double seconds) { lease_seconds_ = seconds; }

  bool alive() const { return agent_ != nullptr; }
  bool IsRunning() const { return agent_ != nullptr && world_time() >= paused_until_; }
  int64_t life() const { return life_; }
  // Of the view that it waits to be connected to; 0: none.
  int64_t joining() const { return joining_; }
  const Agent* agent() const { return agent_.get(); }
  const std::string& name() const { return name_; }
  bool IsMemberWithState() const;
  std::string Describe() const;

  // From the network and the sea.
  void OnMessage(int64_t life, const pb::OrchestratorMessage& message);
  void OnReduced(ResultPtr result, const std::vector<pb::RoundNote>& notes);
  void OnBroken(const std::string& by, bool gone, const std::string& what);
  void OnSilence(const std::string& whom, double seconds);
  void OnHeardAgain(const std::string& whom);

 private:
  // In memory.
  struct Memory {
    bool has_state = false;
    bool damaged = false;
    int64_t round = 0;
    std::string digest;
    int64_t view = 0;
    ResultPtr kept;     // of `round`, until the next one is there
    ResultPtr pending;  // reduced, not committed
    std::vector<pb::RoundNote> notes;
    int64_t training = 0;  // round of what follows
    std::vector<Range> trained;
    std::string trained_on;
    std::string before;      // the state that the newest result was applied to
    bool carries = false;    // what is trained is relative to `before`, not to the present state
    int64_t carried_in = 0;  // the view in which that began
    bool observes = false;
    std::vector<ResultPtr> heard;  // by an observer that has no state yet
    std::optional<std::pair<int64_t, std::string>> fetched;
    // Served to observers: the state before the view's first round.
    std::optional<std::pair<int64_t, std::string>> served;
    int64_t serves_round = -1;
    std::vector<std::pair<int64_t, int64_t>> preparing;  // (view, life of the preparation)
  };

  double world_time() const;
  double Clock() const;
  void Later(double seconds, std::function<void()> what);
  // A step of the agent, if the region runs.
  template <typename Step>
  void Do(Step step) {
    if (agent_ != nullptr) Apply(step(*agent_));
  }
  void Apply(AgentActions actions);
  void Tick();
  void Beat();
  double Calendar() const;
  void EndLease();
  void Die();

  void Run(const pb::RegionCommand& command);
  void Answer(pb::RegionAnswer answer);
  void Interrupt();
  void AnswerInterrupted(const std::string& what);
  void RunSetUp();
  void RunEnter(const pb::View& view);
  void RunSwitch(const pb::SwitchView& command);
  void AwaitJoined(int64_t view, std::function<void()> then);
  void RunTrain(const pb::TrainRound& command);
  void StepDone(int64_t step);
  void RunReduce(const pb::ReduceRound& command);
  void RunCommit(const pb::CommitRound& command);
  void RunSave(const pb::SaveCheckpoint& command);
  void AwaitWritten(int64_t command_number);
  void TellWritten();
  pb::CheckpointOnDisk Write();
  void CountCarried(const pb::ReduceRound& command);
  bool ApplyResult(const Result& result);
  void BeginFetch();
  void EndFetch();
  int64_t Prepared() const;

  World* const world_;
  const int index_;
  const std::string name_;
  const int workers_;
  double clock_rate_ = 1;
  double clock_offset_ = 0;
  double skew_ = 0;  // of its calendar
  std::unique_ptr<Agent> agent_;
  int64_t life_ = 0;
  double paused_until_ = 0;
  double slow_ = 1;
  bool damage_ = false;
  bool last_reduction_late_ = false;
  double lease_seconds_ = 0;
  std::vector<pb::CheckpointOnDisk> disk_;
  std::deque<pb::CheckpointOnDisk> unwritten_;  // saves under way behind training
  Memory memory_;

  std::optional<pb::RegionCommand> command_;
  int64_t command_number_ = 0;
  bool interrupt_ = false;
  int64_t joining_ = 0;
  int64_t fetch_number_ = 0;
  std::pair<int64_t, std::string> stale_;  // held as a member of a former view
};

}  // namespace atl::sim
