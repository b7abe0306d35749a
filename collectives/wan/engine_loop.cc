// The I/O thread of the engine (engine_impl.h): what links report, the loop, accepting, deadlines.
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/clock.h"
#include "base/log.h"
#include "collectives/wan/engine_impl.h"

namespace atl::wan {
namespace {

constexpr size_t kMaxPending = 256;
constexpr double kHandshakeSeconds = 10;
// When the process has no descriptors left, accepting pauses so long.
constexpr double kAcceptPauseSeconds = 0.1;
constexpr int kAcceptsPerTurn = 64;
constexpr int kEventsPerTurn = 256;
// Over long links the thread rests a little between turns, so that a turn finds many packets and
// not one: at 300 Mbit/s over 12 links that is a third of the CPU time.
constexpr double kMostRestSeconds = 1e-3;
constexpr double kLeastRestSeconds = 1e-4;
constexpr double kRestRoundTrips = 0.01;

double Now() { return Clock::Real()->MonotonicSeconds(); }

}  // namespace

Status EngineImpl::OnHello(Link* link) {
  GroupState* const group = GroupOf(link);
  if (group != nullptr) return Admit(link, group);
  const Hello& hello = link->hello();
  if (options_.on_call && !options_.on_call({{static_cast<int64_t>(hello.view)},
                                             {static_cast<int64_t>(hello.lane)},
                                             {hello.from},
                                             {hello.to}})) {
    return absl::UnauthenticatedError("a call for a view that nobody will join");
  }
  return OkStatus();  // held until somebody joins
}

Status EngineImpl::Admit(Link* link, GroupState* group) {
  RETURN_IF_ERROR(group->CheckHello(link->hello()));
  return link->Accept(group->group().key, group->incarnation());
}

Status EngineImpl::OnReady(Link* link) {
  GroupState* const group = GroupOf(link);
  if (group == nullptr) return absl::CancelledError("the view was left");
  if (link->dialled()) dialling_.remove(link);
  RETURN_IF_ERROR(group->Attach(link));
  pending_.remove(link);
  tick_at_ = 0;
  return OkStatus();
}

Status EngineImpl::OnHeader(Link* link, const FrameHeader& header) {
  GroupState* const group = GroupOf(link);
  return group == nullptr ? absl::CancelledError("the view was left")
                          : group->OnHeader(link, header);
}

StatusOr<Link::Verdict> EngineImpl::OnFrame(Link* link, const FrameHeader& header, Bytes payload) {
  GroupState* const group = GroupOf(link);
  if (group == nullptr) return absl::CancelledError("the view was left");
  if (header.type == FrameType::kFetch) tick_at_ = 0;  // bytes will be waited for
  if (header.type == FrameType::kPing) tick_at_ = 0;   // it is answered there
  return group->OnFrame(link, header, payload);
}

bool EngineImpl::NextFrame(Link* link) {
  GroupState* const group = GroupOf(link);
  return group != nullptr && group->NextFrame(link);
}

void EngineImpl::Drop(Link* link, const Status& status) {
  if (link->dropped) return;
  if (link->surplus && link->ready()) {
    if (GroupState* const group = GroupOf(link)) group->OnLost(link, status);
    link->Detach();  // its channel no longer does
    CloseGently(link);
    return;
  }
  link->dropped = true;
  const auto at = links_.find(link);
  dropped_.push_back(std::move(at->second));
  links_.erase(at);
  const bool pending = !link->dialled() && std::count(pending_.begin(), pending_.end(), link) > 0;
  const bool dialling = std::count(dialling_.begin(), dialling_.end(), link) > 0;
  pending_.remove(link);
  dialling_.remove(link);
  closing_.remove(link);
  tick_at_ = 0;
  if (link->closing()) return;
  GroupState* const group = GroupOf(link);
  if (pending || absl::IsInvalidArgument(status) || absl::IsDataLoss(status)) {
    ++refused_;
    LOG_EVERY_N(WARNING, 100) << "dropped a connection (" << google::COUNTER
                              << " so far): " << status.message();
  }
  if (group == nullptr) return;
  if (pending) {
    if (absl::IsUnauthenticated(status)) group->KeyRefused(link->member());
  } else if (dialling) {
    group->DialFailed(link->hello().to, status);
  } else {
    group->OnLost(link, status);
  }
}

// ---- the loop

void EngineImpl::Run() {
  epoll_event events[kEventsPerTurn];
  while (!stopping_ || !closing_.empty()) {
    if (rest_seconds_ > 0) Clock::Real()->SleepFor(absl::Seconds(rest_seconds_));
    const int count = epoll_wait(epoll_.get(), events, kEventsPerTurn, TimeoutMs());
    CHECK(count >= 0 || errno == EINTR) << std::strerror(errno);
    for (int i = 0; i < count; ++i) {
      void* const source = events[i].data.ptr;
      if (source == &commands_->event()) {
        for (const auto& command : commands_->TakeAll()) command();
      } else if (source == &listener_) {
        AcceptAll();
      } else {
        Link* const link = static_cast<Link*>(source);
        if (link->dropped) continue;
        const Status status = link->OnEvents(events[i].events);
        if (!status.ok()) Drop(link, status);
      }
    }
    Settle();
    Tick();
    Expire();
    dropped_.clear();
  }
  links_.clear();
}

void EngineImpl::Settle() {
  GroupState::Losses losses;
  do {
    losses.clear();
    for (const auto& [name, entry] : groups_) entry.state->Settle(&losses);
    for (const auto& [link, status] : losses) Drop(link, status);
  } while (!losses.empty());
}

void EngineImpl::Tick() {
  const double now = Now();
  if (now < tick_at_) return;
  tick_at_ = std::numeric_limits<double>::infinity();
  GroupState::Losses losses;
  for (const auto& [name, entry] : groups_) {
    tick_at_ = std::min(tick_at_, entry.state->Tick(now, &losses));
  }
  for (const auto& [link, status] : losses) Drop(link, status);
  Settle();
  rest_seconds_ = kMostRestSeconds;
  for (const auto& [name, entry] : groups_) {
    rest_seconds_ = std::min(rest_seconds_, kRestRoundTrips * entry.state->ShortestRoundTrip());
  }
  if (rest_seconds_ < kLeastRestSeconds || groups_.empty()) rest_seconds_ = 0;
}

void EngineImpl::AcceptAll() {
  for (int i = 0; i < kAcceptsPerTurn && listener_.valid(); ++i) {
    StatusOr<Fd> fd = AcceptTcp(listener_);
    if (!fd.ok()) {
      LOG_EVERY_N(WARNING, 100) << fd.status().message();
      PauseAccepting(true);
      return;
    }
    if (!fd->valid()) return;
    if (pending_.size() >= kMaxPending) {
      Drop(pending_.front(), absl::ResourceExhaustedError("too many connections that wait"));
    }
    std::unique_ptr<Link> link = Link::Accepted(this, epoll_.get(), *std::move(fd));
    link->deadline = Now() + kHandshakeSeconds;
    pending_.push_back(link.get());
    links_[link.get()] = std::move(link);
  }
}

void EngineImpl::PauseAccepting(bool pause) {
  accept_again_ = pause ? Now() + kAcceptPauseSeconds : 0;
  epoll_event event = {};
  if (!pause) event.events = EPOLLIN;
  event.data.ptr = &listener_;
  if (listener_.valid()) epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, listener_.get(), &event);
}

