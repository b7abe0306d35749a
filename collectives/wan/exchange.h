// One all-reduce in its group: the agreement before numbers flow (starts), the attachments, and the
// reduction, put into frames. Knows links only as places to append frames to.
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

#include "collectives/wan/link.h"
#include "collectives/wan/operation.h"
#include "collectives/wan/reduction.h"

namespace atl::wan {

class Exchange {
 public:
  struct Parameters {
    uint64_t id = 0;
    int members = 0;
    int self = 0;
    int64_t chunk_bytes = 0;
    AllReduceOptions options;
    std::span<float> data;
    double began = 0;  // monotonic seconds
  };

  Exchange(const Parameters& parameters, std::shared_ptr<OperationHandle> handle);

  uint64_t id() const { return id_; }
  int priority() const { return priority_; }
  OperationHandle* handle() const { return handle_.get(); }

  // Sends our start on this link unless it was.
  void Announce(Link* link);
  // Appends the next frame for the link's member; false if there is none for now. Unless `eager`,
  // only to members whose start is here.
  bool AppendNext(Link* link, bool eager);

  // kInvalidArgument says what differs; it fails the operation, not the connection.
  Status TakeStart(int member, const Start& start);
  // Errors of these two are breaches of the protocol.
  Status Check(int member, const FrameHeader& header) const;
  Status Take(int member, const FrameHeader& header, Bytes payload);

  void Forget(int member);
  bool Needs(int member) const;
  bool Complete() const;
  AllReduceResult Result(double now) const;

 private:
  struct Peer {
    std::optional<Start> start;    // its
    uint64_t announced = 0;        // streams that carried our start, a bit each
    bool attachment_sent = false;  // or there is nothing to send
    bool attachment_here = false;
    bool gone = false;
  };

  static ReductionShape ShapeOf(const Parameters& parameters);
  FrameHeader Header(const Link& link, FrameType type, size_t payload) const;
  void CountSent(size_t payload) {
    bytes_sent_ += static_cast<int64_t>(kHeaderSize + payload + kTagSize);
  }

  const uint64_t id_;
  const int self_;
  const int priority_;
  const double began_;
  const std::shared_ptr<OperationHandle> handle_;
  Start start_;  // ours
  std::vector<std::string> attachments_;
  std::vector<Peer> peers_;
  Reduction reduction_;
  int64_t bytes_sent_ = 0;
  int64_t bytes_received_ = 0;
};

}  // namespace atl::wan
