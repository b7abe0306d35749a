// Reports of a leader to the orchestrator: numbered, sent at once, and sent again in order until
// acknowledged.
#pragma once

#include <deque>
#include <vector>

#include "proto/control.pb.h"

namespace atl {

class Outbox {
 public:
  // Numbers the message and keeps it until acknowledged; returns it as it is to be sent.
  const pb::LeaderMessage& Add(pb::LeaderMessage message, double now);
  void Acknowledge(uint64_t sequence);
  // The number of the oldest that waits, or of the next one.
  uint64_t first() const { return waiting_.empty() ? next_ : waiting_.front().sequence(); }
  bool empty() const { return waiting_.empty(); }
  size_t size() const { return waiting_.size(); }
  // All that wait, oldest first, if the oldest was last sent `kResendSeconds` ago or earlier.
  std::vector<pb::LeaderMessage> Due(double now);

  static constexpr double kResendSeconds = 2;

 private:
  uint64_t next_ = 1;
  double sent_at_ = 0;
  std::deque<pb::LeaderMessage> waiting_;
};

}  // namespace atl