int EngineImpl::TimeoutMs() const {
  double next = accept_again_;
  if (!std::isinf(tick_at_)) next = next == 0 ? tick_at_ : std::min(next, tick_at_);
  if (tick_at_ == 0) return 0;
  for (const std::list<Link*>* const list : {&pending_, &dialling_, &closing_}) {
    if (list->empty()) continue;
    const double deadline = list->front()->deadline;
    next = next == 0 ? deadline : std::min(next, deadline);
  }
  if (next == 0) return -1;
  // Rounded up: waking before the time would only mean another round.
  return static_cast<int>(std::max(0.0, next - Now()) * 1000) + 1;
}

void EngineImpl::Expire() {
  const double now = Now();
  if (accept_again_ != 0 && now >= accept_again_) PauseAccepting(false);
  while (!pending_.empty() && pending_.front()->deadline <= now) {
    Drop(pending_.front(), absl::DeadlineExceededError("it did not identify itself in time"));
  }
  while (!dialling_.empty() && dialling_.front()->deadline <= now) {
    Drop(dialling_.front(), absl::UnavailableError("nobody answered the call"));
  }
  while (!closing_.empty() && closing_.front()->deadline <= now) {
    Drop(closing_.front(), absl::DeadlineExceededError("it did not close in time"));
  }
}

}  // namespace atl::wan
