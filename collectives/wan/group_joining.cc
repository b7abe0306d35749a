// How a group comes to stand: who dials whom, which connections are let in, who is missing; the
// probe and the plans (group.h).
#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/units.h"
#include "collectives/wan/group.h"

namespace atl::wan {
namespace {

// From here on a pair gets more connections; from twice that on, BBR (link.cc).
constexpr double kFarRoundTripSeconds = 1e-3;
constexpr int kShortLinks = 2;  // connections of a pair that is near
constexpr int kLongLinks = 4;   // and of one that is far, until its rate is known
constexpr int kLeastLinks = 2;  // of which numbers use so many at least
// One connection keeps about this many bytes under way by the kernel's defaults (4 MB to send,
// half of 6 MB to receive); BBR wants twice the line's delay times its rate.
constexpr double kBytesUnderWay = 2.5e6;
constexpr double kUnderWayGain = 2;
constexpr double kLeastPace = 125e3;
// So many bytes of a pair may leave within a round trip, whatever its rate.
constexpr double kMostBurst = 256 << 10;
constexpr double kLeastBurstSeconds = 0.02;
// A member whose host refuses our calls, and which we never reached, may still call us for so long.
constexpr double kCallBackSeconds = 2;
// The lower member adds connections only if no call of the higher one came through meanwhile.
constexpr double kYieldSeconds = 0.05;
constexpr double kYieldRoundTrips = 3;

double Now() { return Clock::Real()->MonotonicSeconds(); }

}  // namespace

// ---- dialling

Hello GroupState::HelloFor(int member) const {
  Hello hello;
  hello.view = static_cast<uint64_t>(group_.view.value);
  hello.lane = static_cast<uint32_t>(group_.lane.value);
  hello.from = static_cast<uint16_t>(self_);
  hello.to = static_cast<uint16_t>(member);
  hello.incarnation = incarnation_;
  hello.plain = options_.encrypt ? 0 : 1;
  return hello;
}

// One first, which shows how far it is: both sides call, because a firewall may stop either. Then
// as many as suit, by the side whose calls come through.
void GroupState::DialDue(Member* member, int index, double now) {
  if (member->left || member->bye.has_value() || now < member->dial_at) return;
  if (!CanBeCalled(index)) return;
  const int links = static_cast<int>(member->channel->links().size());
  const int wanted = links == 0 ? 1 : Leads(index, now) ? member->wanted_links : links;
  while (links + member->dialling < wanted) {
    ++member->dialling;
    hooks_.dial(index);
  }
}

bool GroupState::Leads(int index, double now) const {
  const Channel& channel = *members_[index].channel;
  double first = 0;
  for (const Link* const link : channel.links()) {
    if (link->dialled()) {
      first = first == 0 ? link->attached : std::min(first, link->attached);
    } else if (index > self_) {
      return false;
    }
  }
  if (first == 0 || index < self_) return first > 0;
  return now - first > kYieldSeconds + kYieldRoundTrips * channel.rtt_seconds();
}

// Both called, and both calls came through: the higher member ends the lower one's, last first.
void GroupState::EndSurplus(int index) {
  const Member& member = members_[index];
  if (index > self_ || !Leads(index, 0)) return;
  const std::vector<Link*>& links = member.channel->links();
  int surplus = static_cast<int>(links.size()) - std::max(1, member.wanted_links);
  for (auto at = links.rbegin(); at != links.rend() && surplus > 0; ++at) {
    if ((*at)->dialled() || (*at)->surplus) continue;
    (*at)->surplus = true;
    any_surplus_ = true;
    --surplus;
  }
}

Status GroupState::CheckHello(const Hello& hello) const {
  if (hello.to != self_ || hello.from == self_ || hello.from >= static_cast<int>(members_.size())) {
    return absl::InvalidArgumentError(absl::StrCat("a call from member ", hello.from, " to member ",
                                                   hello.to, " has no place in ", Place()));
  }
  const Member& member = members_[hello.from];
  if (member.channel == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("a call from ", Name(hello.from), ", to which there is no way"));
  }
  if ((hello.plain != 0) == options_.encrypt) {
    return absl::InvalidArgumentError(absl::StrCat(
        Name(hello.from), " called ", hello.plain != 0 ? "without" : "with", " encryption"));
  }
  // Those who have taken part in it are told what broke it; for others there is nothing left.
  const bool newcomer = hello.incarnation != member.channel->incarnation;
  if (!broken_.ok() && (newcomer || member.left || (Ended() && !Untold(member, Now())))) {
    return absl::AlreadyExistsError(Place() + " is broken");
  }
  if (member.channel->links().size() >= static_cast<size_t>(kMaxStreams)) {
    return absl::ResourceExhaustedError(
        absl::StrCat("too many connections from ", Name(hello.from)));
  }
  return OkStatus();
}

