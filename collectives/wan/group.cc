// Operations and frames of a group (group.h).
#include "collectives/wan/group.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"

namespace atl::wan {
namespace {

// Operations that a member may have begun before us; more of them make its stream wait.
constexpr size_t kMaxEarly = 1024;
constexpr size_t kMaxEarlyPlanBytes = 16 << 20;  // in their starts
// What is held for a member that acknowledges nothing.
constexpr size_t kMaxKeptBytes = 256 << 20;
constexpr size_t kMaxUnacked = 1 << 16;
constexpr size_t kProbeBytes = 32 << 10;

double Now() { return Clock::Real()->MonotonicSeconds(); }

bool IsOfTransfer(FrameType type) {
  return type == FrameType::kFetch || type == FrameType::kBlock || type == FrameType::kFetchEnd ||
         type == FrameType::kFetchCancel;
}

bool IsNumbers(FrameType type) {
  return type == FrameType::kContribution || type == FrameType::kResult;
}

}  // namespace

GroupState::GroupState(const Group& group, const EngineOptions& options, uint64_t incarnation,
                       Hooks hooks)
    : group_(group),
      options_(options),
      incarnation_(incarnation),
      hooks_(std::move(hooks)),
      self_(static_cast<int>(group.self.value)),
      hub_(HubOf(group)),
      members_(group.members.size()),
      serving_(MakeServing()),
      fetching_(MakeFetching()) {
  for (int member = 0; member < members(); ++member) {
    if (member == self_ || !Connected(self_, member)) continue;
    members_[member].channel = std::make_unique<Channel>(self_, member);
  }
  if (group_.transfers_only) {
    joining_ = false;
    hooks_.joined(OkStatus());
  } else if (self_ == hub_) {
    std::vector<bool> callable;
    for (int member = 0; member < members(); ++member) callable.push_back(CanBeCalled(member));
    Conductor::Hooks conductor;
    conductor.solve = hooks_.solve;
    conductor.probe = [this](double seconds) {
      const std::vector<uint8_t> request = EncodeProbeRequest(seconds);
      FrameHeader header;
      header.type = FrameType::kPlan;
      for (Member& member : members_) {
        if (member.channel != nullptr) member.channel->SendSmall(header, request);
      }
      BeginProbe(seconds);
      MarkAllDirty();
    };
    conductor.first_plan = [this](const NumberedPlan& plan) {
      FrameHeader header;
      header.type = FrameType::kPlan;
      for (Member& member : members_) {
        if (member.channel != nullptr) member.channel->SendSmall(header, EncodePlan(plan));
      }
      MarkAllDirty();
      OnFirstPlan(plan);
    };
    conductor.tell = [this](int member, const NumberedPlan& plan) {
      FrameHeader header;
      header.type = FrameType::kPlan;
      members_[member].channel->SendSmall(header, EncodePlan(plan));
      MarkDirty(member);
    };
    conductor_ = std::make_unique<Conductor>(group.names, options.schedule, options.order_stable,
                                             static_cast<uint32_t>(incarnation) & 0x7FFFFFFF,
                                             std::move(conductor), std::move(callable));
  }
  CheckStanding();
}

std::string GroupState::Place() const {
  return absl::StrCat("view ", group_.view.value, ", lane ", group_.lane.value);
}

std::string GroupState::Name(int member) const {
  return absl::StrCat("region '", group_.names[member], "'");
}

void GroupState::MarkAllDirty() {
  for (int member = 0; member < members(); ++member) MarkDirty(member);
}

// ---- operations

void GroupState::Begin(const Exchange::Parameters& parameters,
                       std::shared_ptr<OperationHandle> handle) {
  const uint64_t id = parameters.id;
  if (group_.transfers_only) {
    handle->Finish(absl::FailedPreconditionError(Place() + " is for transfers only"));
    return;
  }
  if (joining_) {
    handle->Finish(absl::FailedPreconditionError(Place() + " is still joining"));
    return;
  }
  if (any_begun_ && id <= last_begun_) {
    handle->Finish(absl::InvalidArgumentError(absl::StrCat(
        "operation ", id, " after operation ", last_begun_, " in ", Place(), ": ids must rise")));
    return;
  }
  any_begun_ = true;
  last_begun_ = id;
  resume_ = true;
  last_active_ = Now();
  if (!broken_.ok()) {
    handle->Finish(broken_);
    return;
  }
  waiting_.push_back({parameters, std::move(handle)});
  BeginWaiting();
}

void GroupState::BeginWaiting() {
  while (!waiting_.empty() && !plan_awaits_.has_value()) {
    Waiting next = std::move(waiting_.front());
    waiting_.pop_front();
    BeginNow(std::move(next));
  }
}

void GroupState::BeginNow(Waiting waiting) {
  const uint64_t id = waiting.parameters.id;
  Exchange::Parameters mine = waiting.parameters;
  mine.members = members();
  mine.self = self_;
  mine.chunk_bytes = options_.chunk_bytes;
  mine.plan = *plan_;
  for (const Member& member : members_) mine.apart.push_back(member.channel == nullptr);
  if (conductor_ != nullptr) {
    conductor_->OnBegin(static_cast<double>(EncodedSize(mine.options.codec, mine.data.size())));
    if (const auto next = conductor_->TakeCandidate()) {
      mine.next_plan = EncodePlan(*next);
      plan_ = *next;
    }
  } else {
    plan_awaits_ = id;
  }
  auto owned = std::make_unique<Exchange>(mine, std::move(waiting.handle));
  Exchange* const exchange = owned.get();
  exchanges_[id] = std::move(owned);
  resume_ = true;  // what came for it before, while its plan was awaited
  const auto place = std::upper_bound(
      order_.begin(), order_.end(), exchange, [](const Exchange* a, const Exchange* b) {
        return a->priority() != b->priority() ? a->priority() > b->priority() : a->id() < b->id();
      });
  order_.insert(place, exchange);
  for (Member& member : members_) {
    if (member.channel == nullptr) continue;
    member.channel->Expect(Now());
    for (Link* const link : member.channel->links()) {
      if (!link->ready() || link->bye_sent) continue;
      exchange->Announce(member.channel.get(), link);
      break;
    }
  }
  WantLinks();
  PaceLinks(mine.plan.plan, static_cast<double>(EncodedSize(mine.options.codec, mine.data.size())));
  for (Member& member : members_) {
    if (std::exchange(member.unpaced, false)) member.channel->ForgetSamples();
  }
  if (exchanges_.size() == 1) ForgetRates();
  MarkAllDirty();
  TakeEarly(exchange);
  if (waiting.cancelled) {
    const Reason reason = {ReasonCode::kCancelled, ""};
    Fail(id, absl::CancelledError("cancelled before it began"), &reason);
  }
  FinishIfComplete(id);
}

void GroupState::TakeEarly(Exchange* exchange) {
  const uint64_t id = exchange->id();
  Status failure;
  for (int member = 0; member < members(); ++member) {
    std::map<uint64_t, Announced>& early = members_[member].early;
    const auto at = early.find(id);
    if (at != early.end()) {
      if (at->second.start.has_value()) {
        if (member == hub_) failure = TakeNextPlan(*at->second.start);
        const Status same = exchange->TakeStart(member, *at->second.start);
        if (same.ok()) {
          exchange->TakeRelayedAttachment(member, std::move(at->second.attachment));
          PassOn(exchange, member);
        } else {
          failure = Annotate(same, absl::StrCat("operation ", id, " with ", Name(member)));
          PassOnStart(id, {member, *at->second.start, ""});
        }
      }
      if (failure.ok()) failure = at->second.aborted;
    }
    early.erase(early.begin(), early.upper_bound(id));
  }
  if (!failure.ok()) Fail(id, failure, nullptr);
}

void GroupState::Cancel(uint64_t id, const OperationHandle* handle) {
  const Status cancelled = absl::CancelledError(absl::StrCat("operation ", id, " was cancelled"));
  for (auto at = waiting_.begin(); at != waiting_.end(); ++at) {
    if (at->handle.get() != handle) continue;
    // The others await its start, and so does the order of plans: it will begin and be aborted.
    // Its buffer is the caller's again: nothing is to be kept or restored.
    at->cancelled = true;
    at->parameters.options.restore_on_failure = false;
    at->parameters.options.residual = {};
    at->handle->Finish(cancelled);
    return;
  }
  const auto at = exchanges_.find(id);
  if (at == exchanges_.end() || at->second->handle() != handle) return;
  const Reason reason = {ReasonCode::kCancelled, ""};
  Fail(id, cancelled, &reason);
}

void GroupState::Leave() {
  const Status left = absl::CancelledError(absl::StrCat("this gateway left ", Place()));
  fetching_.EndAll(left, Now());
  for (const Waiting& waiting : waiting_) waiting.handle->Finish(left);
  waiting_.clear();
  while (!exchanges_.empty()) Fail(exchanges_.begin()->first, left, nullptr);
  if (broken_.ok()) broken_ = left;
  SayBye({ReasonCode::kLeft, ""});
}

std::unique_ptr<Exchange> GroupState::Remove(uint64_t id) {
  const auto at = exchanges_.find(id);
  if (at == exchanges_.end()) return nullptr;
  std::unique_ptr<Exchange> exchange = std::move(at->second);
  std::erase(order_, exchange.get());
  exchanges_.erase(at);
  last_active_ = Now();
  for (Member& member : members_) {
    if (member.channel != nullptr) member.channel->Keep(exchange.get());
  }
  MarkAllDirty();  // another may be the oldest now
  return exchange;
}

void GroupState::FinishIfComplete(uint64_t id) {
  const auto at = exchanges_.find(id);
  if (at == exchanges_.end() || !at->second->Complete()) return;
  const std::unique_ptr<Exchange> exchange = Remove(id);
  exchange->handle()->Finish(exchange->Result(Now()));
  if (plan_.has_value() && plan_->plan.throughput > 0) SendReports(id);
  SayByeIfIdle();
}

void GroupState::Fail(uint64_t id, const Status& status, const Reason* reason) {
  const std::unique_ptr<Exchange> exchange = Remove(id);
  if (exchange == nullptr) return;
  if (reason != nullptr) {
    FrameHeader header;
    header.type = FrameType::kAbort;
    header.operation = id;
    for (Member& member : members_) {
      if (member.channel == nullptr || member.left) continue;
      member.channel->SendSmall(header, EncodeReason(*reason));
    }
  }
  exchange->Restore();
  exchange->handle()->Finish(status);
  SayByeIfIdle();
}

// ---- frames

bool GroupState::IsPast(uint64_t id) const {
  if (!broken_.ok()) return true;
  if (!any_begun_ || id > last_begun_) return false;
  for (const Waiting& waiting : waiting_) {
    if (waiting.parameters.id == id) return false;
  }
  return true;
}

Status GroupState::OnHeader(Link* link, const FrameHeader& header) const {
  const Member& member = members_[link->member()];
  if (IsSequenced(header.type) && member.channel->Taken(header.sequence)) return OkStatus();
  if (link->bye_received) return absl::InvalidArgumentError("it sent more after its last frame");
  if (!IsNumbers(header.type) && header.type != FrameType::kAttachment) return OkStatus();
  const auto at = exchanges_.find(header.operation);
  if (at != exchanges_.end()) return at->second->Check(link->member(), header);
  if (IsPast(header.operation)) return OkStatus();
  const auto announced = member.early.find(header.operation);
  if (announced == member.early.end() || !announced->second.start.has_value()) {
    return absl::InvalidArgumentError("it sent numbers of an operation that it has not started");
  }
  const Start& start = *announced->second.start;
  const Codec codec = static_cast<Codec>(start.codec);
  if (header.type == FrameType::kAttachment && header.payload != start.attachment_bytes) {
    return absl::InvalidArgumentError("it sent an attachment of another size than announced");
  }
  if (IsNumbers(header.type) && IsKnownCodec(start.codec) &&
      header.payload > EncodedSize(codec, start.chunk_elements)) {
    return absl::InvalidArgumentError("it sent a chunk longer than announced");
  }
  return OkStatus();
}

StatusOr<Link::Verdict> GroupState::OnFrame(Link* link, const FrameHeader& header, Bytes payload) {
  Channel* const channel = members_[link->member()].channel.get();
  if (link->peer_incarnation() != channel->incarnation) {
    return absl::CancelledError("it is of a gateway that has begun anew");
  }
  switch (header.type) {
    case FrameType::kPing:
      link->ack_wanted = true;
      MarkDirty(link->member());
      return Link::Verdict::kTaken;
    case FrameType::kAck: {
      ASSIGN_OR_RETURN(const Ack ack, ParseAck(payload));
      RETURN_IF_ERROR(channel->OnAck(ack));
      MarkDirty(link->member());  // there may have been too much unacknowledged
      return Link::Verdict::kTaken;
    }
    case FrameType::kProbe:
      return Link::Verdict::kTaken;
    case FrameType::kConfirm:
      return absl::InvalidArgumentError("it sent a frame that has no place here");
    default:
      break;
  }
  if (channel->Taken(header.sequence)) {
    link->ack_wanted = true;
    if (header.type == FrameType::kBye) link->bye_received = true;
    return Link::Verdict::kTaken;
  }
  if (channel->scattered()) {
    return absl::InvalidArgumentError("it leaves out more sequence numbers than can be under way");
  }
  const int member = link->member();
  ASSIGN_OR_RETURN(const Link::Verdict verdict, OnSequenced(link, header, payload));
  if (verdict == Link::Verdict::kTaken) {
    channel->Take(header.sequence);
    CheckLeft(member);
  }
  return verdict;
}

StatusOr<Link::Verdict> GroupState::OnSequenced(Link* link, const FrameHeader& header,
                                                Bytes payload) {
  if (group_.transfers_only && !IsOfTransfer(header.type) && header.type != FrameType::kBye) {
    return absl::InvalidArgumentError("it sent a frame that has no place between us");
  }
  switch (header.type) {
    case FrameType::kStart:
      return OnStart(link->member(), header, payload);
    case FrameType::kAbort:
      return OnAbort(link->member(), header, payload);
    case FrameType::kBye:
      return OnBye(link, header, payload);
    case FrameType::kPlan:
      return OnPlan(link->member(), payload);
    case FrameType::kFetch:
    case FrameType::kBlock:
    case FrameType::kFetchEnd:
    case FrameType::kFetchCancel:
      return OnTransfer(link->member(), header, payload);
    case FrameType::kReport:
      return OnReport(link->member(), header.operation, payload);
    case FrameType::kRelayedStart:
      return OnRelayedStart(link->member(), header, payload);
    case FrameType::kSilence:
      return OnSilence(link->member(), payload);
    default:
      return OnNumbers(link, header, payload);
  }
}

StatusOr<Link::Verdict> GroupState::OnStart(int member, const FrameHeader& header, Bytes payload) {
  ASSIGN_OR_RETURN(const Start start, ParseStart(payload));
  const uint64_t id = header.operation;
  size_t most_early = kMaxEarly;
  if (!start.next_plan.empty()) {
    if (member != hub_) return absl::InvalidArgumentError("it told a plan that is not its to tell");
    RETURN_IF_ERROR(ReadPlan(start.next_plan).status());
    most_early = std::min(most_early, kMaxEarlyPlanBytes / start.next_plan.size());
  }
  if (member == hub_ && plan_awaits_ == id) RETURN_IF_ERROR(TakeNextPlan(start));
  const auto at = exchanges_.find(id);
  if (at != exchanges_.end()) {
    const Status same = at->second->TakeStart(member, start);
    if (same.ok()) {
      PassOn(at->second.get(), member);
    } else {
      PassOnStart(id, {member, start, ""});
      Fail(id, Annotate(same, absl::StrCat("operation ", id, " with ", Name(member))), nullptr);
    }
    MarkDirty(member);
    FinishIfComplete(id);
    BeginWaiting();
    return Link::Verdict::kTaken;
  }
  BeginWaiting();
  if (IsPast(id)) return Link::Verdict::kTaken;
  auto& early = members_[member].early;
  if (early.size() >= most_early && early.find(id) == early.end()) return Link::Verdict::kNotNow;
  early[id].start = start;
  return Link::Verdict::kTaken;
}

std::vector<MemberIndex> GroupState::WhoHasBegun(uint64_t id) const {
  std::vector<MemberIndex> begun;
  for (int member = 0; member < members(); ++member) {
    const auto early = members_[member].early.find(id);
    if (early != members_[member].early.end() && early->second.start.has_value()) {
      begun.push_back(MemberIndex{member});
    }
  }
  return begun;
}

StatusOr<Link::Verdict> GroupState::OnAbort(int member, const FrameHeader& header, Bytes payload) {
  ASSIGN_OR_RETURN(const Reason reason, ParseReason(payload));
  const uint64_t id = header.operation;
  int about = reason.about.value_or(member);
  if (about >= members()) return absl::InvalidArgumentError("it told of a member that is none");
  if (about == self_) about = member;  // it was we whom it lost
  const Status status =
      reason.code == ReasonCode::kCancelled
          ? absl::AbortedError(absl::StrCat(Name(about), " cancelled operation ", id))
          : PeerError(about,
                      absl::StrCat(Name(member), " failed operation ", id, ": ", reason.text),
                      kEvidenceTold);
  const bool under_way = exchanges_.count(id) > 0;
  if (!under_way && IsPast(id)) return Link::Verdict::kTaken;
  if (!under_way) {
    auto& early = members_[member].early;
    if (early.size() >= kMaxEarly && early.find(id) == early.end()) return Link::Verdict::kNotNow;
    early[id].aborted = status;
  }
  FrameHeader told;
  told.type = FrameType::kAbort;
  told.operation = id;
  TellThoseApart(member, told, EncodeReason({reason.code, reason.text, about}));
  if (under_way) Fail(id, status, nullptr);
  return Link::Verdict::kTaken;
}

StatusOr<Link::Verdict> GroupState::OnBye(Link* link, const FrameHeader& header, Bytes payload) {
  ASSIGN_OR_RETURN(Reason reason, ParseReason(payload));
  if (joining_) return absl::UnavailableError("it left while we were joining");
  link->bye_received = true;
  Member& member = members_[link->member()];
  member.bye = std::move(reason);
  member.bye_sequence = header.sequence;
  return Link::Verdict::kTaken;
}

StatusOr<Link::Verdict> GroupState::OnNumbers(Link* link, const FrameHeader& header,
                                              Bytes payload) {
  const int member = link->member();
  const uint64_t id = header.operation;
  const auto at = exchanges_.find(id);
  if (at == exchanges_.end()) {
    return IsPast(id) ? Link::Verdict::kTaken : Link::Verdict::kNotNow;
  }
  Exchange* const exchange = at->second.get();
  RETURN_IF_ERROR(exchange->Take(member, header, payload));
  if (header.type == FrameType::kAttachment) PassOn(exchange, member);
  MarkAllDirty();  // a sum may be complete, a result may be passed on, a window may have moved
  FinishIfComplete(id);
  return Link::Verdict::kTaken;
}

bool GroupState::NextFrame(Link* link) {
  Member& member = members_[link->member()];
  Channel* const channel = member.channel.get();
  if (channel->AppendLost(link)) return true;
  if (member.bye.has_value()) return false;
  if (channel->kept_bytes() < kMaxKeptBytes && channel->unacked() < kMaxUnacked &&
      channel->Uses(link)) {
    for (Exchange* const exchange : order_) {
      const bool eager = exchange->id() == exchanges_.begin()->first;
      const uint64_t id = exchange->id();
      if (!exchange->AppendNext(channel, link, eager)) continue;
      FinishIfComplete(id);
      return true;
    }
  }
  if (probe_until_ > 0) {
    FrameHeader header;
    header.type = FrameType::kProbe;
    header.payload = kProbeBytes;
    static const std::vector<uint8_t> zeros(kProbeBytes);
    link->Append(header, zeros);
    return true;
  }
  return AppendTransfer(channel, link);
}

void GroupState::Settle(Losses* losses) {
  if (std::exchange(any_surplus_, false)) {
    for (const Member& member : members_) {
      if (member.channel == nullptr) continue;
      for (Link* const link : member.channel->links()) {
        if (link->surplus && !link->dropped) {
          losses->emplace_back(link, absl::UnavailableError("it was one too many"));
        }
      }
    }
  }
  for (Member& member : members_) {
    if (!std::exchange(member.drop_stalled, false)) continue;
    for (Link* const link : member.channel->links()) {
      if (link->dropped || !link->stalled()) continue;
      losses->emplace_back(link,
                           absl::UnavailableError("another connection broke while it waited"));
    }
  }
  if (resume_) {
    resume_ = false;
    for (const Member& member : members_) {
      if (member.channel == nullptr) continue;
      for (Link* const link : std::vector<Link*>(member.channel->links())) {
        if (link->dropped || !link->stalled()) continue;
        const Status status = link->Resume();
        if (!status.ok()) losses->emplace_back(link, status);
      }
    }
  }
  while (any_dirty_) {
    any_dirty_ = false;
    for (Member& member : members_) {
      if (!std::exchange(member.dirty, false) || member.channel == nullptr) continue;
      for (Link* const link : std::vector<Link*>(member.channel->links())) {
        if (link->dropped || !link->ready() || link->awaits_room()) continue;
        const Status status = link->Flush();
        if (!status.ok()) losses->emplace_back(link, status);
      }
    }
  }
}

}  // namespace atl::wan
