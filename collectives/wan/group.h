// One lane's members in one view: the channels to them, the operations under way, and what happens
// when a member is silent, lost or leaves.
//
// - The group stands when every channel has its links and the hub (group_relay.cc), which conducts
//   (conductor.h), has told the first plan. Each operation runs by the plan that the hub announced
//   with the start of the operation before it: an operation that begins before that start is here
//   waits.
// - Which operation's frame goes next on a link: frames that were lost with another link, then the
//   highest priority, among equals the lowest id.
// - A frame for an operation that has not begun here makes its link wait (memory stays bounded by
//   the kernel's buffers). So that this cannot block what began earlier, numbers for an operation
//   go to a member that has not announced it only while it is the oldest one under way here: then
//   all that the member awaits from us for earlier ones is already on its way, ahead of it.
// - A link that breaks is dialled again, by either side; the channel sends what was lost. A member
//   whose gateway refuses the call, or that stays silent for the engine's patience, is lost: it
//   breaks the group. Operations fail with its name, the others are told (Abort for each
//   operation, then Bye), later operations fail at once.
// - A member that says Bye has left once all that it sent before is here: what needs nothing more
//   from it goes on to its end, so that members may leave as soon as they themselves are done.
//
// - A group for transfers only has no plan and no operations, and does not break: with a member
//   that is lost only what was fetched from it or served to it ends.
//
// Nothing here destroys a link or writes to a socket from within a callback: members with something
// to send are marked, and Settle() does it. Thread rule: the I/O thread only.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "collectives/wan/channel.h"
#include "collectives/wan/conductor.h"
#include "collectives/wan/exchange.h"
#include "collectives/wan/fetching.h"
#include "collectives/wan/link.h"
#include "collectives/wan/serving.h"
#include "collectives/wan/spare_rate.h"
#include "collectives/wan/yield_rate.h"

namespace atl::wan {

class GroupState {
 public:
  using Losses = std::vector<std::pair<Link*, Status>>;

  // What a group asks of its engine.
  struct Hooks {
    std::function<void(int member)> dial;
    std::function<void(const LinkMatrix& links, const PlanRequest& request)> solve;
    std::function<void(const Status& status)> joined;  // the group stands, or cannot; once
    std::function<void(int member, double seconds)> silent;
    // Runs the first on the thread of all reads, or of all sinks, then the second on the I/O
    // thread, if the group still is.
    std::function<void(std::function<void()>, std::function<void()>)> read, sink;
    // An all-reduce is under way in some group of the engine, or somewhere else on its lines.
    std::function<bool()> numbers_flow;
    std::function<Yield()> yields;  // EngineOptions
    RateCap* cap;  // of what all groups serve together
  };

  GroupState(const Group& group, const EngineOptions& options, uint64_t incarnation, Hooks hooks);

  // Who conducts and relays: the first member that all can reach; -1: nobody can be called.
  static int HubOf(const Group& group);
  const Group& group() const { return group_; }
  uint64_t incarnation() const { return incarnation_; }

  // Joining, and links that come later.
  Hello HelloFor(int member) const;
  // An accepted connection's hello names this group: may it go on?
  Status CheckHello(const Hello& hello) const;
  // A proven link. An error: it has no place.
  Status Attach(Link* link);
  // A dialled connection did not become a link.
  void DialFailed(int member, const Status& status);
  // Somebody called in this member's name without the key.
  void KeyRefused(int member) { members_[member].key_refused = true; }
  // At the deadline: says who is missing.
  Status Missing(double waited_seconds) const;
  void OnPlanned(StatusOr<TreePlan> plan);
  // All members are connected.
  bool LinksStand() const;

  // Operations. Starting and cancelling finish the handle where they must.
  void Begin(const Exchange::Parameters& parameters, std::shared_ptr<OperationHandle> handle);
  void Cancel(uint64_t id, const OperationHandle* handle);
  // Cancels all, says Bye on all links; the caller closes them gently.
  void Leave();

  // Who has announced an operation that has not begun here.
  std::vector<MemberIndex> WhoHasBegun(uint64_t id) const;

  // Transfers (group_transfer.cc).
  Serving* serving() { return &serving_; }
  void Fetch(FetchRequest request, std::shared_ptr<FetchHandle> handle);
  void CancelFetch(const FetchHandle* handle);
  bool NumbersFlow() const { return !exchanges_.empty() || !waiting_.empty(); }