Status GroupState::Attach(Link* link) {
  const int index = link->member();
  Member& member = members_[index];
  Channel* const channel = member.channel.get();
  if (link->dialled()) {
    member.dialling = std::max(0, member.dialling - 1);
    member.reached = true;
  } else {
    RETURN_IF_ERROR(CheckHello(link->hello()));
  }
  if (channel->incarnation != link->peer_incarnation()) {
    if (channel->incarnation != 0) RETURN_IF_ERROR(BeganAnew(index));
    channel->incarnation = link->peer_incarnation();
  }
  link->Tune();
  channel->Attach(link, Now());
  member.down_since = 0;
  if (Ended()) {
    SayByeIfIdle();
    return OkStatus();
  }
  if (options_.streams > 0) {
    member.wanted_links = options_.streams;
  } else if (member.wanted_links == 1) {
    const StatusOr<TcpState> state = link->Tcp();
    const bool far = state.ok() && state->rtt_seconds > kFarRoundTripSeconds;
    member.wanted_links = far ? kLongLinks : kShortLinks;
  }
  EndSurplus(index);
  DialDue(&member, index, Now());
  CheckStanding();
  MarkDirty(index);
  return OkStatus();
}

// A gateway that gave up joining and tries again. Once operations have begun it has missed some.
Status GroupState::BeganAnew(int index) {
  Member& member = members_[index];
  bool missed = any_begun_ || !member.early.empty();
  for (const Member& other : members_) {
    if (index == hub_ && other.channel == nullptr) missed = missed || !other.early.empty();
  }
  if (missed) {
    const std::string message =
        absl::StrCat("lost ", Name(index), " (", Place(), "): its gateway began anew");
    Break(index, message, kEvidenceGone);
    return absl::AlreadyExistsError(message);
  }
  EndTransfers(index, absl::UnavailableError("its gateway began anew"));
  member.channel->Restart();
  member.bye.reset();
  member.left = false;
  if (conductor_ != nullptr) conductor_->Restarted(index);
  if (index == hub_) stood_ = false;
  return OkStatus();
}

void GroupState::DialFailed(int index, const Status& status) {
  Member& member = members_[index];
  member.dialling = std::max(0, member.dialling - 1);
  if (joining_ && broken_.ok() &&
      (absl::IsUnauthenticated(status) || absl::IsFailedPrecondition(status))) {
    hooks_.joined(Annotate(status, absl::StrCat("while joining ", Place(), ": ", Name(index),
                                                " at ", group_.members[index].ToString())));
    return;
  }
  member.last_error = std::string(status.message());
  member.backoff_seconds =
      std::clamp(2 * member.backoff_seconds, kFirstBackoffSeconds, kLastBackoffSeconds);
  const double now = Now();
  member.dial_at = now + member.backoff_seconds;
  if (joining_ || Ended() || member.left || member.channel->up()) return;
  // Its host answers and nobody listens there: the gateway is gone. One that no call of ours ever
  // reached may be out of reach for calls, and has a little time for its own.
  const bool gone =
      IsConnectionRefused(status) && (member.reached || now - member.down_since > kCallBackSeconds);
  if (gone) {
    Break(index, absl::StrCat("lost ", Name(index), " (", Place(), "): ", status.message()),
          kEvidenceGone);
  }
}

