// All-reduce between regions: lane k of every region with lane k of every other, over several TCP
// connections a pair.
//
// One engine a gateway process, one listening port for all its lanes and views. Join() makes this
// gateway a member of a lane's group in a view; AllReduce() then sums vectors over that group.
// Direct exchange: member m owns the m-th share of the chunks; every other member sends it its
// contribution for them, the owner sums in member order in fp32, encodes the result once and sends
// it to all, and keeps the decoded bytes itself, so that all members end with the same bits (P1).
// Steps: 2. Bytes sent a member: about 2 (N-1)/N S for N members, S encoded bytes.
//
// Thread rule: any thread may call; buffers passed to AllReduce belong to the engine until the
// operation is done. Errors: an operation whose peer's connection breaks ends with kUnavailable and
// names the member; nothing hangs. Bad bytes or a peer without the view's key never become an
// operation: the connection is dropped and counted.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/socket.h"
#include "base/status.h"
#include "collectives/codec/codec.h"

namespace atl::wan {

using Key = std::array<uint8_t, 32>;

// Payload of a kUnavailable status: the name of the region whose connection broke.
inline constexpr char kPeerPayload[] = "atoll/peer";

struct EngineOptions {
  Endpoint listen;                  // port 0: any free one
  int streams = 2;                  // TCP connections between two gateways of a lane
  int64_t chunk_bytes = 256 << 10;  // encoded bytes that a frame carries at most
};

// One lane's peers in one view.
struct Group {
  ViewId view;
  LaneId lane;
  MemberIndex self;
  std::vector<Endpoint> members;   // by member index; the own entry is not dialled
  std::vector<std::string> names;  // of the members' regions, for messages
  Key key = {};                    // of the view, from the orchestrator
};

struct AllReduceOptions {
  Codec codec = Codec::kFp32;
  int priority = 0;        // higher goes first where operations share a link
  std::string attachment;  // small (at most kMaxAttachment): every member gets every member's
};

struct AllReduceResult {
  std::vector<std::string> attachments;  // by member
  int64_t bytes_sent = 0;                // on the wire, frames and tags included
  int64_t bytes_received = 0;
  double seconds = 0;
};

// One all-reduce under way.
class Operation {
 public:
  virtual ~Operation() = default;
  virtual bool Done() const = 0;
  // Blocks until done. On failure the buffer's content is unspecified.
  virtual StatusOr<AllReduceResult> Wait() = 0;
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

  // What peers dial (the bound port filled in).
  virtual Endpoint endpoint() const = 0;

  // Dials and awaits the group's members until every connection stands; blocks at most
  // `deadline_seconds`. The member with the higher index dials. kDeadlineExceeded names who is
  // missing; kUnauthenticated who could not prove the key.
  virtual Status Join(const Group& group, double deadline_seconds) = 0;
  // Closes the connections of a view; its operations end with kCancelled.
  virtual void Leave(ViewId view) = 0;

  // Sums `data` over the members of (view, lane), in place. `id` is the same on every member,
  // unique within the view and lane, and rises. All members pass the same size and codec, else the
  // operation fails with what differs.
  virtual std::shared_ptr<Operation> AllReduce(ViewId view, LaneId lane, uint64_t id,
                                               std::span<float> data,
                                               const AllReduceOptions& options) = 0;

  // Since creation, over all lanes.
  virtual int64_t bytes_sent() const = 0;
  // Incoming connections that were dropped: strangers, wrong keys, bad or late bytes.
  virtual int64_t connections_refused() const { return 0; }
};

}  // namespace atl::wan
