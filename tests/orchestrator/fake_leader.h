// A region without a model: speaks the control protocol over a real connection, in a thread of its
// own, and makes up digests and losses.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "control/client.h"

namespace atl {

class FakeLeader {
 public:
  struct Options {
    std::string address;
    Lease lease;
    std::vector<pb::CheckpointOnDisk> checkpoints;
    // After this round it reports no other until it is told to stop; 0: trains to the end.
    int64_t wait_after_round = 0;
    // Called from the leader's thread when it has got there.
    std::function<void()> on_waiting = [] {};
  };

  explicit FakeLeader(Options options);
  ~FakeLeader() { Join(); }
  // How the job ended, as it was told; nothing if it was refused or not told within 30 s.
  const std::optional<pb::JobEnded>& Join();
  const std::string& refused() const { return refused_; }

 private:
  void Run();
  void Take(const pb::OrchestratorMessage& message);
  void Report(pb::LeaderMessage message);
  void TrainAsFarAsPossible();
  void Leave();

  const Options options_;
  std::unique_ptr<ControlClient> client_;
  pb::Job job_;
  pb::View view_;
  bool welcomed_ = false;
  bool stop_ = false;
  bool left_ = false;
  int64_t round_ = 0;
  uint64_t sequence_ = 0;
  std::map<uint64_t, pb::LeaderMessage> outbox_;
  std::optional<pb::JobEnded> ended_;
  std::string refused_;
  std::thread thread_;
};

}  // namespace atl
