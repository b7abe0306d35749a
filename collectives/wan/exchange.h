// One all-reduce in its group: the agreement before numbers flow (starts), the attachments, and the
// reduction, put into frames. Knows links and channels only as places to append frames to.
//
// Invariant: on every stream our start comes before the operation's other frames, so that a
// receiver knows an operation before it sees its numbers. Thread rule: the I/O thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "collectives/wan/channel.h"
#include "collectives/wan/link.h"
#include "collectives/wan/operation.h"
#include "collectives/wan/reduction.h"
#include "collectives/wan/relayed.h"

namespace atl::wan {

class Exchange : public PieceSource {
 public:
  struct Parameters {
    uint64_t id = 0;
    int members = 0;
    int self = 0;
    int64_t chunk_bytes = 0;
    AllReduceOptions options;
    std::span<float> data;
    double began = 0;  // monotonic seconds
    NumberedPlan plan;
    std::vector<bool> apart;         // by member: we have no channel to it
    std::vector<uint8_t> next_plan;  // to be announced with our start
  };

  Exchange(const Parameters& parameters, std::shared_ptr<OperationHandle> handle);

  uint64_t id() const { return id_; }
  int priority() const { return priority_; }
  OperationHandle* handle() const { return handle_.get(); }

  // Sends our start to the channel's member, over this link, unless it was sent before.
  void Announce(Channel* channel, Link* link);
  // Appends the next frame for the link's member; false if there is none for now. Unless `eager`,
  // only to members whose start is here.
  bool AppendNext(Channel* channel, Link* link, bool eager);

  // kInvalidArgument says what differs; it fails the operation, not the connection.
  Status TakeStart(int member, const Start& start);
  // Of a member that we have no channel to; empty where there is none, or the hub has failed.
  void TakeRelayedAttachment(int member, std::string attachment);
  // The member's start and attachment, once, when both are here.
  std::optional<RelayedStart> ToPassOn(int member);
  // Errors of these two are breaches of the protocol.
  Status Check(int member, const FrameHeader& header) const;
  Status Take(int member, const FrameHeader& header, Bytes payload);

  void Forget(int member);
  bool Needs(int member) const;
  bool Complete() const;
  AllReduceResult Result(double now) const;
  // The buffer gets back what it held at the start, if that was kept.
  void Restore();

  // PieceSource
  void Rewrite(const Reduction::Piece& piece, uint8_t* out) override {
    reduction_.WritePiece(piece, out);
  }

 private:
  struct Peer {
    std::optional<Start> start;                 // its
    std::shared_ptr<const StartFrame> started;  // ours, once it has its number
    bool attachment_sent = false;               // or there is nothing to send
    bool attachment_here = false;
    bool passed_on = false;
    bool gone = false;
  };

  static ReductionShape ShapeOf(const Parameters& parameters);
  FrameHeader Header(FrameType type) const;
  void CountSent(size_t payload) {
    bytes_sent_ += static_cast<int64_t>(kHeaderSize + payload + kTagSize);
  }

  const uint64_t id_;
  const int self_;
  const int priority_;
  const double began_;
  const std::shared_ptr<OperationHandle> handle_;
  const ScheduleKind kind_;
  Start start_;  // ours
  std::vector<std::string> attachments_;
  std::vector<Peer> peers_;
  const std::span<float> data_;
  std::vector<float> backup_;  // of data_, if it is to be restored
  Reduction reduction_;
  int64_t bytes_sent_ = 0;
  int64_t bytes_received_ = 0;
};

}  // namespace atl::wan
