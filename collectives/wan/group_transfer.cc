// Transfers in a group (transfer.h): their frames, their place behind the numbers, and members that
// fall silent while something is fetched (group.h).
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/units.h"
#include "collectives/wan/fetch_frame.h"
#include "collectives/wan/group.h"

namespace atl::wan {
namespace {

constexpr double kPingSeconds = 0.5;
constexpr double kNearSeconds = 1e-3;
constexpr double kFrameSeconds = 0.5e-3;
constexpr int64_t kShortFrame = 16 << 10;

double Now() { return Clock::Real()->MonotonicSeconds(); }

}  // namespace

Serving GroupState::MakeServing() {
  Serving::Hooks hooks;
  hooks.run = hooks_.read;
  hooks.ready = [this](int member) { MarkDirty(member); };
  hooks.frame_bytes = [this](int member) { return TransferFrameBytes(member); };
  return Serving(static_cast<int>(group_.members.size()), std::move(hooks));
}

// What of a frame is here when its connection breaks is lost: over long links, which break, frames
// are short.
int64_t GroupState::TransferFrameBytes(int index) const {
  const Channel& channel = *members_[index].channel;
  if (channel.min_rtt_seconds() < kNearSeconds) return options_.chunk_bytes;
  const auto wished = static_cast<int64_t>(channel.recent_rate() * kFrameSeconds);
  return std::min(options_.chunk_bytes, std::max(kShortFrame, wished));
}

Fetching GroupState::MakeFetching() {
  Fetching::Hooks hooks;
  hooks.run = hooks_.sink;
  hooks.send = [this](int member, const FrameHeader& header, std::vector<uint8_t> payload) {
    members_[member].channel->SendSmall(header, std::move(payload));
    MarkDirty(member);
  };
  hooks.round_trip = [this](int member) { return members_[member].channel->min_rtt_seconds(); };
  hooks.reachable = [this](int member) {
    const Member& source = members_[member];
    if (source.channel == nullptr) {
      return absl::UnavailableError("neither of us can be called, so there is no connection");
    }
    if (source.left || source.bye.has_value()) return absl::UnavailableError("it has left");
    return OkStatus();
  };
  return Fetching(self_, group_.names, options_.patience_seconds, std::move(hooks));
}

void GroupState::Fetch(FetchRequest request, std::shared_ptr<FetchHandle> handle) {
  if (!broken_.ok()) return handle->Finish(broken_, {});
  last_active_ = Now();
  fetching_.Begin(std::move(request), std::move(handle), Now());
}

void GroupState::CancelFetch(const FetchHandle* handle) {
  fetching_.Cancel(handle, absl::CancelledError("the fetch was cancelled"), Now());
}

StatusOr<Link::Verdict> GroupState::OnTransfer(int member, const FrameHeader& header,
                                               Bytes payload) {
  switch (header.type) {
    case FrameType::kFetch: {
      ASSIGN_OR_RETURN(FetchFrame fetch, ParseFetch(payload));
      RETURN_IF_ERROR(serving_.OnFetch(member, header.operation, std::move(fetch)));
      break;
    }
    case FrameType::kFetchCancel:
      serving_.OnCancel(member, header.operation);
      break;
    case FrameType::kFetchEnd: {
      ASSIGN_OR_RETURN(const FetchEnd end, ParseFetchEnd(payload));
      RETURN_IF_ERROR(fetching_.OnEnd(member, header.operation, end, Now()));
      break;
    }
    default:
      RETURN_IF_ERROR(fetching_.OnBlock(member, header, payload, Now()));
  }
  return Link::Verdict::kTaken;
}

bool GroupState::AppendTransfer(Channel* channel, Link* link) {
  Member& member = members_[channel->member()];
  BeginToYield(&member, Now());
  if (!member.yielding.Allows(serving_.HasNext(channel->member()))) return false;
  const bool numbers = hooks_.numbers_flow();
  if (!numbers) member.spare.Open();
  if (!member.spare.Allows()) return false;
  // The links that numbers do not use are not paced to the plan, or to what yields.
  if ((numbers || member.yielding.limited()) && !channel->Uses(link)) return false;
  const auto who = reinterpret_cast<uintptr_t>(&member);
  if (!Transfers(channel->member()) || !hooks_.cap->Allows(Now(), who)) return false;
  if (channel->AppendLostHeld(link)) return true;
  const int64_t bytes = serving_.NextBytes(channel->member());
  if (!serving_.AppendNext(channel, link)) return false;
  member.spare.Spend(bytes);
  member.yielding.Spend(bytes);
  hooks_.cap->Spend(bytes, who);
  return true;
}

// What is in the kernel yields too: links are paced.
void GroupState::BeginToYield(Member* member, double now) {
  Channel* const channel = member->channel.get();
  const Yield yield = hooks_.yields();
  if (!member->yielding.Begin(now, yield)) return;
  if (yield == Yield::kNothing) return channel->Unpace();
  if (yield == Yield::kSpare) {
    // BBR shall look anew for what the line carries.
    channel->Pace(std::max(member->yielding.rate(), member->yielding.known()));
    for (Link* const link : channel->links()) {
      if (link->ready()) link->ForgetRate();
    }
  }
  channel->Pace(member->yielding.pace());
}

bool GroupState::Transfers(int index) const {
  const Member& member = members_[index];
  return member.channel != nullptr &&
         (fetching_.Awaits(index) || serving_.Works(index) || member.channel->held_bytes() > 0);
}

void GroupState::TickTransfer(Member* member, int index, double now, Losses* losses) {
  Channel* const channel = member->channel.get();
  BeginToYield(member, now);
  if (member->yielding.limited()) {
    member->yielding.Tick(now, channel->fresh_queue_seconds(), channel->min_rtt_seconds());
    channel->Pace(member->yielding.pace());
  }
  if (hooks_.numbers_flow()) {
    member->spare.Limit(now, channel->queue_seconds(), channel->min_rtt_seconds(),
                        channel->sending_rate());
  } else if (!member->unpaced && plan_.has_value() && plan_->plan.throughput > 0) {
    channel->Unpace();
    member->unpaced = true;
  }
  MarkDirty(index);
  if (Working()) return;  // it is watched already
  channel->Expect(now);
  channel->Ping(now, kPingSeconds);
  const double silent = channel->silent_seconds(now);
  if (silent > options_.patience_seconds) {
    EndTransfers(
        index, absl::UnavailableError(absl::StrCat("it was silent for ", FormatDuration(silent))));
    return;
  }
  for (Link* const link : channel->Stuck(now)) {
    losses->emplace_back(link, absl::UnavailableError("nothing moved on it any more"));
  }
}

void GroupState::EndTransfers(int index, const Status& why) {
  if (Transfers(index)) {
    LOG(WARNING) << Place() << ": transfers with " << Name(index) << " end: " << why.message();
  }
  fetching_.OnLost(index, why, Now());
  serving_.Forget(index);
}

}  // namespace atl::wan
