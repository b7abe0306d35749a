#include "collectives/wan/exchange.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "collectives/wan/schedule.h"

namespace atl::wan {

namespace {

int64_t ChunkOf(const Exchange::Parameters& parameters) {
  return ChunkElements(parameters.options.codec,
                       std::min(parameters.chunk_bytes, parameters.plan.plan.chunk_bytes));
}

}  // namespace

ReductionShape Exchange::ShapeOf(const Parameters& parameters) {
  ReductionShape shape;
  shape.self = parameters.self;
  shape.codec = parameters.options.codec;
  shape.chunk_elements = ChunkOf(parameters);
  // Of the chunk's real size, which members compare; chunk_bytes may differ below a grid step.
  shape.window = WindowChunks(parameters.members,
                              static_cast<int64_t>(EncodedSize(shape.codec, shape.chunk_elements)));
  shape.trees = parameters.plan.plan.trees;
  return shape;
}

Exchange::Exchange(const Parameters& parameters, std::shared_ptr<OperationHandle> handle)
    : id_(parameters.id),
      self_(parameters.self),
      priority_(parameters.options.priority),
      began_(parameters.began),
      handle_(std::move(handle)),
      kind_(parameters.plan.plan.kind),
      attachments_(parameters.members),
      peers_(parameters.members),
      data_(parameters.data),
      backup_(
          parameters.options.restore_on_failure ? parameters.data.begin() : parameters.data.end(),
          parameters.data.end()),
      reduction_(ShapeOf(parameters), parameters.data, parameters.options.residual) {
  start_.elements = parameters.data.size();
  start_.chunk_elements = static_cast<uint32_t>(ChunkOf(parameters));
  start_.plan_version = parameters.plan.version;
  start_.members = static_cast<uint16_t>(parameters.members);
  start_.codec = static_cast<uint8_t>(parameters.options.codec);
  start_.attachment_bytes = static_cast<uint32_t>(parameters.options.attachment.size());
  start_.next_plan = parameters.next_plan;
  attachments_[self_] = parameters.options.attachment;
  for (Peer& peer : peers_) peer.attachment_sent = start_.attachment_bytes == 0;
  peers_[self_] = {start_, nullptr, true, true, false, true};
  for (size_t member = 0; member < parameters.apart.size(); ++member) {
    if (parameters.apart[member]) peers_[member].attachment_sent = true;  // by the hub
  }
  handle_->SetElementsDone(reduction_.elements_done());
}

FrameHeader Exchange::Header(FrameType type) const {
  FrameHeader header;
  header.type = type;
  header.operation = id_;
  return header;
}

void Exchange::Announce(Channel* channel, Link* link) {
  Peer& peer = peers_[channel->member()];
  if (peer.started != nullptr) return;
  auto frame = std::make_shared<StartFrame>();
  frame->payload = EncodeStart(start_);
  frame->header = Header(FrameType::kStart);
  frame->header.payload = static_cast<uint32_t>(frame->payload.size());
  channel->Number(&frame->header);
  CountSent(frame->payload.size());
  peer.started = frame;
  channel->SendStart(link, std::move(frame));
}

bool Exchange::AppendNext(Channel* channel, Link* link, bool eager) {
  const int member = channel->member();
  Peer& peer = peers_[member];
  if (peer.gone || (!eager && !peer.start.has_value())) return false;
  if (!peer.attachment_sent) {
    peer.attachment_sent = true;
    Announce(channel, link);
    const std::string& text = attachments_[self_];
    channel->SendBytes(link, Header(FrameType::kAttachment), {text.begin(), text.end()},
                       peer.started);
    CountSent(text.size());
    return true;
  }
  const std::optional<Reduction::Piece> piece = reduction_.NextPiece(member);
  if (!piece.has_value()) return false;
  Announce(channel, link);
  const size_t size = reduction_.PieceSize(*piece);
  FrameHeader header = Header(piece->type);
  header.tree = static_cast<uint16_t>(piece->tree);
  header.range = piece->range;
  header.payload = static_cast<uint32_t>(size);
  channel->SendPiece(link, header, this, *piece, reduction_.PieceInPlace(*piece), peer.started);
  CountSent(size);
  return true;
}

Status Exchange::TakeStart(int member, const Start& start) {
  Peer& peer = peers_[member];
  bytes_received_ +=
      static_cast<int64_t>(kHeaderSize + kStartSize + start.next_plan.size() + kTagSize);
  if (peer.start.has_value()) return OkStatus();
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

void Exchange::TakeRelayedAttachment(int member, std::string attachment) {
  Peer& peer = peers_[member];
  if (peer.attachment_here || attachment.empty()) return;
  bytes_received_ += static_cast<int64_t>(attachment.size());
  attachments_[member] = std::move(attachment);
  peer.attachment_here = true;
}

std::optional<RelayedStart> Exchange::ToPassOn(int member) {
  Peer& peer = peers_[member];
  if (peer.passed_on || !peer.start.has_value() || !peer.attachment_here) return std::nullopt;
  peer.passed_on = true;
  return RelayedStart{member, *peer.start, attachments_[member]};
}

void Exchange::Restore() { std::copy(backup_.begin(), backup_.end(), data_.begin()); }

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
  result.schedule = kind_;
  result.plan_version = start_.plan_version;
  return result;
}

}  // namespace atl::wan
