#include "collectives/wan/channel.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"

namespace atl::wan {
namespace {

constexpr double kPingSeconds = 0.5;
constexpr double kPauseSeconds = 0.5;
constexpr double kStuckRoundTrips = 10;
constexpr double kWordRoundTrips = 3;
constexpr double kLossy = 5e-5;
constexpr double kLossSample = 1e6;  // bytes
constexpr double kDeliversAll = 0.985;
// Signs of a full line.
constexpr double kFullLosses = 2e-3;
constexpr double kFullSeconds = 5e-3;
constexpr double kSteadyRoundTrips = 6;
constexpr double kFullRoundTrips = 0.06;
// A rate that is this share of the pacing says nothing about the line (link_model.cc).
constexpr double kNeither = 0.96;
constexpr double kBaseMemory = 0.02;
constexpr double kWindowSeconds = 0.1;
// With less each, numbers wait on a slow link while others have none.
constexpr double kLeastLinkRate = 5e5;
// Less than that in the kernel may be acknowledgements and the like.
constexpr uint64_t kUnsentBytes = 8 << 10;
constexpr double kWindowRoundTrips = 2;
// Status: what counts as sending (pings do not), and how long it is remembered.
constexpr double kSendingBytes = 4096;
constexpr double kSendingSeconds = 30;

}  // namespace

// ---- links

void Channel::Attach(Link* link, double now) {
  link->heard = link->attached = now;
  links_.push_back(link);
  if (pace_ > 0) Pace(pace_);
}

void Channel::Detach(Link* link, double now) {
  if (std::erase(links_, link) == 0) return;
  heard_before_ = std::max(heard_before_, std::min(link->heard, now));
  seen_.erase(link);
  for (auto& [sequence, sent] : sent_) {
    if (sent.link != link) continue;
    sent.link = nullptr;
    ++(sent.held != nullptr ? lost_held_ : lost_);
  }
  ack_due_ = true;
  word_due_ = lost_held_ > 0;
  word_by_ = 0;
  if (pace_ > 0) Pace(pace_);
}

void Channel::Restart() {
  for (Link* const link : links_) link->Detach();
  sent_.clear();
  lost_ = lost_held_ = 0;
  kept_bytes_ = held_bytes_ = 0;
  next_ = 1;
  below_ = 1;
  beyond_.clear();
  ack_due_ = word_due_ = false;
}

// ---- sending

void Channel::Remember(Link* link, const FrameHeader& header, Sent sent) {
  sent.header = header;
  sent.link = link;
  kept_bytes_ += sent.bytes.size();
  if (sent.held != nullptr) held_bytes_ += header.payload;
  sent_[header.sequence] = std::move(sent);
}

void Channel::AppendStart(Link* link, const std::shared_ptr<const StartFrame>& start) {
  if (start == nullptr || !link->announced.insert(start->header.operation).second) return;
  // Operations rise; what is long past is not asked for again.
  while (link->announced.size() > 4096) link->announced.erase(link->announced.begin());
  link->Append(start->header, start->payload);
}

void Channel::SendStart(Link* link, std::shared_ptr<const StartFrame> start) {
  AppendStart(link, start);
  Sent sent;
  sent.bytes = start->payload;
  Remember(link, start->header, std::move(sent));
}

void Channel::SendBytes(Link* link, FrameHeader header, std::vector<uint8_t> payload,
                        std::shared_ptr<const StartFrame> start) {
  AppendStart(link, start);
  header.payload = static_cast<uint32_t>(payload.size());
  if (header.sequence == 0) Number(&header);
  link->Append(header, payload);
  Sent sent;
  sent.bytes = std::move(payload);
  sent.start = std::move(start);
  Remember(link, header, std::move(sent));
}

Link* Channel::LeastBusy() const {
  Link* best = nullptr;
  for (Link* const link : links_) {
    if (!link->ready() || link->bye_sent) continue;
    if (best == nullptr || link->unsent() < best->unsent()) best = link;
  }
  return best;
}

bool Channel::SendSmall(FrameHeader header, std::vector<uint8_t> payload) {
  Link* const best = LeastBusy();
  if (best != nullptr) {
    SendBytes(best, header, std::move(payload));
    return true;
  }
  // With the next link.
  header.payload = static_cast<uint32_t>(payload.size());
  Number(&header);
  Sent sent;
  sent.bytes = std::move(payload);
  Remember(nullptr, header, std::move(sent));
  ++lost_;
  return false;
}

void Channel::SendPiece(Link* link, FrameHeader header, PieceSource* source,
                        const Reduction::Piece& piece, Bytes in_place,
                        std::shared_ptr<const StartFrame> start) {
  AppendStart(link, start);
  Number(&header);
  Sent sent;
  sent.source = source;
  sent.piece = piece;
  sent.start = std::move(start);
  if (!in_place.empty()) {
    link->AppendInPlace(header, in_place);
  } else {
    source->Rewrite(piece, link->BeginFrame(header));
    link->FinishFrame();
  }
  Remember(link, header, std::move(sent));
}

void Channel::SendHeld(Link* link, FrameHeader header, std::shared_ptr<const uint8_t[]> bytes) {
  Number(&header);
  link->AppendInPlace(header, Bytes(bytes.get(), header.payload));
  Sent sent;
  sent.held = std::move(bytes);
  Remember(link, header, std::move(sent));
}

bool Channel::AppendLost(Link* link, bool held) {
  size_t& lost = held ? lost_held_ : lost_;
  if (lost == 0) return false;
  if (held && word_due_) {
    const double now = Clock::Real()->MonotonicSeconds();
    if (word_by_ == 0) word_by_ = now + std::max(kWordSeconds, kWordRoundTrips * rtt_);
    if (now < word_by_) return false;
    word_due_ = false;
  }
  for (auto& [sequence, sent] : sent_) {
    if (sent.link != nullptr || (sent.held != nullptr) != held) continue;
    AppendStart(link, sent.start);
    if (sent.source != nullptr) {
      sent.source->Rewrite(sent.piece, link->BeginFrame(sent.header));
      link->FinishFrame();
    } else if (held) {
      link->AppendInPlace(sent.header, Bytes(sent.held.get(), sent.header.payload));
    } else {
      link->Append(sent.header, sent.bytes);
    }
    sent.link = link;
    --lost;
    return true;
  }
  lost = 0;
  return false;
}

void Channel::AppendAck(Link* link) {
  Ack ack;
  ack.below = below_;
  for (const auto& [begin, end] : beyond_) {
    if (ack.ranges.size() == kMaxAckRanges) break;
    ack.ranges.push_back({static_cast<int64_t>(begin), static_cast<int64_t>(end)});
  }
  const std::vector<uint8_t> bytes = EncodeAck(ack);
  FrameHeader header;
  header.type = FrameType::kAck;
  header.payload = static_cast<uint32_t>(bytes.size());
  link->Append(header, bytes);
  link->ack_wanted = false;
  ++link->unsent_acks;
  ack_due_ = false;
}

void Channel::Keep(PieceSource* source) {
  for (Link* const link : links_) link->Detach();
  for (auto& [sequence, sent] : sent_) {
    if (sent.source != source) continue;
    sent.bytes.resize(sent.header.payload);
    source->Rewrite(sent.piece, sent.bytes.data());
    sent.source = nullptr;
    kept_bytes_ += sent.bytes.size();
  }
}

void Channel::Forget(std::map<uint64_t, Sent>::iterator at) {
  const Sent& sent = at->second;
  if (sent.link == nullptr) --(sent.held != nullptr ? lost_held_ : lost_);
  kept_bytes_ -= sent.bytes.size();
  if (sent.held != nullptr) held_bytes_ -= sent.header.payload;
  sent_.erase(at);
}

// ---- receiving

bool Channel::Taken(uint64_t sequence) const {
  if (sequence < below_) return true;
  const auto after = beyond_.upper_bound(sequence);
  return after != beyond_.begin() && std::prev(after)->second > sequence;
}

void Channel::Take(uint64_t sequence) {
  ack_due_ = true;
  auto after = beyond_.upper_bound(sequence);
  uint64_t begin = sequence, end = sequence + 1;
  if (after != beyond_.begin()) {
    const auto before = std::prev(after);
    if (before->second == sequence) {
      begin = before->first;
      beyond_.erase(before);
    }
  }
  if (after != beyond_.end() && after->first == end) {
    end = after->second;
    beyond_.erase(after);
  }
  if (begin == below_) {
    below_ = end;
  } else {
    beyond_[begin] = end;
  }
}

Status Channel::OnAck(const Ack& ack) {
  word_due_ = false;
  const uint64_t last = ack.ranges.empty() ? ack.below : ack.ranges.back().end;
  if (last > next_) return absl::InvalidArgumentError("it acknowledged what was never sent");
  while (!sent_.empty() && sent_.begin()->first < ack.below) Forget(sent_.begin());
  for (const Range& range : ack.ranges) {
    auto at = sent_.lower_bound(static_cast<uint64_t>(range.begin));
    while (at != sent_.end() && at->first < static_cast<uint64_t>(range.end)) Forget(at++);
  }
  return OkStatus();
}

// ---- silence

double Channel::heard() const {
  double heard = heard_before_;
  for (const Link* const link : links_) heard = std::max(heard, link->heard);
  return heard;
}

void Channel::Expect(double now) {
  if (expecting_since_ == 0) expecting_since_ = now;
}

double Channel::silent_seconds(double now) const {
  if (expecting_since_ == 0) return 0;
  return std::max(0.0, now - std::max(heard(), expecting_since_));
}

bool Channel::Ping(double now, double quiet_seconds) {
  bool any = false;
  for (Link* const link : links_) {
    // We do not read on a link whose frame waits for its operation: no answer would be seen.
    if (link->heard > link->pinged || link->stalled()) link->pinged = 0;
    if (link->stalled()) continue;
    const double quiet = now - std::max(link->heard, expecting_since_);
    if (!link->ready() || link->bye_sent || link->unsent() > 0 || quiet < 0.9 * quiet_seconds ||
        now - link->last_ping < 0.9 * quiet_seconds) {
      continue;
    }
    FrameHeader header;
    header.type = FrameType::kPing;
    link->Append(header, {});
    link->last_ping = now;
    if (link->pinged == 0) link->pinged = now;
    any = true;
  }
  return any;
}

bool Channel::Reassure(double now) {
  bool any = false;
  for (const Link* const link : links_) any = any || link->stalled();
  if (!any || now - reassured_at_ < kPingSeconds) return any;
  reassured_at_ = now;
  for (Link* const link : links_) link->ack_wanted = link->ack_wanted || link->stalled();
  return any;
}

std::vector<Link*> Channel::Stuck(double now) const {
  std::vector<Link*> stuck;
  for (const auto& [link, seen] : seen_) {
    const double patience = kStuckRoundTrips * seen.state.rtt_seconds;
    const bool mute = link->pinged > link->heard && !link->stalled() &&
                      now - link->pinged > std::max(kLinkSilentSeconds - kPingSeconds, patience);
    if (mute || now - seen.moved_at > std::max(kLinkSilentSeconds, patience)) {
      stuck.push_back(link);
    }
  }
  return stuck;
}

// ---- rate

void Channel::Sample() {
  // Of this moment: the caller's may be some milliseconds old on a loaded machine.
  const double now = Clock::Real()->MonotonicSeconds();
  double acked = 0, sent = 0, again = 0, under_way = 0, smooth = 0, fresh_smooth = 0, least = 0;
  size_t with_unsent = 0;
  bool awaits_room = false;
  for (Link* const link : links_) {
    if (!link->ready()) continue;
    const StatusOr<TcpState> state = link->Tcp();
    if (!state.ok()) continue;
    if (state->bytes_unsent >= kUnsentBytes && Uses(link)) ++with_unsent;
    awaits_room = awaits_room || link->awaits_room();
    const auto [at, fresh] = seen_.try_emplace(link, Seen{*state, now});
    if (fresh) acked_ += static_cast<int64_t>(state->bytes_acked);
    if (!fresh) {
      const TcpState& before = at->second.state;
      const uint64_t moved = state->bytes_acked - before.bytes_acked;
      acked_ += static_cast<int64_t>(moved);
      if (moved > 0) fresh_smooth = std::max(fresh_smooth, state->rtt_seconds);
      acked += std::max(0.0, state->bytes_delivered - before.bytes_delivered);
      sent += static_cast<double>(state->bytes_sent - before.bytes_sent);
      again += static_cast<double>(state->bytes_retransmitted - before.bytes_retransmitted);
      const double waits = static_cast<double>(state->bytes_sent - state->bytes_retransmitted) -
                           static_cast<double>(state->bytes_acked);
      under_way += std::max(0.0, waits);
      // After a pause without samples nothing is known of what moved meanwhile.
      if (moved > 0 || waits <= 0 || now - sampled_at_ > kPauseSeconds) at->second.moved_at = now;
      at->second.state = *state;
    }
    smooth = std::max(smooth, state->rtt_seconds);
    if (state->min_rtt_seconds > 0 && (least == 0 || state->min_rtt_seconds < least)) {
      least = state->min_rtt_seconds;
    }
  }
  sent_bytes_ += sent;
  retransmitted_ += again;
  if (smooth > 0) rtt_ = smooth;
  if (fresh_smooth > 0) fresh_rtt_ = fresh_smooth;
  if (least > 0) min_rtt_ = least;
  if (smooth > 0 && (base_rtt_ == 0 || smooth < base_rtt_)) base_rtt_ = smooth;
  const double elapsed = now - sampled_at_;
  sampled_at_ = now;
  if (elapsed > 0 && elapsed < 1) {
    // Over about a second.
    const double weight = std::min(1.0, elapsed);
    recent_rate_ += weight * (acked / elapsed - recent_rate_);
  } else {
    recent_rate_ = 0;
  }
  delivered_ += acked;
  if (elapsed < 1 && acked + under_way > kSendingBytes) {
    const double kept = std::exp(-elapsed / kSendingSeconds);
    sending_ = {kept * sending_.seconds + elapsed, kept * sending_.delivered + acked,
                kept * sending_.sent + sent, kept * sending_.retransmitted + again};
  }
  // What is left of a short vector may all wait in the kernel; while all links have some, all that
  // the channel may send goes out.
  if (!awaits_room && (with_unsent == 0 || with_unsent < Used())) {
    busy_since_ = 0;
    window_.clear();
    return;
  }
  if (busy_since_ == 0) busy_since_ = now;
  // Before the first acknowledgements can be here the pipe is filling: no sign of its width.
  if (now - busy_since_ < 1.25 * rtt_ + elapsed && !burst_) return;
  busy_seconds_ += elapsed;
  queue_sum_ += std::max(0.0, rtt_ - base_rtt_);
  ++queue_samples_;
  window_.emplace_back(now, delivered_);
  const double window = std::max(kWindowSeconds, kWindowRoundTrips * min_rtt_);
  while (window_.size() > 1 && window_[1].first <= now - window) window_.pop_front();
  const auto [then, before] = window_.front();
  if (now - then >= window) window_rates_.push_back((delivered_ - before) / (now - then));
}

LinkReport Channel::Report() {
  LinkReport report;
  report.from = self_;
  report.to = member_;
  report.paced_rate = pace_ > 0 && pace_ < 1e18 ? pace_ : 0;
  report.retransmitted = sent_bytes_ > 0 ? retransmitted_ / sent_bytes_ : 0;
  if (!burst_ && sent_bytes_ > kLossSample) lossy_ = report.retransmitted > kLossy;
  report.rtt_seconds = min_rtt_;
  report.queue_seconds = queue_samples_ > 0 ? queue_sum_ / queue_samples_ : 0;
  report.reachable = up();
  if (!window_rates_.empty()) {
    // Of a probe the first half is the slow start. Not the best moment of the rest, because
    // those who share a line have theirs one after the other.
    if (burst_) {
      window_rates_.erase(window_rates_.begin(),
                          window_rates_.begin() + static_cast<int64_t>(window_rates_.size() / 2));
    }
    std::sort(window_rates_.begin(), window_rates_.end());
    const size_t last = window_rates_.size() - 1;
    const double rate = window_rates_[last * 3 / 4];
    report.busy_seconds = busy_seconds_;
    report.acked_bytes = busy_seconds_ * rate;
    // A connection that was held back needs round trips to grow; round trips that are longer for a
    // moment are no queue yet.
    const bool steady = burst_ || busy_seconds_ > kSteadyRoundTrips * min_rtt_;
    const bool full =
        report.retransmitted > kFullLosses ||
        (steady && report.queue_seconds > std::max(kFullSeconds, kFullRoundTrips * base_rtt_));
    if (rate > kDeliversAll * report.paced_rate) {
      // A line that delivers all that it is given is not full, whatever the round trip says: other
      // traffic stands in queues too.
      report.queue_seconds = 0;
    } else if (report.paced_rate > 0 && !full) {
      report.paced_rate = rate / kNeither;
    }
    // Routes change: the shortest round trip is slowly forgotten.
    base_rtt_ += kBaseMemory * report.queue_seconds;
  }
  pace_gain_.Observe(report);
  burst_ = false;
  ForgetSamples();
  return report;
}

void Channel::ForgetSamples() {
  window_rates_.clear();
  window_.clear();
  busy_seconds_ = queue_sum_ = retransmitted_ = sent_bytes_ = 0;
  queue_samples_ = 0;
}

void Channel::Unpace() {
  for (Link* const link : links_) link->Pace(std::numeric_limits<double>::infinity());
}

void Channel::Pace(double bytes_per_second) {
  pace_ = bytes_per_second;
  const double most = std::clamp<double>(bytes_per_second / kLeastLinkRate, 1, kMaxStreams);
  most_by_pace_ = static_cast<size_t>(most);
  const size_t used = Used();
  for (size_t i = 0; i < used; ++i) {
    links_[i]->Pace(bytes_per_second / static_cast<double>(used));
  }
}

size_t Channel::Used() const { return std::min({use_, most_by_pace_, links_.size()}); }

void Channel::UseLinks(int links) { use_ = static_cast<size_t>(std::max(1, links)); }

bool Channel::Uses(const Link* link) const {
  const auto end = links_.begin() + static_cast<int64_t>(Used());
  return std::find(links_.begin(), end, link) != end;
}

}  // namespace atl::wan