bool GroupState::LinksStand() const {
  for (int index = 0; index < members(); ++index) {
    const Member& member = members_[index];
    if (member.channel == nullptr) continue;
    const int links = static_cast<int>(member.channel->links().size());
    const bool ours = index < self_ && Leads(index, 0);
    if (links < (ours ? std::max(1, member.wanted_links) : 1)) return false;
  }
  return true;
}

void GroupState::CheckStanding() {
  if (group_.transfers_only || stood_ || !LinksStand()) return;
  stood_ = true;
  SendReports(0);
}

Status GroupState::Missing(double waited_seconds) const {
  std::vector<std::string> missing;
  bool refused = false;
  for (int index = 0; index < members(); ++index) {
    const Member& member = members_[index];
    if (member.channel == nullptr || member.channel->up()) continue;
    refused = refused || member.key_refused;
    std::string why = member.last_error;
    if (member.key_refused) {
      why = "it called, but could not prove that it has the view's key";
    } else if (!CanBeCalled(index)) {
      missing.push_back(Name(index) + " (it only calls out, and has not called)");
      continue;
    } else if (why.empty()) {
      why = "it has neither answered nor called";
    }
    missing.push_back(
        absl::StrCat(Name(index), " at ", group_.members[index].ToString(), " (", why, ")"));
  }
  if (missing.empty()) missing.push_back("the other members, which still wait for somebody");
  const std::string message =
      absl::StrCat("while joining ", Place(), ": waited ", FormatDuration(waited_seconds), " for ",
                   absl::StrJoin(missing, ", "));
  return refused ? absl::UnauthenticatedError(message) : absl::DeadlineExceededError(message);
}

// ---- the probe and the plans

// After an operation, or with the number 0.
void GroupState::SendReports(uint64_t operation) {
  std::vector<LinkReport> reports;
  for (int index = 0; index < members(); ++index) {
    Member& member = members_[index];
    if (member.channel == nullptr) {
      if (index == self_) continue;
      LinkReport apart;
      apart.from = self_;
      apart.to = index;
      apart.reachable = false;
      reports.push_back(apart);
      continue;
    }
    member.channel->Sample();
    reports.push_back(member.channel->Report());
  }
  if (conductor_ != nullptr) {
    conductor_->OnReport(self_, std::move(reports), operation);
    return;
  }
  FrameHeader header;
  header.type = FrameType::kReport;
  header.operation = operation;
  members_[hub_].channel->SendSmall(header, EncodeReports(reports));
  MarkDirty(hub_);
}

StatusOr<Link::Verdict> GroupState::OnReport(int member, uint64_t operation, Bytes payload) {
  if (conductor_ == nullptr) return absl::InvalidArgumentError("it reported to a wrong member");
  ASSIGN_OR_RETURN(std::vector<LinkReport> reports, ParseReports(payload, members(), member));
  conductor_->OnReport(member, std::move(reports), operation);
  return Link::Verdict::kTaken;
}

StatusOr<Link::Verdict> GroupState::OnPlan(int member, Bytes payload) {
  if (member != hub_) return absl::InvalidArgumentError("it told a plan that is not its to tell");
  ASSIGN_OR_RETURN(const std::optional<double> probe, ParseProbeRequest(payload));
  if (probe.has_value()) {
    BeginProbe(*probe);
    MarkAllDirty();
    return Link::Verdict::kTaken;
  }
  ASSIGN_OR_RETURN(const NumberedPlan plan, ReadPlan(payload));
  if (any_begun_) return absl::InvalidArgumentError("it told a first plan late");
  OnFirstPlan(plan);
  return Link::Verdict::kTaken;
}

