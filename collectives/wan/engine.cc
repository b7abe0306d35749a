// The engine: one thread with one epoll runs all links, groups and operations; the public methods
// send it commands.
//
// 1. A connection that was accepted is pending until it has proven a view's key: at most
//    kMaxPending of them, each with the bytes of a greeting, for kHandshakeSeconds; the oldest goes
//    when there are too many. One that calls for a (view, lane) that has not joined here yet is
//    held unanswered within the same bounds, so that members may join in any order; a dialler whose
//    connection was dropped dials again until its deadline.
// 2. After each batch of events the groups settle: they read on where a link waited, send what has
//    become possible, and deal with links that broke.
// 3. Leave says Bye on every link, sends what is buffered and waits at most kDrainSeconds for the
//    other ends to close.
//
// Thread rule: members below "I/O thread" belong to it alone once it runs.
#include "collectives/wan/engine.h"

#include <sys/epoll.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <list>
#include <map>
#include <thread>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "collectives/wan/commands.h"
#include "collectives/wan/group.h"
#include "collectives/wan/join.h"
#include "collectives/wan/link.h"
#include "collectives/wan/operation.h"

namespace atl::wan {
namespace {

constexpr size_t kMaxPending = 256;
constexpr double kHandshakeSeconds = 10;
constexpr double kDrainSeconds = 5;
// When the process has no descriptors left, accepting pauses so long.
constexpr double kAcceptPauseSeconds = 0.1;
constexpr int kAcceptsPerTurn = 64;
constexpr int kEventsPerTurn = 64;

double Now() { return Clock::Real()->MonotonicSeconds(); }

class EngineImpl : public Engine, public Link::Owner {
 public:
  EngineImpl(const EngineOptions& options, Fd listener, Endpoint endpoint, Fd epoll,
             std::shared_ptr<CommandQueue> commands);
  ~EngineImpl() override;

  Endpoint endpoint() const override { return endpoint_; }
  Status Join(const Group& group, double deadline_seconds) override;
  void Leave(ViewId view) override;
  std::shared_ptr<Operation> AllReduce(ViewId view, LaneId lane, uint64_t id, std::span<float> data,
                                       const AllReduceOptions& options) override;
  int64_t bytes_sent() const override { return bytes_sent_; }
  int64_t connections_refused() const override { return refused_; }

  // Link::Owner
  Status OnHello(Link* link) override;
  Status OnReady(Link* link) override;
  Status OnHeader(Link* link, const FrameHeader& header) override;
  StatusOr<Link::Verdict> OnFrame(Link* link, const FrameHeader& header, Bytes payload) override;
  bool NextFrame(Link* link) override;
  void OnSent(size_t bytes) override { bytes_sent_ += static_cast<int64_t>(bytes); }

 private:
  using GroupName = std::pair<int64_t, int64_t>;  // view, lane
  struct Entry {
    std::shared_ptr<JoinProgress> progress;
    std::unique_ptr<GroupState> state;
  };

  void Run();
  int TimeoutMs() const;
  void AcceptAll();
  void PauseAccepting(bool pause);
  Status AddGroup(const Group& group, std::shared_ptr<JoinProgress> progress);
  Status GiveUpJoining(const GroupName& name, double waited_seconds);
  void StartLink(const GroupName& name, const JoinProgress::Dial& dial, StatusOr<Fd> fd);
  Status Admit(Link* link, GroupState* group);
  void RemoveGroup(GroupName name);
  void CloseGently(Link* link);
  void Drop(Link* link, const Status& status);
  void Settle();
  void Expire();
  GroupState* Find(const GroupName& name);
  GroupState* GroupOf(const Link* link) { return Find(NameOf(link->hello())); }
  static GroupName NameOf(const Hello& hello) {
    return {static_cast<int64_t>(hello.view), static_cast<int64_t>(hello.lane)};
  }

  const EngineOptions options_;
  const Endpoint endpoint_;
  const std::shared_ptr<CommandQueue> commands_;
  std::atomic<int64_t> bytes_sent_{0};
  std::atomic<int64_t> refused_{0};

  // I/O thread
  Fd epoll_;
  Fd listener_;
  double accept_again_ = 0;  // 0: not paused
  bool stopping_ = false;
  std::map<GroupName, Entry> groups_;
  std::unordered_map<Link*, std::unique_ptr<Link>> links_;
  std::list<Link*> pending_;                    // accepted and not proven, oldest first
  std::list<Link*> closing_;                    // oldest first
  std::vector<std::unique_ptr<Link>> dropped_;  // until the events at hand are done

