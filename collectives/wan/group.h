// One lane's members in one view: their links, the operations under way, and what happens when a
// member is lost.
//
// - Which operation's frame goes next on a link: the highest priority, among equals the lowest id.
// - A frame for an operation that has not begun here makes its link wait (memory stays bounded by
//   the kernel's buffers). So that this cannot block what began earlier, numbers for an operation
//   go to a member that has not announced it only while it is the oldest one under way here: then
//   all that the member awaits from us for earlier ones is already on its way, ahead of it.
// - A link that breaks breaks the group: operations fail with the member's name, the other members
//   are told (Abort for each operation, then Bye), later operations fail at once.
// - A member that says Bye on all its streams has left: what needs nothing more from it goes on to
//   its end, so that members may leave as soon as they themselves are done.
// - While the group is joining, a link that breaks is dialled again or awaited anew.
//
// Nothing here destroys a link or writes to a socket from within a callback: members with something
// to send are marked, and Settle() does it. Thread rule: the I/O thread only.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "collectives/wan/exchange.h"
#include "collectives/wan/join.h"
#include "collectives/wan/link.h"

namespace atl::wan {

class GroupState {
 public:
  using Losses = std::vector<std::pair<Link*, Status>>;

  // Asks `progress` for the dials; the group stands when all links do.
  GroupState(const Group& group, int streams, int64_t chunk_bytes,
             std::shared_ptr<JoinProgress> progress);

  const Group& group() const { return group_; }
  const std::vector<Link*>& StreamsOf(int member) const { return members_[member].streams; }

  // Joining.
  Hello HelloFor(int member, int stream) const;
  // An accepted connection's hello names this group: may it go on?
  Status CheckHello(const Hello& hello) const;
  // A proven link. An error: its place is taken.
  Status Attach(Link* link);
  // A dialled connection did not become a link.
  void DialFailed(int member, int stream, const Status& status);
  // Somebody called in this member's name without the key.
  void KeyRefused(int member) { members_[member].key_refused = true; }
  // At the deadline: says who is missing.
  Status Missing(double waited_seconds) const;
  bool joining() const { return joining_; }

  // Operations. Starting and cancelling finish the handle where they must.
  void Begin(const Exchange::Parameters& parameters, std::shared_ptr<OperationHandle> handle);
  void Cancel(uint64_t id, const OperationHandle* handle);
  // Cancels all, says Bye on all links; the caller closes them gently.
  void Leave();

  // Links.
  Status OnHeader(Link* link, const FrameHeader& header) const;
  StatusOr<Link::Verdict> OnFrame(Link* link, const FrameHeader& header, Bytes payload);
  bool NextFrame(Link* link);
  // The link is no more.
  void OnLost(Link* link, const Status& status);
  // Reads on and sends what has become possible; links that broke on the way are added to `losses`.
  void Settle(Losses* losses);

 private:
  struct Announced {  // an operation that has not begun here
    Start start;
    bool started = false;
    Status aborted;
  };
  struct Member {
    std::vector<Link*> streams;  // null: missing
    int byes = 0;
    bool left = false;
    bool dirty = false;
    bool key_refused = false;
    std::string last_error;               // of dialling
    double backoff_seconds = 0;           // of dialling
    std::map<uint64_t, Announced> early;  // by operation
  };

  void WantDial(int member, int stream, double delay_seconds);
  void CheckStanding();
  StatusOr<Link::Verdict> OnStart(int member, const FrameHeader& header, Bytes payload);
  StatusOr<Link::Verdict> OnAbort(int member, const FrameHeader& header, Bytes payload);
  StatusOr<Link::Verdict> OnBye(Link* link, Bytes payload);
  StatusOr<Link::Verdict> OnNumbers(Link* link, const FrameHeader& header, Bytes payload);
  // No operation with this id will begin here any more.
  bool IsPast(uint64_t id) const;
  void TakeEarly(Exchange* exchange);
  void FinishIfComplete(uint64_t id);
  // Ends an operation; with a reason the other members are told.
  void Fail(uint64_t id, const Status& status, const Reason* reason);
  // kUnavailable, with the member's region as kPeerPayload.
  Status PeerError(int member, const std::string& message) const;
  void Break(const Status& status);
  void MemberLeft(int member, const Reason& reason);
  void SayBye(const Reason& reason);
  void SayByeIfIdle();
  void MarkDirty(int member) { members_[member].dirty = any_dirty_ = true; }
  void MarkAllDirty();
  std::string Place() const;  // "view 3, lane 0"
  std::string Name(int member) const;

  const Group group_;
  const int self_;
  const int streams_;
  const int64_t chunk_bytes_;
  const std::shared_ptr<JoinProgress> progress_;
  bool joining_ = true;
  Status broken_;  // not OK: no operation begins any more
  std::vector<Member> members_;
  std::map<uint64_t, std::unique_ptr<Exchange>> exchanges_;  // under way
  std::vector<Exchange*> order_;                             // of sending
  bool any_begun_ = false;
  uint64_t last_begun_ = 0;
  bool any_dirty_ = false;
  bool resume_ = false;  // stalled links may go on
};

}  // namespace atl::wan
