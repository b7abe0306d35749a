#include "collectives/wan/exchange.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "collectives/wan/schedule.h"

namespace atl::wan {

ReductionShape Exchange::ShapeOf(const Parameters& parameters) {
  ReductionShape shape;
  shape.self = parameters.self;
  shape.codec = parameters.options.codec;
  shape.chunk_elements = ChunkElements(shape.codec, parameters.chunk_bytes);
  // Of the chunk's real size, which members compare; chunk_bytes may differ below a grid step.
  shape.window = WindowChunks(parameters.members,
                              static_cast<int64_t>(EncodedSize(shape.codec, shape.chunk_elements)));
  shape.shares = EqualShares(static_cast<int64_t>(parameters.data.size()), parameters.members);
  return shape;
}

Exchange::Exchange(const Parameters& parameters, std::shared_ptr<OperationHandle> handle)
    : id_(parameters.id),
      self_(parameters.self),
      priority_(parameters.options.priority),
      began_(parameters.began),
      handle_(std::move(handle)),
      attachments_(parameters.members),
      peers_(parameters.members),
      reduction_(ShapeOf(parameters), parameters.data) {
  start_.elements = parameters.data.size();
  start_.chunk_elements =
      static_cast<uint32_t>(ChunkElements(parameters.options.codec, parameters.chunk_bytes));
  start_.members = static_cast<uint16_t>(parameters.members);
  start_.schedule = static_cast<uint8_t>(Schedule::kDirectEqualShares);
  start_.codec = static_cast<uint8_t>(parameters.options.codec);
  start_.attachment_bytes = static_cast<uint32_t>(parameters.options.attachment.size());
  attachments_[self_] = parameters.options.attachment;
  for (Peer& peer : peers_) peer.attachment_sent = start_.attachment_bytes == 0;
  peers_[self_] = {start_, 0, true, true, true};
  handle_->SetElementsDone(reduction_.elements_done());
}

FrameHeader Exchange::Header(const Link& link, FrameType type, size_t payload) const {
  FrameHeader header;
  header.type = type;
  header.lane = link.hello().lane;
  header.operation = id_;
  header.payload = static_cast<uint32_t>(payload);
  return header;
}

void Exchange::Announce(Link* link) {
  Peer& peer = peers_[link->member()];
  const uint64_t bit = uint64_t{1} << link->hello().stream;
  if ((peer.announced & bit) != 0) return;
  peer.announced |= bit;
  link->Append(Header(*link, FrameType::kStart, kStartSize), EncodeStart(start_));
  CountSent(kStartSize);
}

bool Exchange::AppendNext(Link* link, bool eager) {
  Peer& peer = peers_[link->member()];
  if (peer.gone || (!eager && !peer.start.has_value())) return false;
  if (!peer.attachment_sent) {
    peer.attachment_sent = true;
    Announce(link);
    const std::string& text = attachments_[self_];
    link->Append(Header(*link, FrameType::kAttachment, text.size()),
                 Bytes(reinterpret_cast<const uint8_t*>(text.data()), text.size()));
    CountSent(text.size());
    return true;
  }
  const std::optional<Reduction::Piece> piece = reduction_.NextPiece(link->member());
  if (!piece.has_value()) return false;
  Announce(link);
  const size_t size = reduction_.PieceSize(*piece);
  FrameHeader header = Header(*link, piece->type, size);
  header.range = piece->range;
  reduction_.WritePiece(*piece, link->BeginFrame(header));
  link->FinishFrame();
  CountSent(size);
  return true;
}

Status Exchange::TakeStart(int member, const Start& start) {
  Peer& peer = peers_[member];
  bytes_received_ += static_cast<int64_t>(kHeaderSize + kStartSize + kTagSize);
  if (peer.start.has_value()) return OkStatus();  // the same again, on another stream
  const std::string difference = StartDifference(start_, start);
  if (!difference.empty()) return absl::InvalidArgumentError(difference);
  peer.start = start;
  peer.attachment_here = start.attachment_bytes == 0;
  return OkStatus();
}

Status Exchange::Check(int member, const FrameHeader& header) const {
  const Peer& peer = peers_[member];
  if (!peer.start.has_value()) {
    return absl::InvalidArgumentError("sent numbers of an operation that it has not started");
  }
  if (header.type == FrameType::kAttachment) {
    if (peer.attachment_here) return absl::InvalidArgumentError("sent an attachment twice");
    if (header.payload != peer.start->attachment_bytes) {
      return absl::InvalidArgumentError("sent an attachment of another size than announced");
    }
    return OkStatus();
  }
  return reduction_.Check(member, header);
}

Status Exchange::Take(int member, const FrameHeader& header, Bytes payload) {
  RETURN_IF_ERROR(Check(member, header));
  bytes_received_ += static_cast<int64_t>(kHeaderSize + payload.size() + kTagSize);
  if (header.type == FrameType::kAttachment) {
    attachments_[member].assign(reinterpret_cast<const char*>(payload.data()), payload.size());
    peers_[member].attachment_here = true;
    return OkStatus();
  }
  reduction_.Take(member, header, payload);
  handle_->SetElementsDone(reduction_.elements_done());
  return OkStatus();
}

void Exchange::Forget(int member) {
  peers_[member].gone = true;
  reduction_.Forget(member);
}

bool Exchange::Needs(int member) const {
  const Peer& peer = peers_[member];
  return !peer.start.has_value() || !peer.attachment_here || reduction_.Needs(member);
}

bool Exchange::Complete() const {
  for (const Peer& peer : peers_) {
    if (!peer.start.has_value() || !peer.attachment_here) return false;
    if (!peer.gone && !peer.attachment_sent) return false;
  }
  return reduction_.Complete();
}

AllReduceResult Exchange::Result(double now) const {
  AllReduceResult result;
  result.attachments = attachments_;
  result.bytes_sent = bytes_sent_;
  result.bytes_received = bytes_received_;
  result.seconds = now - began_;
  return result;
}

}  // namespace atl::wan