  std::thread thread_;  // last: it uses all of the above
};

EngineImpl::EngineImpl(const EngineOptions& options, Fd listener, Endpoint endpoint, Fd epoll,
                       std::shared_ptr<CommandQueue> commands)
    : options_(options),
      endpoint_(std::move(endpoint)),
      commands_(std::move(commands)),
      epoll_(std::move(epoll)),
      listener_(std::move(listener)) {
  for (const Fd* fd : std::initializer_list<const Fd*>{&listener_, &commands_->event()}) {
    epoll_event event = {};
    event.events = EPOLLIN;
    event.data.ptr = const_cast<Fd*>(fd);
    CHECK_EQ(epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd->get(), &event), 0) << std::strerror(errno);
  }
  thread_ = std::thread([this] { Run(); });
}

EngineImpl::~EngineImpl() {
  commands_->Post([this] {
    while (!groups_.empty()) RemoveGroup(groups_.begin()->first);
    while (!pending_.empty()) Drop(pending_.front(), absl::CancelledError("the engine ends"));
    listener_.Reset();
    stopping_ = true;
  });
  thread_.join();
  commands_->Close();
}

// ---- public methods

Status EngineImpl::Join(const Group& group, double deadline_seconds) {
  const auto members = static_cast<int64_t>(group.members.size());
  if (members < 1 || members > kMaxMembers || group.names.size() != group.members.size() ||
      group.self.value < 0 || group.self.value >= members || group.lane.value < 0 ||
      group.lane.value > UINT32_MAX || group.view.value < 0) {
    return absl::InvalidArgumentError(absl::StrCat("a group that cannot be: ", members,
                                                   " members, own index ", group.self.value,
                                                   ", lane ", group.lane.value));
  }
  const GroupName name = {group.view.value, group.lane.value};
  const double began = Now();
  const double deadline = began + deadline_seconds;
  const auto progress = std::make_shared<JoinProgress>();
  Status status;
  commands_->Call([&] { status = AddGroup(group, progress); });
  RETURN_IF_ERROR(status);
  while (true) {
    const std::vector<JoinProgress::Dial> dials = progress->AwaitDials(deadline);
    const std::optional<Status> decided = progress->decided();
    if (decided.has_value() && decided->ok()) return OkStatus();
    if (decided.has_value() || Now() >= deadline) break;
    for (const JoinProgress::Dial& dial : dials) {
      const auto fd = std::make_shared<StatusOr<Fd>>(StartConnectTcp(group.members[dial.member]));
      commands_->Post([this, name, dial, fd] { StartLink(name, dial, std::move(*fd)); });
    }
  }
  commands_->Call([&] {
    const std::optional<Status> decided = progress->decided();
    status = decided.has_value() ? *decided : GiveUpJoining(name, Now() - began);
    if (!status.ok()) RemoveGroup(name);
  });
  return status;
}

void EngineImpl::Leave(ViewId view) {
  commands_->Call([&] {
    while (true) {
      const auto at = groups_.lower_bound({view.value, 0});
      if (at == groups_.end() || at->first.first != view.value) return;
      RemoveGroup(at->first);
    }
  });
}

std::shared_ptr<Operation> EngineImpl::AllReduce(ViewId view, LaneId lane, uint64_t id,
                                                 std::span<float> data,
                                                 const AllReduceOptions& options) {
  const GroupName name = {view.value, lane.value};
  const auto handle =
      std::make_shared<OperationHandle>(commands_, [this, name, id](OperationHandle* cancelled) {
        if (GroupState* const group = Find(name)) group->Cancel(id, cancelled);
      });
  if (options.attachment.size() > kMaxAttachment) {
    handle->Finish(absl::InvalidArgumentError(absl::StrCat(
        "an attachment of ", options.attachment.size(), " bytes; at most ", kMaxAttachment)));
    return handle;
  }
  Exchange::Parameters parameters;
  parameters.id = id;
  parameters.options = options;
  parameters.data = data;
  parameters.began = Now();
  const bool posted = commands_->Post([this, name, parameters, handle] {
    GroupState* const group = Find(name);
    if (group == nullptr) {
      handle->Finish(absl::FailedPreconditionError(
          absl::StrCat("view ", name.first, ", lane ", name.second, " has not been joined")));
      return;
    }
    group->Begin(parameters, handle);
  });
  if (!posted) handle->Finish(absl::CancelledError("the engine has ended"));
  return handle;
}

// ---- groups

GroupState* EngineImpl::Find(const GroupName& name) {
  const auto at = groups_.find(name);
  return at == groups_.end() ? nullptr : at->second.state.get();
}

Status EngineImpl::AddGroup(const Group& group, std::shared_ptr<JoinProgress> progress) {
  const GroupName name = {group.view.value, group.lane.value};
  if (Find(name) != nullptr) {
    return absl::AlreadyExistsError(
        absl::StrCat("view ", name.first, ", lane ", name.second, " has been joined already"));
  }
  auto state =
      std::make_unique<GroupState>(group, options_.streams, options_.chunk_bytes, progress);
  GroupState* const added = state.get();
  groups_[name] = {std::move(progress), std::move(state)};
  for (Link* const link : std::list<Link*>(pending_)) {
    if (!link->held() || NameOf(link->hello()) != name) continue;
    const Status status = Admit(link, added);
    if (!status.ok()) Drop(link, status);
  }
  return OkStatus();
}

Status EngineImpl::GiveUpJoining(const GroupName& name, double waited_seconds) {
  const GroupState* const group = Find(name);
  if (group == nullptr) return absl::CancelledError("the view was left while it was joining");
  return group->Missing(waited_seconds);
}

// By value: a caller may well name it by the key that is erased here.
void EngineImpl::RemoveGroup(GroupName name) {
  const auto at = groups_.find(name);
  if (at == groups_.end()) return;
  const Entry entry = std::move(at->second);
  groups_.erase(at);
  entry.progress->Finish(absl::CancelledError("the view was left while it was joining"));
  entry.state->Leave();
  std::vector<Link*> ours;
  for (const auto& [link, owned] : links_) {
    if (!link->held() && !link->closing() && NameOf(link->hello()) == name) ours.push_back(link);
  }
  for (Link* const link : ours) {
    const bool pending = std::count(pending_.begin(), pending_.end(), link) > 0;
    if (link->ready() && !pending) {
      CloseGently(link);
    } else if (link->dialled() || pending) {
      Drop(link, absl::CancelledError("the view was left"));
    }
  }
}

void EngineImpl::CloseGently(Link* link) {
  link->CloseGently();
  link->deadline = Now() + kDrainSeconds;
  closing_.push_back(link);
  const Status status = link->Flush();
  if (!status.ok()) Drop(link, status);
}

void EngineImpl::StartLink(const GroupName& name, const JoinProgress::Dial& dial, StatusOr<Fd> fd) {
  GroupState* const group = Find(name);
  if (group == nullptr) return;  // left meanwhile
  if (!fd.ok()) {
    group->DialFailed(dial.member, dial.stream, absl::UnavailableError(fd.status().message()));
    return;
  }
  std::unique_ptr<Link> link =
      Link::Dialled(this, epoll_.get(), *std::move(fd), group->group().members[dial.member],
                    group->HelloFor(dial.member, dial.stream), group->group().key);
  links_[link.get()] = std::move(link);
}

// ---- what links report

Status EngineImpl::OnHello(Link* link) {
  GroupState* const group = GroupOf(link);
  return group == nullptr ? OkStatus() : Admit(link, group);  // held until somebody joins
}

Status EngineImpl::Admit(Link* link, GroupState* group) {
  RETURN_IF_ERROR(group->CheckHello(link->hello()));
  return link->Accept(group->group().key);
}

Status EngineImpl::OnReady(Link* link) {
  GroupState* const group = GroupOf(link);
  if (group == nullptr) return absl::CancelledError("the view was left");
  RETURN_IF_ERROR(group->Attach(link));
  pending_.remove(link);
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
  return group->OnFrame(link, header, payload);
}

bool EngineImpl::NextFrame(Link* link) {
  GroupState* const group = GroupOf(link);
  return group != nullptr && group->NextFrame(link);
}

void EngineImpl::Drop(Link* link, const Status& status) {
  if (link->dropped) return;
  link->dropped = true;
  const auto at = links_.find(link);
  dropped_.push_back(std::move(at->second));
  links_.erase(at);
  const bool pending = !link->dialled() && std::count(pending_.begin(), pending_.end(), link) > 0;
  pending_.remove(link);
  closing_.remove(link);
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
  } else if (!link->ready()) {
    group->DialFailed(link->hello().to, link->hello().stream, status);
  } else {
    group->OnLost(link, status);
  }
}

