// Members of a group that are silent, lost or leave, and what happens by the clock (group.h).
#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/units.h"
#include "collectives/wan/group.h"

namespace atl::wan {
namespace {

// While something is under way; and while something may soon be.
constexpr double kTickSeconds = 0.02;
constexpr double kPingSeconds = 0.5;
constexpr double kIdleTickSeconds = 0.25;
// A link that rests is pinged so often: firewalls remember it, and BBR, which measures the round
// trip anew when its last measurement is 10 s old, does that now and not in the next operation.
constexpr double kRestPingSeconds = 1;
// A gateway that breaks the rules so often is not merely behind a bad line.
constexpr int kMaxBreaches = 8;
constexpr double kForgiveSeconds = 60;
// A connection that breaks sooner, and sooner than after so many round trips, makes the next call
// wait, longer each time.
constexpr double kLastingSeconds = 0.5;
constexpr double kLastingRoundTrips = 5;
// Ticks go on for so long after the last operation, to acknowledge and to let go.
constexpr double kLingerSeconds = 2;

double Now() { return Clock::Real()->MonotonicSeconds(); }

}  // namespace

Status GroupState::PeerError(int member, const std::string& message, const char* evidence) const {
  Status status = absl::UnavailableError(message);
  status.SetPayload(kPeerPayload, absl::Cord(group_.names[member]));
  status.SetPayload(kEvidencePayload, absl::Cord(evidence));
  return status;
}

void GroupState::Break(int member, const std::string& message, const char* evidence) {
  const Status status = PeerError(member, message, evidence);
  if (group_.transfers_only) return EndTransfers(member, status);
  if (broken_.ok()) {
    LOG(WARNING) << Place() << " is broken: " << message;
    broken_ = status;
    broken_by_ = member;
    broken_at_ = Now();
  }
  if (joining_) hooks_.joined(status);
  const Reason reason = {ReasonCode::kLost, message, member};
  for (const Waiting& waiting : waiting_) waiting.handle->Finish(status);
  waiting_.clear();
  while (!exchanges_.empty()) Fail(exchanges_.begin()->first, status, &reason);
  fetching_.EndAll(broken_, Now());
  resume_ = true;
  SayByeIfIdle();
}

void GroupState::CheckLeft(int index) {
  Member& member = members_[index];
  if (member.left || !member.bye.has_value()) return;
  if (member.channel->taken_below() <= member.bye_sequence) return;
  MemberLeft(index, *member.bye);
}

void GroupState::MemberLeft(int index, const Reason& reason) {
  members_[index].left = true;
  std::string message = absl::StrCat(Name(index), " left ", Place());
  if (!reason.text.empty()) absl::StrAppend(&message, ": ", reason.text);
  if (group_.transfers_only) return EndTransfers(index, PeerError(index, message, kEvidenceGone));
  // Who leaves because it has lost another one names that one.
  int about = std::min(reason.about.value_or(index), members() - 1);
  if (about == self_) about = index;  // it was we whom it lost
  const Status status =
      PeerError(about, message, reason.code == ReasonCode::kLost ? kEvidenceTold : kEvidenceGone);
  if (broken_.ok()) {
    LOG(INFO) << message;
    broken_ = status;
    broken_by_ = about;
    broken_at_ = Now();
  }
  const Reason told = {ReasonCode::kLost, message, about};
  for (const Waiting& waiting : waiting_) waiting.handle->Finish(status);
  waiting_.clear();
  std::vector<uint64_t> ids;
  for (const auto& [id, exchange] : exchanges_) ids.push_back(id);
  for (const uint64_t id : ids) {
    const auto at = exchanges_.find(id);
    if (at == exchanges_.end()) continue;
    if (at->second->Needs(index)) {
      Fail(id, status, &told);
    } else {
      at->second->Forget(index);
      FinishIfComplete(id);
    }
  }
  fetching_.EndAll(broken_, Now());
  resume_ = true;
  SayByeIfIdle();
}

void GroupState::SayByeIfIdle() {
  if (!Ended()) return;
  SayBye({ReasonCode::kLost, std::string(broken_.message()), broken_by_});
}

// Its links are gone, and it has not acknowledged all that it was told: it shall hear why its calls
// come to nothing, and not find out by its own patience whom to blame.
bool GroupState::Untold(const Member& member, double now) const {
  return Ended() && !member.left && !member.bye.has_value() && !member.unwelcome &&
         member.channel->incarnation != 0 &&
         (member.our_bye == 0 || member.channel->unacked() > 0) &&
         now < broken_at_ + options_.patience_seconds;
}

// One frame with one number on every link, so that each of them ends with it.
void GroupState::SayBye(const Reason& reason) {
  const std::vector<uint8_t> bytes = EncodeReason(reason);
  for (Member& member : members_) {
    if (member.channel == nullptr) continue;
    FrameHeader header;
    header.type = FrameType::kBye;
    header.sequence = member.our_bye;
    for (Link* const link : member.channel->links()) {
      if (!link->ready() || link->bye_sent) continue;
      while (member.channel->AppendLost(link) || member.channel->AppendLostHeld(link)) {
      }
      member.channel->SendBytes(link, header, bytes);
      if (header.sequence == 0) header.sequence = member.channel->last_number();
      member.our_bye = header.sequence;
      link->bye_sent = true;
    }
  }
  MarkAllDirty();
}

void GroupState::OnLost(Link* link, const Status& status) {
  const int index = link->member();
  Member& member = members_[index];
  const double now = Now();
  member.channel->Detach(link, now);
  MarkDirty(index);
  const bool breach = absl::IsInvalidArgument(status) || absl::IsDataLoss(status);
  if (link->bye_received || member.bye.has_value() || Ended()) {
    member.unwelcome = member.unwelcome || breach;
    member.dial_at = std::max(member.dial_at, now + kLastBackoffSeconds);
    if (member.channel->up() || member.left || Ended()) return;
    Break(index,
          absl::StrCat("lost ", Name(index), " (", Place(),
                       ") before all that it sent was here: ", status.message()),
          kEvidenceGone);
    return;
  }
  if (breach) {
    // One is forgiven for each minute that passed.
    const double forgiven = std::floor((now - member.breached_at) / kForgiveSeconds);
    member.breaches = 1 + static_cast<int>(std::max(0.0, member.breaches - forgiven));
    member.breached_at = now;
  }
  if (breach && member.breaches > kMaxBreaches) {
    member.unwelcome = true;
    Break(index,
          absl::StrCat("lost ", Name(index), " (", Place(),
                       "): it broke the rules too often, last: ", status.message()),
          kEvidenceGone);
    return;
  }
  VLOG(1) << Place() << ": a connection to " << Name(index) << " broke: " << status.message();
  member.last_error = std::string(status.message());
  // What was lost with the link may be sent again over one that waits here for an operation which
  // begins only when the lost frame has come: such links go too, and all is sent in its order.
  member.drop_stalled = true;
  if (!member.channel->up()) member.down_since = now;
  // At once, unless connections die as soon as they are made.
  const bool lasted = now - link->attached >
                      std::max(kLastingSeconds, kLastingRoundTrips * member.channel->rtt_seconds());
  member.backoff_seconds =
      lasted ? 0
             : std::clamp(2 * member.backoff_seconds, kFirstBackoffSeconds, kLastBackoffSeconds);
  member.dial_at = std::max(member.dial_at, now + member.backoff_seconds);
}

// ---- by the clock

void GroupState::Watch(Member* member, int index, double now, Losses* losses) {
  Channel* const channel = member->channel.get();
  if (member->left) return;
  const double silent = channel->silent_seconds(now);
  if (channel->Ping(now, kPingSeconds)) MarkDirty(index);
  if (silent > kSilentSeconds && !member->told_silent) {
    member->told_silent = true;
    LOG(WARNING) << Place() << ": " << Name(index) << " has been silent for "
                 << FormatDuration(silent);
    member->told_silent_at = now;
    hooks_.silent(index, silent);
    PassOnSilence(index, silent);
  } else if (member->told_silent && channel->heard() > member->told_silent_at) {
    member->told_silent = false;
    LOG(INFO) << Place() << ": " << Name(index) << " is heard again";
    hooks_.silent(index, 0);
    PassOnSilence(index, 0);
  }
  if (silent > options_.patience_seconds) {
    Break(
        index,
        absl::StrCat("lost ", Name(index), " (", Place(), "): silent for ", FormatDuration(silent)),
        kEvidenceSilent);
    return;
  }
  for (Link* const link : channel->Stuck(now)) {
    losses->emplace_back(link, absl::UnavailableError("nothing moved on it any more"));
  }
}

void GroupState::SendAcks(int index) {
  Channel* const channel = members_[index].channel.get();
  for (Link* const link : channel->links()) {
    if (!link->ack_wanted || !link->ready() || link->bye_sent) continue;
    if (link->unsent_acks >= kMaxUnsentAcks) continue;  // it does not read: one more when it does
    channel->AppendAck(link);
    MarkDirty(index);
  }
  if (!channel->ack_due()) return;
  Link* const link = channel->LeastBusy();
  if (link == nullptr || link->unsent_acks >= kMaxUnsentAcks) return;
  channel->AppendAck(link);
  MarkDirty(index);
}

double GroupState::Tick(double now, Losses* losses) {
  const bool working = Working() && !Ended();
  bool soon = working || probe_until_ > 0 || now - last_active_ < kLingerSeconds;
  bool later = false, any_untold = false;
  if (probe_until_ > 0 && now >= probe_until_) EndProbe();
  if (broken_.ok() && fetching_.Works()) {
    fetching_.Tick(now);
    soon = true;
  }
  for (int index = 0; index < members() && broken_.ok(); ++index) soon = soon || Transfers(index);
  for (int index = 0; index < members(); ++index) {
    Member& member = members_[index];
    if (member.channel == nullptr) continue;
    Channel* const channel = member.channel.get();
    if (soon) channel->Sample();
    if (working && !joining_) {
      Watch(&member, index, now, losses);
    } else if (broken_.ok() && !Transfers(index)) {
      channel->ExpectNothing();
      if (!joining_ && channel->Ping(now, kRestPingSeconds)) MarkDirty(index);
    }
    if (broken_.ok() && Transfers(index)) TickTransfer(&member, index, now, losses);
    if (channel->Reassure(now)) soon = true;
    SendAcks(index);
    const bool untold = Untold(member, now);
    any_untold = any_untold || untold;
    if (!Ended() || untold) DialDue(&member, index, now);
    later = later || !channel->up() || member.dial_at > now;
  }
  if (soon) return now + kTickSeconds;
  if (!broken_.ok() && !any_untold) return std::numeric_limits<double>::infinity();
  return now + (later ? kIdleTickSeconds : kRestPingSeconds);
}

double GroupState::ShortestRoundTrip() const {
  double shortest = std::numeric_limits<double>::infinity();
  for (const Member& member : members_) {
    if (member.channel != nullptr) {
      shortest = std::min(shortest, member.channel->min_rtt_seconds());
    }
  }
  return std::isinf(shortest) ? 0 : shortest;
}

const LinkModel* GroupState::link_model() const {
  const bool learned = conductor_ != nullptr && conductor_->model().complete();
  return learned ? &conductor_->model() : nullptr;
}

void GroupState::Remember(const LinkModel& former) {
  if (conductor_ != nullptr) conductor_->Remember(former);
}

std::optional<LinkMatrix> GroupState::Matrix() const {
  if (conductor_ == nullptr) return std::nullopt;
  return conductor_->links();
}

std::vector<LinkStatus> GroupState::Links(double now) const {
  std::vector<LinkStatus> all;
  for (int index = 0; index < members(); ++index) {
    const Member& member = members_[index];
    if (member.channel == nullptr) continue;
    LinkStatus status;
    status.view = group_.view;
    status.lane = group_.lane;
    status.member = {index};
    status.name = group_.names[index];
    status.connections = static_cast<int>(member.channel->links().size());
    status.rtt_seconds = member.channel->rtt_seconds();
    status.bytes_sent = member.channel->acked();
    status.bytes_per_second = member.channel->recent_rate();
    status.sending_rate = member.channel->sending_rate();
    status.retransmitted = member.channel->sending_losses();
    status.paced_rate = member.channel->paced_rate();
    status.silent_seconds = member.channel->silent_seconds(now);
    if (!member.channel->up()) status.last_error = member.last_error;
    all.push_back(std::move(status));
  }
  return all;
}

}  // namespace atl::wan