  // Links.
  Status OnHeader(Link* link, const FrameHeader& header) const;
  StatusOr<Link::Verdict> OnFrame(Link* link, const FrameHeader& header, Bytes payload);
  bool NextFrame(Link* link);
  // The link is no more.
  void OnLost(Link* link, const Status& status);
  // Reads on and sends what has become possible; links that broke on the way are added to `losses`.
  void Settle(Losses* losses);
  // Dials, pings, acknowledgements, rates. Links that have stopped moving are added to `losses`.
  // Returns when to come again; infinity: only when something happens.
  double Tick(double now, Losses* losses);
  std::vector<LinkStatus> Links(double now) const;
  // Of all links that have been measured; 0 if one has not.
  double ShortestRoundTrip() const;
  // The hub only.
  std::optional<LinkMatrix> Matrix() const;
  // What has been learned of the links; null: by another member, or nothing.
  const LinkModel* link_model() const;
  // Before the first link stands: what was learned in a view before.
  void Remember(const LinkModel& former);

 private:
  // Between calls, where they fail or what they bring does not last.
  static constexpr double kFirstBackoffSeconds = 0.02;
  static constexpr double kLastBackoffSeconds = 1;

  struct Announced {  // an operation that has not begun here
    std::optional<Start> start;
    std::string attachment;  // of a relayed start
    Status aborted;
  };
  struct Member {
    std::unique_ptr<Channel> channel;  // null: ourselves, or both only call out
    std::optional<Reason> bye;
    uint64_t bye_sequence = 0;
    uint64_t our_bye = 0;  // its number; 0: not said yet
    bool left = false;
    bool dirty = false;
    bool drop_stalled = false;  // another link broke
    bool key_refused = false;
    bool reached = false;    // a call of ours came through
    int breaches = 0;        // frames that broke the rules, not long ago
    bool unwelcome = false;  // too many, or after the group's end
    double breached_at = 0;
    int wanted_links = 1;  // that we dial
    int dialling = 0;
    double dial_at = 0;  // not before
    double backoff_seconds = 0;
    double down_since = 0;  // no link, though there were some
    bool told_silent = false;
    double told_silent_at = 0;
    bool unpaced = false;  // for a transfer, until the next operation
    SpareRate spare;
    YieldRate yielding;
    std::string last_error;               // of dialling
    std::map<uint64_t, Announced> early;  // by operation
  };
  struct Waiting {
    Exchange::Parameters parameters;
    std::shared_ptr<OperationHandle> handle;
    bool cancelled = false;  // and its handle finished: the buffer is no longer ours
  };

  // Joining and planning (group_joining.cc).
  // It has an address; else it only calls out.
  bool CanBeCalled(int member) const { return wan::CanBeCalled(group_.members[member]); }
  // Ours to add connections: the higher member's if a call of its came through, else the lower's.
  bool Leads(int index, double now) const;
  void EndSurplus(int index);

  // Members that only call out (group_relay.cc).
  bool Connected(int a, int b) const { return CanBeCalled(a) || CanBeCalled(b); }
  // A plan from the wire, which uses no pair that is not connected.
  StatusOr<NumberedPlan> ReadPlan(Bytes bytes) const;
  // At the hub: tells those that are not connected to `member`.
  void TellThoseApart(int member, const FrameHeader& header, const std::vector<uint8_t>& payload);
  void PassOnStart(uint64_t id, const RelayedStart& relayed);
  void PassOn(Exchange* exchange, int member);
  void PassOnSilence(int member, double seconds);
  Status CheckRelayed(int from, int member) const;
  StatusOr<Link::Verdict> OnRelayedStart(int from, const FrameHeader& header, Bytes payload);
  StatusOr<Link::Verdict> OnSilence(int from, Bytes payload);
  void DialDue(Member* member, int index, double now);
  Status BeganAnew(int index);
  void CheckStanding();
  void OnFirstPlan(const NumberedPlan& plan);
  void BeginProbe(double seconds);
  void EndProbe();
  void SendReports(uint64_t operation);
  void PaceLinks(const TreePlan& plan, double bytes);
  void ForgetRates();
  void WantLinks();
  int LinksFor(int index) const;
  StatusOr<Link::Verdict> OnPlan(int member, Bytes payload);
  StatusOr<Link::Verdict> OnReport(int member, uint64_t operation, Bytes payload);
  Status TakeNextPlan(const Start& start);