// ---- the loop

void EngineImpl::Run() {
  epoll_event events[kEventsPerTurn];
  while (!stopping_ || !closing_.empty()) {
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
  for (const std::list<Link*>* const list : {&pending_, &closing_}) {
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
  while (!closing_.empty() && closing_.front()->deadline <= now) {
    Drop(closing_.front(), absl::DeadlineExceededError("it did not close in time"));
  }
}

}  // namespace

StatusOr<std::unique_ptr<Engine>> Engine::Create(const EngineOptions& options) {
  if (options.streams < 1 || options.streams > kMaxStreams) {
    return absl::InvalidArgumentError(
        absl::StrCat("streams is ", options.streams, "; 1 to ", kMaxStreams, " are possible"));
  }
  if (options.chunk_bytes < 1024 || options.chunk_bytes > static_cast<int64_t>(kMaxPayload)) {
    return absl::InvalidArgumentError(absl::StrCat("chunk_bytes is ", options.chunk_bytes,
                                                   "; 1024 to ", kMaxPayload, " are possible"));
  }
  ASSIGN_OR_RETURN(Fd listener, ListenTcp(options.listen));
  ASSIGN_OR_RETURN(const Endpoint bound, LocalEndpoint(listener));
  // The host as it was given: peers may know it by a name.
  Endpoint endpoint = {options.listen.host.empty() ? bound.host : options.listen.host, bound.port};
  Fd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) return ErrnoError(errno, "cannot make an epoll");
  ASSIGN_OR_RETURN(std::shared_ptr<CommandQueue> commands, CommandQueue::Create());
  return std::unique_ptr<Engine>(std::make_unique<EngineImpl>(
      options, std::move(listener), std::move(endpoint), std::move(epoll), std::move(commands)));
}

}  // namespace atl::wan
