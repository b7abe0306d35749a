// The wire format: what each byte between two gateways means. Pure encoding and parsing, no
// sockets and no keys. docs/protocols/wan.md is the same in prose, with golden bytes.
//
// A connection carries in each direction: a greeting in plain (Hello from the dialler, Answer from
// the acceptor), then frames. A frame is a header in plain, the sealed payload and its tag
// (seal.h). Frames that matter carry a sequence number of their pair of members, from 1: they may
// travel over any connection of the pair, and again over another one if theirs breaks; the receiver
// takes each once and acknowledges it. All integers are little-endian. Parsers check every field
// that has a fixed meaning or a bound; what depends on the group or the operation is checked by
// those who know it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/range.h"
#include "base/status.h"
#include "collectives/wan/plan/link_model.h"
#include "collectives/wan/plan/tree_plan.h"

namespace atl::wan {

using Bytes = std::span<const uint8_t>;

inline constexpr uint16_t kWireVersion = 3;
inline constexpr size_t kNonceSize = 32;
inline constexpr size_t kTagSize = 16;
// Magic and version, the first bytes of every greeting; of other versions nothing else is known.
inline constexpr size_t kGreetingHead = 10;
inline constexpr size_t kHelloSize = 72;
inline constexpr size_t kAnswerSize = 56;
inline constexpr size_t kHeaderSize = 40;
inline constexpr int kMaxMembers = 1024;
inline constexpr int kMaxStreams = 64;
// No frame carries more, whatever the operation: bounds what a connection may make us allocate.
inline constexpr size_t kMaxPayload = kMaxChunkBytes;
inline constexpr size_t kMaxReason = 512;
inline constexpr size_t kMaxPlanBytes = 32 + kMaxTrees * (8 + 4 * kMaxMembers);
inline constexpr size_t kMaxAckRanges = 64;

// The dialler's first bytes.
struct Hello {
  uint16_t version = kWireVersion;
  uint8_t plain = 0;  // 1: frames are checked but not encrypted; both ends must want that
  uint64_t view = 0;
  uint32_t lane = 0;
  uint16_t from = 0;  // member indexes
  uint16_t to = 0;
  // Of the dialler's membership: drawn anew by every Join. Sequence numbers belong to it.
  uint64_t incarnation = 0;
  std::array<uint8_t, kNonceSize> nonce = {};
  friend bool operator==(const Hello&, const Hello&) = default;
};

// The acceptor's first bytes. With a version other than the hello's: a refusal, and the last.
struct Answer {
  uint16_t version = kWireVersion;
  uint64_t incarnation = 0;
  std::array<uint8_t, kNonceSize> nonce = {};
  friend bool operator==(const Answer&, const Answer&) = default;
};

enum class FrameType : uint8_t {
  kConfirm = 1,        // proves the key; first frame in each direction, and only there
  kStart = 2,          // Start: an operation has begun at the sender
  kAttachment = 3,     // the sender's attachment
  kContribution = 4,   // a partial sum for the receiver, the sender's parent in a tree
  kResult = 5,         // the sum of a chunk, on its way down a tree
  kAbort = 6,          // Reason: the operation failed at the sender
  kBye = 7,            // Reason: the sender has left; the last frame of its direction
  kPlan = 8,           // PlanMessage: the hub asks for a probe, or says which plan is first
  kReport = 9,         // links as the sender sees them, to the hub
  kAck = 10,           // Ack: what has arrived
  kPing = 11,          // asks for an Ack
  kProbe = 12,         // bytes that only measure the link
  kRelayedStart = 13,  // RelayedStart (relayed.h): another member's start and attachment
  kSilence = 14,       // RelayedSilence: another member is silent, or heard again
  kFetch = 15,         // FetchFrame (fetch_frame.h): asks for bytes that the receiver serves
  kBlock = 16,         // some of the bytes that the receiver has asked for
  kFetchEnd = 17,      // FetchEnd: no more of them will come
  kFetchCancel = 18,   // no more of them are wanted
};
// Frames of the other types have no sequence number and are never sent again.
bool IsSequenced(FrameType type);

struct FrameHeader {
  FrameType type = FrameType::kConfirm;
  uint16_t tree = 0;     // of kContribution and kResult
  uint32_t payload = 0;  // bytes
  uint64_t operation = 0;
  uint64_t sequence = 0;
  // Of kContribution and kResult: elements, at most 2^32 - 1. Of kBlock: bytes.
  Range range;
  friend bool operator==(const FrameHeader&, const FrameHeader&) = default;
};

// What all members must agree on before numbers flow. Sent on each stream before the operation's
// other frames on it.
struct Start {
  uint64_t elements = 0;
  uint32_t chunk_elements = 0;
  uint32_t plan_version = 0;
  uint16_t members = 0;
  uint8_t codec = 0;  // a Codec
  uint32_t attachment_bytes = 0;
  // From the hub: the plan of the operations after this one, if it changes (EncodePlan).
  std::vector<uint8_t> next_plan;
  friend bool operator==(const Start&, const Start&) = default;
};
inline constexpr size_t kStartSize = 24;  // without the plan

enum class ReasonCode : uint8_t {
  kCancelled = 1,  // its caller cancelled the operation
  kLost = 2,       // it lost another member
  kLeft = 3,       // its caller left the view
};

struct Reason {
  ReasonCode code = ReasonCode::kCancelled;
  std::string text;  // at most kMaxReason bytes; printable ASCII once parsed
  // Who has cancelled or is lost, by index, where that is another than the sender.
  std::optional<int> about = std::nullopt;
};
inline constexpr size_t kReasonSize = 3;  // without the text

// A plan and the number by which members compare theirs. Weights travel as whole numbers of
// 1 / kWeightUnits, so that every member cuts the same shares.
struct NumberedPlan {
  uint32_t version = 0;
  TreePlan plan;
  friend bool operator==(const NumberedPlan&, const NumberedPlan&) = default;
};
inline constexpr double kWeightUnits = 1 << 20;
inline constexpr double kMaxProbeSeconds = 10;

// Every sequence number below `below` has arrived, and those in `ranges` (ascending, apart).
struct Ack {
  uint64_t below = 1;
  std::vector<Range> ranges;
  friend bool operator==(const Ack&, const Ack&) = default;
};

void EncodeHello(const Hello& hello, uint8_t* out);     // kHelloSize bytes
void EncodeAnswer(const Answer& answer, uint8_t* out);  // kAnswerSize bytes
void EncodeHeader(const FrameHeader& header, uint8_t* out);
std::vector<uint8_t> EncodeStart(const Start& start);
std::vector<uint8_t> EncodeReason(const Reason& reason);
std::vector<uint8_t> EncodePlan(const NumberedPlan& plan);
// kPlan's payload: a probe of so many seconds, or (0) the plan.
std::vector<uint8_t> EncodeProbeRequest(double seconds);
std::vector<uint8_t> EncodeReports(const std::vector<LinkReport>& reports);
std::vector<uint8_t> EncodeAck(const Ack& ack);

// The version of a greeting, which may be another than ours, from its first kGreetingHead bytes.
StatusOr<uint16_t> ParseVersion(Bytes head);
// Of our version only.
StatusOr<Hello> ParseHello(Bytes bytes);
StatusOr<Answer> ParseAnswer(Bytes bytes);
StatusOr<FrameHeader> ParseHeader(Bytes bytes);
StatusOr<Start> ParseStart(Bytes bytes);
StatusOr<Reason> ParseReason(Bytes bytes);
// The plan passes CheckPlan for `members`; its numbers are finite and not negative.
StatusOr<NumberedPlan> ParsePlan(Bytes bytes, int members);
// Seconds to probe for, at most kMaxProbeSeconds; nothing if the payload is a plan.
StatusOr<std::optional<double>> ParseProbeRequest(Bytes bytes);
// At most one report a peer, all from `from` and to other members.
StatusOr<std::vector<LinkReport>> ParseReports(Bytes bytes, int members, int from);
StatusOr<Ack> ParseAck(Bytes bytes);

// What differs between two members' starts, in words ("elements 7 here, 8 there"); empty if
// nothing that matters.
std::string StartDifference(const Start& here, const Start& there);

}  // namespace atl::wan