  // Operations and frames (group.cc).
  void BeginWaiting();
  void BeginNow(Waiting waiting);
  StatusOr<Link::Verdict> OnSequenced(Link* link, const FrameHeader& header, Bytes payload);
  StatusOr<Link::Verdict> OnStart(int member, const FrameHeader& header, Bytes payload);
  StatusOr<Link::Verdict> OnAbort(int member, const FrameHeader& header, Bytes payload);
  StatusOr<Link::Verdict> OnBye(Link* link, const FrameHeader& header, Bytes payload);
  StatusOr<Link::Verdict> OnNumbers(Link* link, const FrameHeader& header, Bytes payload);
  // No operation with this id will begin here any more.
  bool IsPast(uint64_t id) const;
  void TakeEarly(Exchange* exchange);
  void FinishIfComplete(uint64_t id);
  // Takes the operation off the lists; what it has sent can no longer be written again.
  std::unique_ptr<Exchange> Remove(uint64_t id);
  // Ends an operation; with a reason the other members are told.
  void Fail(uint64_t id, const Status& status, const Reason* reason);

  // Transfers (group_transfer.cc).
  Serving MakeServing();
  int64_t TransferFrameBytes(int member) const;
  Fetching MakeFetching();
  StatusOr<Link::Verdict> OnTransfer(int member, const FrameHeader& header, Bytes payload);
  bool AppendTransfer(Channel* channel, Link* link);
  void BeginToYield(Member* member, double now);
  // Something is asked for here or there, or not acknowledged.
  bool Transfers(int member) const;
  void TickTransfer(Member* member, int index, double now, Losses* losses);
  // Nothing is fetched from it or served to it any more.
  void EndTransfers(int member, const Status& why);

  // Members that are silent, lost or leave (group_members.cc).
  // `evidence`: one of kEvidence...
  Status PeerError(int member, const std::string& message, const char* evidence) const;
  // `member` is lost, and with it the group.
  void Break(int member, const std::string& message, const char* evidence);
  void CheckLeft(int member);
  void MemberLeft(int member, const Reason& reason);
  void SayBye(const Reason& reason);
  void SayByeIfIdle();
  // Broken, and all operations have come to their end.
  bool Ended() const { return !broken_.ok() && exchanges_.empty(); }
  // The group has ended and a member may not know.
  bool Untold(const Member& member, double now) const;
  bool Working() const { return !exchanges_.empty() || !waiting_.empty() || joining_; }
  void SendAcks(int index);
  void Watch(Member* member, int index, double now, Losses* losses);

  void MarkDirty(int member) { members_[member].dirty = any_dirty_ = true; }
  void MarkAllDirty();
  std::string Place() const;  // "view 3, lane 0"
  std::string Name(int member) const;
  int members() const { return static_cast<int>(members_.size()); }

  const Group group_;
  const EngineOptions options_;
  const uint64_t incarnation_;
  const Hooks hooks_;
  const int self_;
  const int hub_;
  std::unique_ptr<Conductor> conductor_;  // the hub's only
  std::vector<Member> members_;
  bool joining_ = true;
  bool stood_ = false;  // the links have been reported to stand
  Status broken_;       // not OK: no operation begins any more
  double broken_at_ = 0;
  std::optional<int> broken_by_;  // who was lost or left

  std::optional<NumberedPlan> plan_;     // of the next operation to begin
  std::optional<uint64_t> plan_awaits_;  // the operation whose start from the hub tells the plan
  double probe_until_ = 0;               // 0: no probe

  Serving serving_;
  Fetching fetching_;

  std::deque<Waiting> waiting_;                              // for their plan
  std::map<uint64_t, std::unique_ptr<Exchange>> exchanges_;  // under way
  std::vector<Exchange*> order_;                             // of sending
  bool any_begun_ = false;
  uint64_t last_begun_ = 0;  // or waiting
  double last_active_ = 0;
  bool any_dirty_ = false;
  bool any_surplus_ = false;
  bool resume_ = false;  // stalled links may go on
};

}  // namespace atl::wan
