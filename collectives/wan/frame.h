// The wire format: what each byte between two gateways means. Pure encoding and parsing, no
// sockets and no keys. docs/protocols/wan.md is the same in prose, with golden bytes.
//
// A connection carries in each direction: a greeting in plain (Hello from the dialler, Answer from
// the acceptor), then frames. A frame is a header in plain, the sealed payload and its tag
// (seal.h). All integers are little-endian. Parsers check every field that has a fixed meaning or a
// bound; what depends on the group or the operation is checked by those who know it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/range.h"
#include "base/status.h"

namespace atl::wan {

using Bytes = std::span<const uint8_t>;

inline constexpr uint16_t kWireVersion = 1;
inline constexpr size_t kNonceSize = 32;
inline constexpr size_t kTagSize = 16;
inline constexpr size_t kHelloSize = 64;
inline constexpr size_t kAnswerSize = 48;
inline constexpr size_t kHeaderSize = 32;
inline constexpr int kMaxMembers = 1024;
inline constexpr int kMaxStreams = 64;
// No frame carries more, whatever the operation: bounds what a connection may make us allocate.
inline constexpr size_t kMaxPayload = 4 << 20;
inline constexpr size_t kMaxReason = 512;

// The dialler's first bytes.
struct Hello {
  uint16_t version = kWireVersion;
  uint64_t view = 0;
  uint32_t lane = 0;
  uint16_t from = 0;  // member indexes
  uint16_t to = 0;
  uint16_t stream = 0;   // number of this connection, from 0
  uint16_t streams = 0;  // connections that the dialler will make to this member
  std::array<uint8_t, kNonceSize> nonce = {};
  friend bool operator==(const Hello&, const Hello&) = default;
};

// The acceptor's first bytes. With a version other than the hello's it is a refusal and the last.
struct Answer {
  uint16_t version = kWireVersion;
  std::array<uint8_t, kNonceSize> nonce = {};
  friend bool operator==(const Answer&, const Answer&) = default;
};

enum class FrameType : uint8_t {
  kConfirm = 1,       // proves the key; first frame in each direction, and only there
  kStart = 2,         // Start: an operation has begun at the sender
  kAttachment = 3,    // the sender's attachment
  kContribution = 4,  // the sender's numbers for a chunk that the receiver owns
  kResult = 5,        // the sum of a chunk that the sender owns
  kAbort = 6,         // Reason: the operation failed at the sender
  kBye = 7,           // Reason: the sender has left; the last frame of its direction
};

struct FrameHeader {
  FrameType type = FrameType::kConfirm;
  uint32_t lane = 0;
  uint64_t operation = 0;
  Range range;           // elements, of kContribution and kResult; at most 2^32 - 1 long
  uint32_t payload = 0;  // bytes
  friend bool operator==(const FrameHeader&, const FrameHeader&) = default;
};

// What all members must agree on before numbers flow. Sent on each stream before the operation's
// other frames on it.
struct Start {
  uint64_t elements = 0;
  uint32_t chunk_elements = 0;
  uint16_t members = 0;
  uint8_t schedule = 0;  // a Schedule
  uint8_t codec = 0;     // a Codec
  uint32_t attachment_bytes = 0;
  friend bool operator==(const Start&, const Start&) = default;
};
inline constexpr size_t kStartSize = 24;

enum class Schedule : uint8_t { kDirectEqualShares = 1 };

enum class ReasonCode : uint8_t {
  kCancelled = 1,  // its caller cancelled the operation
  kLost = 2,       // it lost another member
  kLeft = 3,       // its caller left the view
};

struct Reason {
  ReasonCode code = ReasonCode::kCancelled;
  std::string text;  // at most kMaxReason bytes; printable ASCII once parsed
};

void EncodeHello(const Hello& hello, uint8_t* out);     // kHelloSize bytes
void EncodeAnswer(const Answer& answer, uint8_t* out);  // kAnswerSize bytes
void EncodeHeader(const FrameHeader& header, uint8_t* out);
std::vector<uint8_t> EncodeStart(const Start& start);
std::vector<uint8_t> EncodeReason(const Reason& reason);

// The magic is checked in any version, the rest only where the version is ours: a caller looks at
// `version` first.
StatusOr<Hello> ParseHello(Bytes bytes);
StatusOr<Answer> ParseAnswer(Bytes bytes);
StatusOr<FrameHeader> ParseHeader(Bytes bytes);
StatusOr<Start> ParseStart(Bytes bytes);
StatusOr<Reason> ParseReason(Bytes bytes);

// What differs between two members' starts, in words ("elements 7 here, 8 there"); empty if
// nothing that matters.
std::string StartDifference(const Start& here, const Start& there);

}  // namespace atl::wan
