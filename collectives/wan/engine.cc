// The engine's public methods: each becomes a command to the I/O thread (engine_impl.h).
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <initializer_list>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/random.h"
#include "collectives/wan/engine_impl.h"
#include "collectives/wan/operation.h"

namespace atl::wan {
namespace {

constexpr double kDrainSeconds = 5;
// From the last link to the first plan: a probe of at most 4 s and some round trips.
constexpr double kPlanSeconds = 10;
// Views whose links are remembered, of a lane.
constexpr size_t kMostLearned = 4;
// A call that nobody answers is given up, and made anew.
constexpr double kDialSeconds = 3;

double Now() { return Clock::Real()->MonotonicSeconds(); }

}  // namespace

EngineImpl::EngineImpl(const EngineOptions& options, Fd listener, Endpoint endpoint, Fd epoll,
                       std::shared_ptr<CommandQueue> commands)
    : options_(options),
      endpoint_(std::move(endpoint)),
      commands_(std::move(commands)),
      epoll_(std::move(epoll)),
      listener_(std::move(listener)) {
  for (const Fd* fd : std::initializer_list<const Fd*>{&listener_, &commands_->event()}) {
    if (!fd->valid()) continue;
    epoll_event event = {};
    event.events = EPOLLIN;
    event.data.ptr = const_cast<Fd*>(fd);
    CHECK_EQ(epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd->get(), &event), 0) << std::strerror(errno);
  }
  background_ = std::make_unique<Background>();
  thread_ = std::thread([this] { Run(); });
}

EngineImpl::~EngineImpl() {
  commands_->Post([this] {
    while (!groups_.empty()) (void)RemoveGroup(groups_.begin()->first);
    while (!pending_.empty()) Drop(pending_.front(), absl::CancelledError("the engine ends"));
    while (!dialling_.empty()) Drop(dialling_.front(), absl::CancelledError("the engine ends"));
    listener_.Reset();
    stopping_ = true;
  });
  thread_.join();
  background_.reset();
  reads_.reset();
  sinks_.reset();
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
  if (GroupState::HubOf(group) < 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        "view ", group.view.value, ", lane ", group.lane.value, ": all ", members,
        " regions only call out (", absl::StrJoin(group.names, ", "),
        "), so nobody can be called; give one of them an address that the others reach"));
  }
  const GroupName name = {group.view.value, group.lane.value};
  const double began = Now();
  const double deadline = began + deadline_seconds;
  const auto progress = std::make_shared<JoinProgress>();
  Status status;
  commands_->Call([&] { status = AddGroup(group, progress); });
  RETURN_IF_ERROR(status);
  std::optional<Status> word = progress->Await(deadline);
  if (!word.has_value()) {
    // Everybody is there; the probe and the plan are all that is missing. Who gave up now would
    // make the others begin anew, and they in turn him.
    bool stands = false;
    commands_->Call([&] {
      const GroupState* const group_state = Find(name);
      stands = group_state != nullptr && group_state->LinksStand();
    });
    if (stands) word = progress->Await(Now() + kPlanSeconds);
  }
  if (word.has_value() && word->ok()) return OkStatus();
  Served served;
  commands_->Call([&] {
    const std::optional<Status> decided = progress->Await(0);
    status = decided.has_value() ? *decided : GiveUpJoining(name, Now() - began);
    if (!status.ok()) served = RemoveGroup(name);
  });
  for (const auto& source : served) source->Stop();
  return status;
}

