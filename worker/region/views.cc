// Views that change, as one worker lives through them (docs/protocols/membership.md).
//
//   PrepareView  begins to join the lanes of a view in the background, and to make room for what
//                its observers will fetch
//   SwitchView   1. joins them, or waits until that is done;
//                2. leaves the former view: rounds belong to the new one;
//                3. a full member serves a copy of its outer state if there are observers; an
//                   observer without state begins to listen and to fetch (observe.cc).
//
// Invariant: at most two views are connected: the present one, and one that is prepared.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "worker/region/replica.h"

namespace atl {
namespace {

constexpr double kAgreeSeconds = 0.1;

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

int RegionWorker::MemberOf(const pb::View& view) const {
  for (int member = 0; member < view.members_size(); ++member) {
    if (view.members(member).region() == options_.region) return member;
  }
  return -1;
}

bool RegionWorker::Observes(const pb::View& view) const {
  return view.members(MemberOf(view)).role() == pb::Member::OBSERVER;
}

StatusOr<std::vector<wan::Group>> RegionWorker::OwnGroups(const pb::View& view) const {
  const int self = MemberOf(view);
  if (self < 0) return absl::InternalError("this region is not in the view");
  std::vector<wan::Group> groups;
  for (int lane = 0; lane < view.lanes(); ++lane) {
    if (WorkerOfLane(lane, view.lanes(), control_->size()) != control_->rank()) continue;
    wan::Group& group = groups.emplace_back();
    group.view = ViewId{view.id()};
    group.lane = LaneId{lane};
    group.self = MemberIndex{self};
    for (const pb::Member& member : view.members()) {
      ASSIGN_OR_RETURN(const Endpoint endpoint, Endpoint::Parse(member.gateways(lane)));
      group.members.push_back(endpoint);
      group.names.push_back(member.region());
    }
    std::copy(view.key().begin(), view.key().end(), group.key.begin());
  }
  return groups;
}

Status RegionWorker::PrepareView(const pb::View& view) {
  joiner_.reset();
  ASSIGN_OR_RETURN(std::vector<wan::Group> groups, OwnGroups(view));
  prepared_ = view;
  joiner_ = std::make_unique<LaneJoiner>(wan_.get(), ViewId{view.id()}, std::move(groups));
  return OkStatus();
}

Status RegionWorker::JoinPrepared(pb::RegionAnswer* answer) {
  Doing(absl::StrCat("connecting to the other regions, view ", prepared_.id(), ", ",
                     prepared_.lanes(), " lanes"));
  Agreement agreement;
  do {
    joiner_->WaitFor(kAgreeSeconds);
    TellWhoIsMissing(prepared_);
    ASSIGN_OR_RETURN(agreement, Agree(joiner_->joined(), joiner_->failure()));
  } while (!agreement.done && !agreement.interrupted && !agreement.broken &&
           agreement.failure.ok());
  if (!agreement.done) {
    joiner_.reset();
    return GivenUp(agreement, answer);
  }
  joiner_->Keep();
  joiner_.reset();
  StopServing();
  following_.reset();
  if (view_.id() > 0 && view_.id() != prepared_.id()) wan_->Leave(ViewId{view_.id()});
  view_ = prepared_;
  if (replica_ != nullptr) {
    if (CopiedElements(view_, false) == 0) replica_->outer_room.reset();
    if (CopiedElements(view_, true) == 0) replica_->inner_room.reset();
  }
  MutexLock lock(&mutex_);
  links_of_others_.clear();
  return OkStatus();
}

Status RegionWorker::SwitchView(const pb::SwitchView& command, pb::RegionAnswer* answer) {
  const pb::View& view = command.view();
  if (replica_ != nullptr && has_state_ && replica_->lanes->lanes() != view.lanes()) {
    return absl::InternalError(absl::StrCat("view ", view.id(), " has ", view.lanes(),
                                            " lanes, the state here ", replica_->lanes->lanes()));
  }
  if (joiner_ == nullptr || prepared_.id() != view.id()) {
    RETURN_IF_ERROR(PrepareView(view));
  }
  prepared_ = view;  // of a planned one, what depends on the edge is known by now
  MakeRoom(view);
  RETURN_IF_ERROR(JoinPrepared(answer));
  const bool fetch = Observes(view) && (command.fetch() || !has_state_);
  if (replica_ == nullptr || (fetch && replica_->lanes->lanes() != view.lanes())) {
    RETURN_IF_ERROR(MakeReplica(view.lanes()));
  }
  LOG(INFO) << "view " << view.id() << ": member " << MemberOf(view) << " of "
            << view.members_size() << (fetch ? ", an observer without state" : "");
  // What is held of former days stays in memory until what is fetched takes its place.
  return fetch ? BeginFollowing() : ServeState();
}

void RegionWorker::TellWhoIsMissing(const pb::View& view) {
  const std::vector<std::string> others = OtherRegions(view);
  std::vector<std::string> missing;
  size_t known = 0;
  for (const wan::LinkStatus& link : wan_->Links()) {
    if (link.view.value != view.id()) continue;
    ++known;
    const bool is_new = std::find(missing.begin(), missing.end(), link.name) == missing.end();
    if (link.connections == 0 && is_new) missing.push_back(link.name);
  }
  // Between two attempts a lane has none.
  if (known % std::max<size_t>(1, others.size()) != 0 || known == 0) return;
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
