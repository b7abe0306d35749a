// All-reduce between regions: lane k of every region with lane k of every other, over several TCP
// connections a pair.
//
// One engine a gateway process, one listening port for all its lanes and views. Join() makes this
// gateway a member of a lane's group in a view; AllReduce() then sums vectors over that group.
// How the sum is made follows the group's plan (plan/tree_plan.h): parts of the vector are summed
// up trees and their results sent down; a root sums in member order in fp32, encodes the result
// once, and keeps the decoded bytes itself, so that all members end with the same bits (P1). The
// first member that can be called makes the plan from what all members see of their links
// (conductor.h), by a short probe in Join and then from the traffic. Equal shares cost 2 steps and
// 2 (N-1)/N S bytes a member.
//
// A connection that breaks is made again and what was lost is sent again; operations do not notice.
//
// Thread rule: any thread may call; buffers passed to AllReduce belong to the engine until the
// operation is done. Errors: an operation whose peer is lost (its gateway is gone, or silent for
// longer than the engine's patience) ends with kUnavailable and names the member; nothing hangs.
// Bad bytes or a peer without the view's key never become an operation: the connection is dropped
// and counted.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/socket.h"
#include "base/status.h"
#include "collectives/codec/codec.h"
#include "collectives/wan/plan/link_matrix.h"
#include "collectives/wan/plan/tree_plan.h"
#include "collectives/wan/transfer.h"

namespace atl::wan {

using Key = std::array<uint8_t, 32>;

// Payload of a kUnavailable status: the name of the region that was lost.
inline constexpr char kPeerPayload[] = "atoll/peer";
// Beside it, how that is known.
inline constexpr char kEvidencePayload[] = "atoll/evidence";
inline constexpr char kEvidenceSilent[] = "silent";  // nothing is heard of it
inline constexpr char kEvidenceGone[] = "gone";      // refuses calls, began anew or said farewell
inline constexpr char kEvidenceTold[] = "told";  // it lives, and told us that it lost another one

// A member that work waits for has not been heard for some seconds, or (0 seconds) is heard again.
struct Silence {
  ViewId view;
  LaneId lane;
  MemberIndex member;
  std::string name;
  double seconds = 0;
};

// A connection that calls for a view and lane that have not been joined here.
struct Call {
  ViewId view;
  LaneId lane;
  MemberIndex from;
  MemberIndex to;  // which member the caller takes this gateway for
};

struct EngineOptions {
  Endpoint listen;                  // port 0: any free one
  bool only_calls_out = false;      // nobody can call us: listens nowhere
  int streams = 0;                  // TCP connections between two gateways; 0: as the links need
  int64_t chunk_bytes = 256 << 10;  // encoded bytes that a frame carries at most
  ScheduleKind schedule = ScheduleKind::kAuto;
  // kAuto takes only plans that give the same bits as each other (plan/tree_plan.h, P10).
  bool order_stable = true;
  // AES-256-GCM. Without it frames carry checksums only; the greeting still proves the key. Both
  // ends must agree. For measuring, and for lines that are encrypted already.
  bool encrypt = true;
  // A member that is silent for so long while work waits for it is lost. The caller hears of it
  // long before (on_silence) and may cancel.
  double patience_seconds = 30;
  // Called in the I/O thread: must not block or call the engine.
  std::function<void(const Silence&)> on_silence;
  // Nothing in a call is proven yet. True: it waits until somebody joins, as without this; false:
  // its connection is dropped. In the I/O thread: must not block or call the engine.
  std::function<bool(const Call&)> on_call;
  // How far what is served yields to traffic that goes over the same lines and is not this
  // engine's (yield_rate.h). In the I/O thread, often: must not block.
  std::function<Yield()> yield;
};

// One pair of gateways, for status.
struct LinkStatus {
  ViewId view;
  LaneId lane;
  MemberIndex member;
  std::string name;
  int connections = 0;
  double rtt_seconds = 0;
  int64_t bytes_sent = 0;       // that have reached the peer since the group was joined
  double bytes_per_second = 0;  // acknowledged over about the last second
  double sending_rate = 0;      // bytes/s over about the last half minute of sending
  double retransmitted = 0;     // share of the bytes of that time that were sent again
  double paced_rate = 0;        // bytes/s; 0: not paced
  double silent_seconds = 0;
  std::string last_error;  // of the calls, while there is no connection
};

// A member whose endpoint lacks host or port only calls out.
inline bool CanBeCalled(const Endpoint& endpoint) {
  return !endpoint.host.empty() && endpoint.port != 0;
}

// One lane's peers in one view.
struct Group {
  ViewId view;
  LaneId lane;
  MemberIndex self;
  // By member index, the same in all members. The own entry says whether others can call us.
  std::vector<Endpoint> members;
  std::vector<std::string> names;  // of the members' regions, for messages
  Key key = {};                    // of the view, from the orchestrator
  // Only for transfers (transfer.h): no plan, no probe, no all-reduce. Join returns at once,
  // members may come, go and come again; who is lost takes its own transfers along and no more.
  bool transfers_only = false;
};

struct AllReduceOptions {
  Codec codec = Codec::kFp32;
  int priority = 0;        // higher goes first where operations share a link
  std::string attachment;  // small (at most kMaxAttachment): every member gets every member's
  // As long as the data, or empty: what a lossy codec took from this member's numbers is kept here
  // and sent with the next operation that gets the same residual (error feedback).
  std::span<float> residual;
  // A failed or cancelled operation leaves the buffer as it was; costs a copy.
  bool restore_on_failure = false;
};

struct AllReduceResult {
  std::vector<std::string> attachments;  // by member
  // Frames and tags included, each frame once: what was sent again after a break is not counted.
  int64_t bytes_sent = 0;
  int64_t bytes_received = 0;
  double seconds = 0;
  ScheduleKind schedule = ScheduleKind::kEqual;
  uint32_t plan_version = 0;
};

// One all-reduce under way.
class Operation {
 public:
  virtual ~Operation() = default;
  virtual bool Done() const = 0;
  // Blocks until done. A failure leaves the buffer in no particular state, or restored (see
  // AllReduceOptions).
  virtual StatusOr<AllReduceResult> Wait() = 0;
  // Blocks until done, `seconds` at most; whether it is.
  virtual bool WaitFor(double seconds) = 0;
  // The operation ends with kCancelled (unless done); when Cancel returns, the engine no longer
  // touches the buffer.
  virtual void Cancel() = 0;
  // Elements whose final value is in the buffer, for status.
  virtual int64_t elements_done() const = 0;
};

class Engine {
 public:
  static constexpr size_t kMaxAttachment = 64 << 10;