void GroupState::BeginProbe(double seconds) {
  probe_until_ = Now() + seconds;
  for (Member& member : members_) {
    if (member.channel != nullptr) member.channel->BeginBurst();
  }
}

void GroupState::EndProbe() {
  probe_until_ = 0;
  SendReports(0);
}

void GroupState::OnFirstPlan(const NumberedPlan& plan) {
  plan_ = plan;
  joining_ = false;
  WantLinks();
  PaceLinks(plan_->plan, 0);
  hooks_.joined(OkStatus());
}

void GroupState::OnPlanned(StatusOr<TreePlan> plan) {
  if (conductor_ != nullptr) conductor_->OnPlanned(std::move(plan));
}

Status GroupState::TakeNextPlan(const Start& start) {
  if (!start.next_plan.empty()) {
    ASSIGN_OR_RETURN(plan_, ReadPlan(start.next_plan));
  }
  plan_awaits_.reset();
  return OkStatus();
}

// Each pair gets the rate at which the plan of the operation that begins uses it (which is not
// always the newest plan), a little more so that spare room shows; and not less than what is under
// way needs. What a pair sends of a short vector may leave within a round trip, whatever its rate
// is thought to be: a queue takes that, and so short an operation tells nothing about rates, so
// that one that is believed to be low would stay so. `bytes`: of the encoded vector.
void GroupState::PaceLinks(const TreePlan& plan, double bytes) {
  const bool alone = exchanges_.size() <= 1;
  const std::vector<double> loads = EdgeLoads(plan);
  double least_gain = std::numeric_limits<double>::infinity();
  int used = 0;
  for (int index = 0; index < members(); ++index) {
    const Channel* const channel = members_[index].channel.get();
    if (channel == nullptr || loads[self_ * members() + index] <= 0) continue;
    least_gain = std::min(least_gain, channel->pace_gain().value());
    ++used;
  }
  if (used == 1) least_gain = std::numeric_limits<double>::infinity();
  for (int index = 0; index < members(); ++index) {
    Channel* const channel = members_[index].channel.get();
    if (channel == nullptr) continue;
    const double rate = loads[self_ * members() + index] * plan.throughput;
    if (options_.streams == 0 && plan.throughput > 0) {
      channel->UseLinks(channel->lossy() ? kMaxStreams : std::max(kLeastLinks, LinksFor(index)));
    }
    const double sends = bytes * loads[self_ * members() + index];
    const double burst =
        sends <= kMostBurst ? sends / std::max(kLeastBurstSeconds, channel->min_rtt_seconds()) : 0;
    const double pace =
        plan.throughput > 0
            ? std::max({kLeastPace, burst, channel->pace_gain().Pace(rate, least_gain)})
            : std::numeric_limits<double>::infinity();
    channel->Pace(alone ? pace : std::max(pace, channel->paced_rate()));
  }
}

void GroupState::ForgetRates() {
  for (Member& member : members_) {
    if (member.channel == nullptr) continue;
    for (Link* const link : member.channel->links()) {
      if (link->ready()) link->ForgetRate();
    }
  }
}

// So many connections as keep the pair's planned rate under way.
int GroupState::LinksFor(int index) const {
  const std::vector<double> loads = EdgeLoads(plan_->plan);
  const double rate = plan_->plan.throughput *
                      std::max(loads[self_ * members() + index], loads[index * members() + self_]);
  const double under_way = kUnderWayGain * rate * members_[index].channel->min_rtt_seconds();
  return static_cast<int>(std::min<double>(std::ceil(under_way / kBytesUnderWay), kMaxStreams / 4));
}

void GroupState::WantLinks() {
  if (options_.streams > 0 || !plan_.has_value() || plan_->plan.throughput <= 0) return;
  for (int index = 0; index < members(); ++index) {
    Member& member = members_[index];
    if (member.channel == nullptr) continue;
    member.wanted_links = std::max(member.wanted_links, LinksFor(index));
  }
}

}  // namespace atl::wan
