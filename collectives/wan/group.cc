#include "collectives/wan/group.h"

#include <algorithm>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"

namespace atl::wan {
namespace {

// Operations that a member may have begun before us; more of them make its stream wait.
constexpr size_t kMaxEarly = 1024;

bool IsNumbers(FrameType type) {
  return type == FrameType::kContribution || type == FrameType::kResult;
}

}  // namespace

GroupState::GroupState(const Group& group, int streams, int64_t chunk_bytes,
                       std::shared_ptr<JoinProgress> progress)
    : group_(group),
      self_(static_cast<int>(group.self.value)),
      streams_(streams),
      chunk_bytes_(chunk_bytes),
      progress_(std::move(progress)),
      members_(group.members.size()) {
  for (int member = 0; member < self_; ++member) {
    members_[member].streams.resize(streams_);
    for (int stream = 0; stream < streams_; ++stream) WantDial(member, stream, 0);
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
  for (int member = 0; member < static_cast<int>(members_.size()); ++member) MarkDirty(member);
}

// ---- operations

void GroupState::Begin(const Exchange::Parameters& parameters,
                       std::shared_ptr<OperationHandle> handle) {
  const uint64_t id = parameters.id;
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
  if (!broken_.ok()) {
    handle->Finish(broken_);
    return;
  }
  Exchange::Parameters mine = parameters;
  mine.members = static_cast<int>(members_.size());
  mine.self = self_;
  mine.chunk_bytes = chunk_bytes_;
  auto owned = std::make_unique<Exchange>(mine, std::move(handle));
  Exchange* const exchange = owned.get();
  exchanges_[id] = std::move(owned);
  const auto place = std::upper_bound(
      order_.begin(), order_.end(), exchange, [](const Exchange* a, const Exchange* b) {
        return a->priority() != b->priority() ? a->priority() > b->priority() : a->id() < b->id();
      });
  order_.insert(place, exchange);
  for (const Member& member : members_) {
    // None: the member is about to have left.
    Link* const link = member.streams.empty() ? nullptr : member.streams.front();
    if (link != nullptr) exchange->Announce(link);
  }
  MarkAllDirty();
  TakeEarly(exchange);
  FinishIfComplete(id);
}

void GroupState::TakeEarly(Exchange* exchange) {
  const uint64_t id = exchange->id();
  Status failure;
  for (int member = 0; member < static_cast<int>(members_.size()); ++member) {
    std::map<uint64_t, Announced>& early = members_[member].early;
    const auto at = early.find(id);
    if (at != early.end()) {
      if (at->second.started) {
        const Status same = exchange->TakeStart(member, at->second.start);
        if (!same.ok())
          failure = Annotate(same, absl::StrCat("operation ", id, " with ", Name(member)));
      }
      if (failure.ok()) failure = at->second.aborted;
    }
    early.erase(early.begin(), early.upper_bound(id));
  }
  if (!failure.ok()) Fail(id, failure, nullptr);
}

void GroupState::Cancel(uint64_t id, const OperationHandle* handle) {
  const auto at = exchanges_.find(id);
  if (at == exchanges_.end() || at->second->handle() != handle) return;
  const Reason reason = {ReasonCode::kCancelled, ""};
  Fail(id, absl::CancelledError(absl::StrCat("operation ", id, " was cancelled")), &reason);
}

void GroupState::Leave() {
  while (!exchanges_.empty()) {
    Fail(exchanges_.begin()->first,
         absl::CancelledError(absl::StrCat("this gateway left view ", group_.view.value)), nullptr);
  }
  if (broken_.ok()) broken_ = absl::CancelledError(absl::StrCat("left ", Place()));
  SayBye({ReasonCode::kLeft, ""});
}

void GroupState::FinishIfComplete(uint64_t id) {
  const auto at = exchanges_.find(id);
  if (at == exchanges_.end() || !at->second->Complete()) return;
  const std::unique_ptr<Exchange> exchange = std::move(at->second);
  std::erase(order_, exchange.get());
  exchanges_.erase(at);
  MarkAllDirty();  // another may be the oldest now
  exchange->handle()->Finish(exchange->Result(Clock::Real()->MonotonicSeconds()));
  SayByeIfIdle();
}

void GroupState::Fail(uint64_t id, const Status& status, const Reason* reason) {
  const auto at = exchanges_.find(id);
  if (at == exchanges_.end()) return;
  const std::unique_ptr<Exchange> exchange = std::move(at->second);
  std::erase(order_, exchange.get());
  exchanges_.erase(at);
  if (reason != nullptr) {
    const std::vector<uint8_t> bytes = EncodeReason(*reason);
    for (const Member& member : members_) {
      Link* const link = member.streams.empty() ? nullptr : member.streams.front();
      if (link == nullptr || !link->ready() || link->bye_sent) continue;
      FrameHeader header;
      header.type = FrameType::kAbort;
      header.lane = link->hello().lane;
      header.operation = id;
      header.payload = static_cast<uint32_t>(bytes.size());
      link->Append(header, bytes);
    }
  }
  MarkAllDirty();
  exchange->handle()->Finish(status);
  SayByeIfIdle();
}

// ---- members that are lost or leave

Status GroupState::PeerError(int member, const std::string& message) const {
  Status status = absl::UnavailableError(message);
  status.SetPayload(kPeerPayload, absl::Cord(group_.names[member]));
  return status;
}

void GroupState::Break(const Status& status) {
  if (broken_.ok()) {
    LOG(WARNING) << Place() << " is broken: " << status.message();
    broken_ = status;
  }
  const Reason reason = {ReasonCode::kLost, std::string(status.message())};
  while (!exchanges_.empty()) Fail(exchanges_.begin()->first, status, &reason);
  resume_ = true;
  SayByeIfIdle();
}

void GroupState::MemberLeft(int member, const Reason& reason) {
  members_[member].left = true;
  std::string message = absl::StrCat(Name(member), " left ", Place());
  if (!reason.text.empty()) absl::StrAppend(&message, ": ", reason.text);
  const Status status = PeerError(member, message);
  if (broken_.ok()) {
    LOG(INFO) << message;
    broken_ = status;
  }
  const Reason told = {ReasonCode::kLost, message};
  std::vector<uint64_t> ids;
  for (const auto& [id, exchange] : exchanges_) ids.push_back(id);
  for (const uint64_t id : ids) {
    const auto at = exchanges_.find(id);
    if (at == exchanges_.end()) continue;
    if (at->second->Needs(member)) {
      Fail(id, status, &told);
    } else {
      at->second->Forget(member);
      FinishIfComplete(id);
    }
  }
  resume_ = true;
  SayByeIfIdle();
}

void GroupState::SayByeIfIdle() {
  if (broken_.ok() || !exchanges_.empty()) return;
  SayBye({ReasonCode::kLost, std::string(broken_.message())});
}

void GroupState::SayBye(const Reason& reason) {
  const std::vector<uint8_t> bytes = EncodeReason(reason);
  for (const Member& member : members_) {
    for (Link* const link : member.streams) {
      if (link == nullptr || !link->ready() || link->bye_sent) continue;
      FrameHeader header;
      header.type = FrameType::kBye;
      header.lane = link->hello().lane;
      header.payload = static_cast<uint32_t>(bytes.size());
      link->Append(header, bytes);
      link->bye_sent = true;
    }
  }
  MarkAllDirty();
}

void GroupState::OnLost(Link* link, const Status& status) {
  const int index = link->member();
  Member& member = members_[index];
  const size_t stream = link->hello().stream;
  if (stream >= member.streams.size() || member.streams[stream] != link) return;
  member.streams[stream] = nullptr;
  if (joining_) {
    if (link->dialled()) {
      DialFailed(index, static_cast<int>(stream), absl::UnavailableError(status.message()));
    } else if (std::count(member.streams.begin(), member.streams.end(), nullptr) ==
               static_cast<int64_t>(member.streams.size())) {
      member.streams.clear();  // a new attempt may come with another number of streams
    }
    return;
  }
  if (link->bye_received) return;
  Break(
      PeerError(index, absl::StrCat("lost ", Name(index), " (", Place(), "): ", status.message())));
}

// ---- frames

bool GroupState::IsPast(uint64_t id) const {
  return !broken_.ok() || (any_begun_ && id <= last_begun_);
}

Status GroupState::OnHeader(Link* link, const FrameHeader& header) const {
  if (link->bye_received) return absl::InvalidArgumentError("it sent more after its last frame");
  if (!IsNumbers(header.type) && header.type != FrameType::kAttachment) return OkStatus();
  const auto at = exchanges_.find(header.operation);
  if (at != exchanges_.end()) return at->second->Check(link->member(), header);
  if (IsPast(header.operation)) return OkStatus();
  const auto& early = members_[link->member()].early;
  const auto announced = early.find(header.operation);
  if (announced == early.end() || !announced->second.started) {
    return absl::InvalidArgumentError("it sent numbers of an operation that it has not started");
  }
  const Start& start = announced->second.start;
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
  switch (header.type) {
    case FrameType::kStart:
      return OnStart(link->member(), header, payload);
    case FrameType::kAbort:
      return OnAbort(link->member(), header, payload);
    case FrameType::kBye:
      return OnBye(link, payload);
    case FrameType::kAttachment:
    case FrameType::kContribution:
    case FrameType::kResult:
      return OnNumbers(link, header, payload);
    case FrameType::kConfirm:
      break;
  }
  return absl::InvalidArgumentError("it sent a frame that has no place here");
}

StatusOr<Link::Verdict> GroupState::OnStart(int member, const FrameHeader& header, Bytes payload) {
  ASSIGN_OR_RETURN(const Start start, ParseStart(payload));
  const uint64_t id = header.operation;
  const auto at = exchanges_.find(id);
  if (at != exchanges_.end()) {
    const Status same = at->second->TakeStart(member, start);
    if (!same.ok()) {
      Fail(id, Annotate(same, absl::StrCat("operation ", id, " with ", Name(member))), nullptr);
    }
    MarkDirty(member);
    FinishIfComplete(id);
    return Link::Verdict::kTaken;
  }
  if (IsPast(id)) return Link::Verdict::kTaken;
  auto& early = members_[member].early;
  if (early.size() >= kMaxEarly && early.find(id) == early.end()) return Link::Verdict::kNotNow;
  early[id].start = start;
  early[id].started = true;
  return Link::Verdict::kTaken;
}

StatusOr<Link::Verdict> GroupState::OnAbort(int member, const FrameHeader& header, Bytes payload) {
  ASSIGN_OR_RETURN(const Reason reason, ParseReason(payload));
  const uint64_t id = header.operation;
  const Status status =
      reason.code == ReasonCode::kCancelled
          ? absl::AbortedError(absl::StrCat(Name(member), " cancelled operation ", id))
          : PeerError(member,
                      absl::StrCat(Name(member), " failed operation ", id, ": ", reason.text));
  if (exchanges_.count(id) > 0) {
    Fail(id, status, nullptr);
  } else if (!IsPast(id)) {
    auto& early = members_[member].early;
    if (early.find(id) == early.end()) {
      return absl::InvalidArgumentError("it aborted an operation that it has not started");
    }
    early[id].aborted = status;
  }
  return Link::Verdict::kTaken;
}

StatusOr<Link::Verdict> GroupState::OnBye(Link* link, Bytes payload) {
  ASSIGN_OR_RETURN(const Reason reason, ParseReason(payload));
  if (joining_) return absl::UnavailableError("it left while we were joining");
  link->bye_received = true;
  Member& member = members_[link->member()];
  // Only when all its streams have ended has all that it sent been seen.
  if (++member.byes == static_cast<int>(member.streams.size())) MemberLeft(link->member(), reason);
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
  if (header.type == FrameType::kContribution) {
    MarkAllDirty();  // the chunk may be complete
  } else {
    MarkDirty(member);  // its window may have moved
  }
  FinishIfComplete(id);
  return Link::Verdict::kTaken;
}

bool GroupState::NextFrame(Link* link) {
  for (Exchange* const exchange : order_) {
    const bool eager = exchange->id() == exchanges_.begin()->first;
    if (!exchange->AppendNext(link, eager)) continue;
    FinishIfComplete(exchange->id());
    return true;
  }
  return false;
}

void GroupState::Settle(Losses* losses) {
  if (resume_) {
    resume_ = false;
    for (const Member& member : members_) {
      for (Link* const link : std::vector<Link*>(member.streams)) {
        if (link == nullptr || link->dropped || !link->stalled()) continue;
        const Status status = link->Resume();
        if (!status.ok()) losses->emplace_back(link, status);
      }
    }
  }
  while (any_dirty_) {
    any_dirty_ = false;
    for (Member& member : members_) {
      if (!std::exchange(member.dirty, false)) continue;
      for (Link* const link : std::vector<Link*>(member.streams)) {
        if (link == nullptr || link->dropped || !link->ready() || link->awaits_room()) continue;
        const Status status = link->Flush();
        if (!status.ok()) losses->emplace_back(link, status);
      }
    }
  }
}

}  // namespace atl::wan
