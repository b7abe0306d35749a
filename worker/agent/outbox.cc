#include "worker/agent/outbox.h"

#include <utility>

namespace atl {

const pb::LeaderMessage& Outbox::Add(pb::LeaderMessage message, double now) {
  message.set_sequence(next_++);
  if (waiting_.empty()) sent_at_ = now;
  waiting_.push_back(std::move(message));
  return waiting_.back();
}

void Outbox::Acknowledge(uint64_t sequence) {
  while (!waiting_.empty() && waiting_.front().sequence() <= sequence) waiting_.pop_front();
}

std::vector<pb::LeaderMessage> Outbox::Due(double now) {
  if (waiting_.empty() || now - sent_at_ < kResendSeconds) return {};
  sent_at_ = now;
  return {waiting_.begin(), waiting_.end()};
}

}  // namespace atl
