// Members that only call out have no connection to each other; the hub, which all can reach, stands
// between them (group.h).
//
// 1. The hub is the first member with an address. It conducts as well: plans, probe.
// 2. Numbers go by plans that do without the missing pairs (their rate is 0).
// 3. What else such members would tell each other the hub passes on: an operation's start with the
//    attachment, once both are here; an abort, as its own with the name of whom it is about; that
//    one is silent. That one is lost or has left the hub's own Bye says, which ends the view.
// Nothing is passed on later than the hub's own end of the operation: the hub, too, needs all
// starts and attachments.
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "collectives/wan/group.h"

namespace atl::wan {
namespace {

constexpr size_t kMaxEarly = 1024;
constexpr size_t kMaxEarlyAttachments = 16 << 20;  // bytes of one member

}  // namespace

int GroupState::HubOf(const Group& group) {
  for (size_t index = 0; index < group.members.size(); ++index) {
    if (wan::CanBeCalled(group.members[index])) return static_cast<int>(index);
  }
  return group.members.size() == 1 ? 0 : -1;
}

StatusOr<NumberedPlan> GroupState::ReadPlan(Bytes bytes) const {
  ASSIGN_OR_RETURN(NumberedPlan plan, ParsePlan(bytes, members()));
  const auto apart = [&](int from, int to) { return to >= 0 && !Connected(from, to); };
  for (const Tree& tree : plan.plan.trees) {
    for (int index = 0; index < members(); ++index) {
      if (apart(index, tree.reduce_parent[index]) || apart(index, tree.broadcast_parent[index])) {
        return absl::InvalidArgumentError("a plan over a pair of members that only call out");
      }
    }
  }
  return plan;
}

void GroupState::TellThoseApart(int member, const FrameHeader& header,
                                const std::vector<uint8_t>& payload) {
  if (self_ != hub_ || CanBeCalled(member)) return;
  for (int other = 0; other < members(); ++other) {
    if (other == member || other == self_ || CanBeCalled(other) || members_[other].left) continue;
    members_[other].channel->SendSmall(header, payload);
    MarkDirty(other);
  }
}

void GroupState::PassOnStart(uint64_t id, const RelayedStart& relayed) {
  FrameHeader header;
  header.type = FrameType::kRelayedStart;
  header.operation = id;
  RelayedStart without_plan = relayed;
  without_plan.start.next_plan.clear();
  TellThoseApart(relayed.member, header, EncodeRelayedStart(without_plan));
}

void GroupState::PassOn(Exchange* exchange, int member) {
  if (self_ != hub_ || CanBeCalled(member)) return;
  const std::optional<RelayedStart> relayed = exchange->ToPassOn(member);
  if (relayed.has_value()) PassOnStart(exchange->id(), *relayed);
}

void GroupState::PassOnSilence(int member, double seconds) {
  FrameHeader header;
  header.type = FrameType::kSilence;
  TellThoseApart(member, header, EncodeRelayedSilence({member, seconds}));
}

Status GroupState::CheckRelayed(int from, int member) const {
  if (from != hub_) return absl::InvalidArgumentError("it relayed what is not its to relay");
  if (member == self_ || members_[member].channel != nullptr) {
    return absl::InvalidArgumentError("it relayed a frame of a member that has its own connection");
  }
  return OkStatus();
}

StatusOr<Link::Verdict> GroupState::OnRelayedStart(int from, const FrameHeader& header,
                                                   Bytes payload) {
  ASSIGN_OR_RETURN(RelayedStart relayed, ParseRelayedStart(payload, members()));
  RETURN_IF_ERROR(CheckRelayed(from, relayed.member));
  const uint64_t id = header.operation;
  const auto at = exchanges_.find(id);
  if (at != exchanges_.end()) {
    const Status same = at->second->TakeStart(relayed.member, relayed.start);
    if (same.ok()) {
      at->second->TakeRelayedAttachment(relayed.member, std::move(relayed.attachment));
      FinishIfComplete(id);
    } else {
      Fail(id, Annotate(same, absl::StrCat("operation ", id, " with ", Name(relayed.member))),
           nullptr);
    }
    return Link::Verdict::kTaken;
  }
  if (IsPast(id)) return Link::Verdict::kTaken;
  auto& early = members_[relayed.member].early;
  size_t held = relayed.attachment.size();
  for (const auto& [operation, announced] : early) held += announced.attachment.size();
  if (early.size() >= kMaxEarly || held > kMaxEarlyAttachments) return Link::Verdict::kNotNow;
  early[id].start = std::move(relayed.start);
  early[id].attachment = std::move(relayed.attachment);
  return Link::Verdict::kTaken;
}

StatusOr<Link::Verdict> GroupState::OnSilence(int from, Bytes payload) {
  ASSIGN_OR_RETURN(const RelayedSilence relayed, ParseRelayedSilence(payload, members()));
  RETURN_IF_ERROR(CheckRelayed(from, relayed.member));
  Member& member = members_[relayed.member];
  const bool silent = relayed.seconds > 0;
  if (silent != member.told_silent) hooks_.silent(relayed.member, relayed.seconds);
  member.told_silent = silent;
  return Link::Verdict::kTaken;
}

}  // namespace atl::wan
