// The shell around a region's agent: real sockets and clocks for the pure state machine.
//
// Two threads. The caller's runs the event loop: control messages, answers, signals and time go
// into the agent, its messages go out. The other carries out the agent's commands, one at a time,
// with all ranks of the region; only it uses the trainer and the communicator meanwhile.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "control/client.h"
#include "worker/agent/agent.h"
#include "worker/program/commands.h"

namespace atl {

class Leader {
 public:
  // All pointers outlive it. `stop_signal` returns the name of a signal that asks to stop, or null.
  Leader(AgentOptions options, ControlClient* client, RegionWorker* worker, Communicator* control,
         AbortRegion abort, std::function<const char*()> stop_signal);
  ~Leader();

  // Until the region's part is over. `*region_ended` tells whether the ranks got Finish: if not (a
  // command is stuck), the process has to end the region by force.
  AgentExit Run(bool* region_ended);

 private:
  void Apply(AgentActions actions);
  void CommandThread();
  void Submit(pb::RegionCommand command);
  bool FinishRegion(ExitCode code);
  void TellSilence(double now);
  void SendHeartbeat(double now);
  pb::LeaderMessage CurrentHeartbeat() const;

  Agent agent_;
  ControlClient* const client_;
  RegionWorker* const worker_;
  Communicator* const control_;
  const AbortRegion abort_;
  const std::function<const char*()> stop_signal_;
  std::optional<AgentExit> exit_;
  double heartbeat_at_ = 0;
  std::map<std::string, double> silent_;  // as last told
  int64_t submitted_ = 0;                 // commands, as the worker counts them

  Mutex mutex_;
  CondVar changed_;
  std::optional<pb::RegionCommand> command_
      ABSL_GUARDED_BY(mutex_);  // to be carried out or under way
  std::deque<StatusOr<std::vector<pb::RegionAnswer>>> answers_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace atl
