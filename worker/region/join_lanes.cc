// Connecting this worker's lanes to the other regions, and what is known of the lines afterwards.
//
//   1. Threads join the lanes' groups, up to kMostThreads lanes at once, lowest first: dialling,
//      probing and planning of one lane do not wait for another's. An attempt that somebody has
//      missed is made anew: a peer may take much longer, loading a large checkpoint.
//   2. Meanwhile the region's ranks tell one another every kAgreeSeconds how they stand. All stand:
//      done. One cannot, or the leader has given the view up (a newer one, or a stop): all end, at
//      once, by leaving the view, which ends the attempts under way.
// A dead peer is the orchestrator's to notice, which then ends the job or makes another view.
#include <algorithm>
#include <functional>
#include <optional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "worker/region/view_state.h"

namespace atl {
namespace {

constexpr double kJoinSeconds = 5;
constexpr int64_t kMostThreads = 64;
constexpr double kAgreeSeconds = 0.1;
constexpr double kLeaveSeconds = 0.05;  // between two tries to end attempts that just began

// What the threads of the lanes tell the one that waits for them.
struct Joining {
  Mutex mutex;
  CondVar changed;
  int64_t next ABSL_GUARDED_BY(mutex) = 0;     // lane
  int64_t end ABSL_GUARDED_BY(mutex) = 0;      // of the own lanes
  int64_t running ABSL_GUARDED_BY(mutex) = 0;  // threads
  Status failure ABSL_GUARDED_BY(mutex);
  bool stop ABSL_GUARDED_BY(mutex) = false;
};

// Takes lanes from [next, end) until there are no more.
void JoinInTurn(wan::Engine* engine,
                const std::function<StatusOr<wan::Group>(int64_t lane)>& group_of,
                Joining* joining) {
  std::optional<wan::Group> group;
  for (;;) {
    int64_t lane = -1;
    {
      MutexLock lock(&joining->mutex);
      const bool over = joining->stop || !joining->failure.ok();
      if (!group && !over && joining->next < joining->end) lane = joining->next++;
      if (over || (!group && lane < 0)) {
        --joining->running;
        joining->changed.NotifyAll();
        return;
      }
    }
    Status status;
    if (!group) {
      StatusOr<wan::Group> found = group_of(lane);
      if (found.ok()) group = *std::move(found);
      status = found.status();
    }
    if (status.ok()) status = engine->Join(*group, kJoinSeconds);
    if (absl::IsDeadlineExceeded(status)) {
      LOG(INFO) << "still connecting: " << status.message();
      continue;
    }
    group.reset();
    MutexLock lock(&joining->mutex);
    if (!status.ok() && !joining->stop && joining->failure.ok()) joining->failure = status;
  }
}

// Ends the attempts under way, and those that begin in this very moment.
void EndAttempts(wan::Engine* engine, ViewId view, Joining* joining) {
  for (;;) {
    {
      MutexLock lock(&joining->mutex);
      joining->stop = true;
    }
    engine->Leave(view);
    MutexLock lock(&joining->mutex);
    if (joining->running > 0) joining->changed.WaitFor(&joining->mutex, kLeaveSeconds);
    if (joining->running == 0) break;
  }
  engine->Leave(view);
}

// Lanes side by side: rates add up, the longest round trip and silence count, and each lane's
// losses by its rate.
std::vector<pb::WanLink> SumByRegion(const std::vector<pb::WanLink>& links) {
  std::map<std::string, pb::WanLink> sums;
  for (const pb::WanLink& link : links) {
    pb::WanLink& sum = sums[link.region()];
    const double rate = sum.up_rate() + link.up_rate();
    if (rate > 0) {
      sum.set_retransmitted(
          (sum.up_rate() * sum.retransmitted() + link.up_rate() * link.retransmitted()) / rate);
    }
    sum.set_region(link.region());
    sum.set_connections(sum.connections() + link.connections());
    sum.set_bytes_sent(sum.bytes_sent() + link.bytes_sent());
    sum.set_up_rate(rate);
    sum.set_rtt_seconds(std::max(sum.rtt_seconds(), link.rtt_seconds()));
    sum.set_silent_seconds(std::max(sum.silent_seconds(), link.silent_seconds()));
  }
  std::vector<pb::WanLink> all;
  for (auto& [region, sum] : sums) all.push_back(std::move(sum));
  return all;
}

}  // namespace

StatusOr<wan::Group> RegionWorker::GroupOfLane(int64_t lane) const {
  const pb::View& view = view_->view;
  wan::Group group;
  group.view = ViewId{view.id()};
  group.lane = LaneId{lane};
  group.self = MemberIndex{view_->member};
  for (const pb::Member& member : view.members()) {
    ASSIGN_OR_RETURN(const Endpoint endpoint,
                     Endpoint::Parse(member.gateways(static_cast<int>(lane))));
    group.members.push_back(endpoint);
    group.names.push_back(member.region());
  }
  std::copy(view.key().begin(), view.key().end(), group.key.begin());
  return group;
}

bool RegionWorker::Abandoned() const { return abandoned_view_.load() >= view_->view.id(); }

Status RegionWorker::JoinLanes(pb::RegionAnswer* answer) {
  const Range own = view_->lanes->LanesOfWorker(control_->rank(), control_->size());
  Doing(absl::StrCat("connecting to the other regions, ", own.size(), " lanes"));
  Joining joining;
  {
    MutexLock lock(&joining.mutex);
    joining.next = own.begin;
    joining.end = own.end;
    joining.running = std::min(own.size(), kMostThreads);
  }
  std::vector<std::thread> threads;
  const auto group_of = [this](int64_t lane) { return GroupOfLane(lane); };
  for (int64_t i = 0; i < std::min(own.size(), kMostThreads); ++i) {
    threads.emplace_back([&] { JoinInTurn(wan_.get(), group_of, &joining); });
  }
  // '.' joined, '?' not yet, '!' can't be, 'x' the view was given up
  std::string told, marks;
  Status status;
  do {
    {
      MutexLock lock(&joining.mutex);
      const auto mine = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(joining.mutex) {
        if (Abandoned()) return "x";
        if (!joining.failure.ok()) return "!";
        return joining.running > 0 ? "?" : ".";
      };
      if (mine() == told) joining.changed.WaitFor(&joining.mutex, kAgreeSeconds);
      told = mine();
    }
    TellWhoIsMissing(own.size());
    const auto all = control_->AllGatherBytes(told);
    marks.clear();
    if (all.ok()) {
      for (const std::string& mark : *all) marks += mark;
    } else {
      status = all.status();
    }
  } while (status.ok() && marks.find_first_of("x!") == std::string::npos &&
           marks.find('?') != std::string::npos);
  const bool joined = status.ok() && marks.find_first_not_of('.') == std::string::npos;
  if (!joined) EndAttempts(wan_.get(), ViewId{view_->view.id()}, &joining);
  for (std::thread& thread : threads) thread.join();
  if (joined || !status.ok()) return status;
  if (marks.find('x') != std::string::npos) {
    answer->set_interrupted(true);
    return absl::CancelledError("the view was given up");
  }
  MutexLock lock(&joining.mutex);
  if (!joining.failure.ok()) return joining.failure;
  return absl::UnavailableError("another worker of the region could not connect");
}

void RegionWorker::TellWhoIsMissing(int64_t lanes) {
  const std::vector<std::string> others = OtherRegions();
  const std::vector<wan::LinkStatus> links = wan_->Links();
  // Between two attempts a lane has none.
  if (links.size() != others.size() * std::min(lanes, kMostThreads)) return;
  std::vector<std::string> missing;
  for (const std::string& name : others) {
    const bool one_is = std::any_of(links.begin(), links.end(), [&](const wan::LinkStatus& link) {
      return link.name == name && link.connections == 0;
    });
    if (one_is) missing.push_back(name);
  }
  if (!missing.empty()) {
    activity_.WaitFor(SomeNames(missing), "until the orchestrator no longer hears of them");
  } else if (!others.empty()) {
    activity_.WaitFor("the first plan", "the links are being measured, for 4 s at most");
  }
}

std::vector<pb::WanLink> RegionWorker::OwnLinks() const {
  wan::Engine* const engine = engine_.load();
  std::vector<pb::WanLink> links;
  if (engine == nullptr) return links;
  for (const wan::LinkStatus& status : engine->Links()) {
    pb::WanLink link;
    link.set_region(status.name);
    link.set_connections(status.connections);
    link.set_bytes_sent(status.bytes_sent);
    link.set_up_rate(status.sending_rate);
    link.set_rtt_seconds(status.rtt_seconds);
    link.set_retransmitted(status.retransmitted);
    link.set_silent_seconds(status.silent_seconds);
    links.push_back(std::move(link));
  }
  return SumByRegion(links);
}

std::vector<pb::WanLink> RegionWorker::links() const {
  std::vector<pb::WanLink> links = OwnLinks();
  // Without a view of its own the others' are of one that is no more.
  if (links.empty()) return links;
  MutexLock lock(&mutex_);
  for (const auto& [rank, others] : links_of_others_) {
    links.insert(links.end(), others.begin(), others.end());
  }
  return SumByRegion(links);
}

}  // namespace atl