  static StatusOr<std::unique_ptr<Engine>> Create(const EngineOptions& options);
  virtual ~Engine() = default;  // cancels what is under way

  // What peers dial (the bound port filled in); of one that only calls out, nothing.
  virtual Endpoint endpoint() const = 0;

  // Dials and awaits the group's members until every connection stands and the first plan is
  // known; over long links that includes a probe of at most 4 s. Blocks at most
  // `deadline_seconds`, or 10 s more where all members are connected and only the plan is missing.
  // Both members of a pair dial, if they can; one way is enough. kDeadlineExceeded names who is
  // missing; kUnauthenticated who could not prove the key. Members that only call out have no
  // connection to each other: the first member that can be called stands between them;
  // kFailedPrecondition if there is none.
  virtual Status Join(const Group& group, double deadline_seconds) = 0;
  // Closes the connections of a view; its operations end with kCancelled.
  virtual void Leave(ViewId view) = 0;

  // Sums `data` over the members of (view, lane), in place. `id` is the same on every member,
  // unique within the view and lane, and rises. All members pass the same size and codec, else the
  // operation fails with what differs.
  virtual std::shared_ptr<Operation> AllReduce(ViewId view, LaneId lane, uint64_t id,
                                               std::span<float> data,
                                               const AllReduceOptions& options) = 0;

  // Members that have begun operation `id` of (view, lane), as far as is known here. Empty once it
  // has begun here too.
  virtual std::vector<MemberIndex> Announced(ViewId view, LaneId lane, uint64_t id) = 0;

  // Bytes for members of (view, lane) that fetch them under this name (transfer.h), from now, or
  // from the time this gateway joins, until StopServing or the group is left. What the name stood
  // for is no longer served. When StopServing or Leave returns, `source` is not read any more.
  virtual Status Serve(ViewId view, LaneId lane, const std::string& name,
                       std::shared_ptr<ByteSource> source) = 0;
  virtual void StopServing(ViewId view, LaneId lane, const std::string& name) = 0;
  // At most so many bytes a second of what is served, to all members of all groups together, from
  // now on; 0: no bound.
  virtual void CapServing(double bytes_per_second) = 0;
  // Fetches bytes from members of (view, lane). A group that breaks ends its fetches with the
  // member that was lost.
  virtual std::shared_ptr<Transfer> Fetch(ViewId view, LaneId lane, FetchRequest request) = 0;

  // What is known of the links to the members of all groups, and of the links that the first
  // callable member of a group knows from reports (empty elsewhere).
  virtual std::vector<LinkStatus> Links() = 0;
  virtual std::optional<LinkMatrix> Matrix(ViewId view, LaneId lane) = 0;

  // Since creation, over all lanes.
  virtual int64_t bytes_sent() const = 0;
  // Incoming connections that were dropped: strangers, wrong keys, bad or late bytes.
  virtual int64_t connections_refused() const { return 0; }
};

}  // namespace atl::wan