void EngineImpl::Leave(ViewId view) {
  Served served;
  commands_->Call([&] {
    while (true) {
      const auto at = groups_.lower_bound({view.value, 0});
      if (at == groups_.end() || at->first.first != view.value) break;
      for (auto& source : RemoveGroup(at->first)) served.push_back(std::move(source));
    }
    std::erase_if(served_, [&](const auto& waiting) { return waiting.first.first == view.value; });
  });
  for (const auto& source : served) source->Stop();
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
    tick_at_ = 0;
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
  uint64_t incarnation = 0;
  while (incarnation == 0) {
    FillWithSystemRandom(reinterpret_cast<uint8_t*>(&incarnation), sizeof incarnation);
  }
  auto state = std::make_unique<GroupState>(group, options_, incarnation,
                                            HooksFor(name, incarnation, progress, group));
  GroupState* const added = state.get();
  if (const LinkModel* const known = KnownLinks(name.second, group.names)) added->Remember(*known);
  tick_at_ = 0;
  groups_[name] = {std::move(progress), std::move(state)};
  const auto served = served_.extract(name);
  if (!served.empty()) {
    for (const auto& [served_name, source] : served.mapped()) {
      added->serving()->Serve(served_name, source);
    }
  }
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

const LinkModel* EngineImpl::KnownLinks(int64_t lane, const std::vector<std::string>& names) const {
  for (auto at = groups_.rbegin(); at != groups_.rend(); ++at) {
    if (at->first.second != lane) continue;
    const LinkModel* const model = at->second.state->link_model();
    if (model != nullptr && model->Knows(names)) return model;
  }
  const auto left = learned_.find(lane);
  if (left == learned_.end()) return nullptr;
  for (const LinkModel& model : left->second) {
    if (model.Knows(names)) return &model;
  }
  return nullptr;
}

void EngineImpl::KeepLinks(int64_t lane, const GroupState& group) {
  const LinkModel* const model = group.link_model();
  if (model == nullptr) return;
  LinkModel copy(model->matrix().names);
  copy.TakeOver(*model);
  std::deque<LinkModel>& kept = learned_[lane];
  kept.push_front(std::move(copy));
  if (kept.size() > kMostLearned) kept.pop_back();
}

// By value: a caller may well name it by the key that is erased here.
EngineImpl::Served EngineImpl::RemoveGroup(GroupName name) {
  const auto at = groups_.find(name);
  if (at == groups_.end()) return {};
  const Entry entry = std::move(at->second);
  groups_.erase(at);
  KeepLinks(name.second, *entry.state);
  entry.progress->Finish(absl::CancelledError("the view was left while it was joining"));
  entry.state->Leave();
  Served served = entry.state->serving()->StopAll();
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
  return served;
}

void EngineImpl::CloseGently(Link* link) {
  link->CloseGently();
  link->deadline = Now() + kDrainSeconds;
  closing_.push_back(link);
  const Status status = link->Flush();
  if (!status.ok()) Drop(link, status);
}

GroupState* EngineImpl::Find(const GroupName& name, uint64_t incarnation) {
  GroupState* const group = Find(name);
  return group != nullptr && group->incarnation() == incarnation ? group : nullptr;
}

GroupState::Hooks EngineImpl::HooksFor(const GroupName& name, uint64_t incarnation,
                                       const std::shared_ptr<JoinProgress>& progress,
                                       const Group& group) {
  GroupState::Hooks hooks;
  hooks.dial = [this, name, incarnation, members = group.members](int member) {
    background_->Run([this, name, incarnation, member, to = members[member]] {
      const auto fd = std::make_shared<StatusOr<Fd>>(StartConnectTcp(to));
      commands_->Post([this, name, incarnation, member, fd] {
        StartLink(name, incarnation, member, std::move(*fd));
      });
    });
  };
  hooks.solve = [this, name, incarnation](const LinkMatrix& links, const PlanRequest& request) {
    background_->Run([this, name, incarnation, links, request] {
      const auto plan = std::make_shared<StatusOr<TreePlan>>(MakeSoundPlan(links, request));
      commands_->Post([this, name, incarnation, plan] {
        GroupState* const solved = Find(name, incarnation);
        if (solved != nullptr) solved->OnPlanned(std::move(*plan));
      });
    });
  };
  hooks.read = [this, name, incarnation](auto task, auto then) {
    RunAside(&reads_, name, incarnation, std::move(task), std::move(then));
  };
  hooks.sink = [this, name, incarnation](auto task, auto then) {
    RunAside(&sinks_, name, incarnation, std::move(task), std::move(then));
  };
  hooks.cap = &cap_;
  hooks.yields = [this] { return options_.yield ? options_.yield() : Yield::kNothing; };
  hooks.numbers_flow = [this] {
    for (const auto& [other, entry] : groups_) {
      if (entry.state->NumbersFlow()) return true;
    }
    return false;
  };
  hooks.joined = [progress](const Status& status) { progress->Finish(status); };
  hooks.silent = [this, group](int member, double seconds) {
    if (!options_.on_silence) return;
    options_.on_silence(
        {group.view, group.lane, MemberIndex{member}, group.names[member], seconds});
  };
  return hooks;
}

void EngineImpl::StartLink(const GroupName& name, uint64_t incarnation, int member,
                           StatusOr<Fd> fd) {
  GroupState* const group = Find(name, incarnation);
  if (group == nullptr) return;  // left meanwhile
  if (!fd.ok()) {
    group->DialFailed(member, fd.status());
    return;
  }
  std::unique_ptr<Link> link =
      Link::Dialled(this, epoll_.get(), *std::move(fd), group->group().members[member],
                    group->HelloFor(member), group->group().key);
  link->deadline = Now() + kDialSeconds;
  dialling_.push_back(link.get());
  links_[link.get()] = std::move(link);
}

void EngineImpl::RunAside(std::unique_ptr<Background>* thread, const GroupName& name,
                          uint64_t incarnation, std::function<void()> task,
                          std::function<void()> then) {
  if (*thread == nullptr) *thread = std::make_unique<Background>();
  (*thread)->Run([this, name, incarnation, task = std::move(task), then = std::move(then)] {
    task();
    commands_->Post([this, name, incarnation, then] {
      if (Find(name, incarnation) != nullptr) then();
    });
  });
}

// ---- transfers

Status EngineImpl::Serve(ViewId view, LaneId lane, const std::string& name,
                         std::shared_ptr<ByteSource> source) {
  if (name.empty() || name.size() > size_t{kMaxNameBytes}) {
    return absl::InvalidArgumentError(
        absl::StrCat("to serve '", name, "': a name has 1 to ", kMaxNameBytes, " bytes"));
  }
  const auto served = std::make_shared<ServedSource>(std::move(source));
  std::shared_ptr<ServedSource> former;
  commands_->Call([&] {
    GroupState* const group = Find({view.value, lane.value});
    former = group != nullptr ? group->serving()->Serve(name, served)
                              : std::exchange(served_[{view.value, lane.value}][name], served);
  });
  if (former != nullptr) former->Stop();
  return OkStatus();
}

void EngineImpl::CapServing(double bytes_per_second) {
  commands_->Post([this, bytes_per_second] { cap_.Set(bytes_per_second); });
}

void EngineImpl::StopServing(ViewId view, LaneId lane, const std::string& name) {
  std::shared_ptr<ServedSource> former;
  commands_->Call([&] {
    GroupState* const group = Find({view.value, lane.value});
    if (group != nullptr) {
      former = group->serving()->Stop(name);
      return;
    }
    const auto waiting = served_.find({view.value, lane.value});
    if (waiting != served_.end()) waiting->second.erase(name);
  });
  if (former != nullptr) former->Stop();
}

std::shared_ptr<Transfer> EngineImpl::Fetch(ViewId view, LaneId lane, FetchRequest request) {
  const GroupName name = {view.value, lane.value};
  const auto handle = std::make_shared<FetchHandle>(
      commands_,
      [this, name](const FetchHandle* cancelled) {
        if (GroupState* const group = Find(name)) group->CancelFetch(cancelled);
      },
      std::move(request.done));
  const bool posted = commands_->Post([this, name, request = std::move(request), handle] {
    GroupState* const group = Find(name);
    if (group == nullptr) {
      handle->Finish(absl::FailedPreconditionError(absl::StrCat(
                         "view ", name.first, ", lane ", name.second, " has not been joined")),
                     {});
      return;
    }
    group->Fetch(request, handle);
    tick_at_ = 0;
  });
  if (!posted) handle->Finish(absl::CancelledError("the engine has ended"), {});
  return handle;
}

std::vector<MemberIndex> EngineImpl::Announced(ViewId view, LaneId lane, uint64_t id) {
  std::vector<MemberIndex> members;
  commands_->Call([&] {
    const GroupState* const group = Find({view.value, lane.value});
    if (group != nullptr) members = group->WhoHasBegun(id);
  });
  return members;
}

std::vector<LinkStatus> EngineImpl::Links() {
  std::vector<LinkStatus> all;
  commands_->Call([&] {
    for (const auto& [name, entry] : groups_) {
      for (LinkStatus& status : entry.state->Links(Now())) all.push_back(std::move(status));
    }
  });
  return all;
}

std::optional<LinkMatrix> EngineImpl::Matrix(ViewId view, LaneId lane) {
  std::optional<LinkMatrix> matrix;
  commands_->Call([&] {
    const GroupState* const group = Find({view.value, lane.value});
    if (group != nullptr) matrix = group->Matrix();
  });
  return matrix;
}

StatusOr<std::unique_ptr<Engine>> Engine::Create(const EngineOptions& options) {
  if (options.streams < 0 || options.streams > kMaxStreams) {
    return absl::InvalidArgumentError(absl::StrCat(
        "streams is ", options.streams, "; 0 (automatic) to ", kMaxStreams, " are possible"));
  }
  if (options.chunk_bytes < 1024 || options.chunk_bytes > static_cast<int64_t>(kMaxPayload)) {
    return absl::InvalidArgumentError(absl::StrCat("chunk_bytes is ", options.chunk_bytes,
                                                   "; 1024 to ", kMaxPayload, " are possible"));
  }
  Fd listener;
  Endpoint endpoint;
  if (!options.only_calls_out) {
    ASSIGN_OR_RETURN(listener, ListenTcp(options.listen));
    ASSIGN_OR_RETURN(const Endpoint bound, LocalEndpoint(listener));
    // The host as it was given: peers may know it by a name.
    endpoint = {options.listen.host.empty() ? bound.host : options.listen.host, bound.port};
  }
  Fd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) return ErrnoError(errno, "cannot make an epoll");
  ASSIGN_OR_RETURN(std::shared_ptr<CommandQueue> commands, CommandQueue::Create());
  return std::unique_ptr<Engine>(std::make_unique<EngineImpl>(
      options, std::move(listener), std::move(endpoint), std::move(epoll), std::move(commands)));
}

}  // namespace atl::wan
