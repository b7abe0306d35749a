#include "collectives/wan/frame.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "collectives/codec/codec.h"
#include "collectives/wan/engine.h"

namespace atl::wan {
namespace {

static_assert(std::endian::native == std::endian::little, "integers are copied as they are");

constexpr char kMagic[] = "ATOLLWAN";
constexpr size_t kMagicSize = 8;
constexpr uint8_t kFrameMagic[2] = {'A', 'F'};
constexpr uint64_t kMaxElements = uint64_t{1} << 48;

// Appends integers to a buffer whose size the caller has made sure of.
class Writer {
 public:
  explicit Writer(uint8_t* out) : at_(out) {}
  template <typename T>
  Writer& Put(T value) {
    std::memcpy(at_, &value, sizeof value);
    at_ += sizeof value;
    return *this;
  }
  Writer& PutBytes(const void* bytes, size_t size) {
    std::memcpy(at_, bytes, size);
    at_ += size;
    return *this;
  }

 private:
  uint8_t* at_;
};

// Takes integers from bytes whose number the caller has checked.
class Reader {
 public:
  explicit Reader(Bytes bytes) : at_(bytes.data()) {}
  template <typename T>
  T Take() {
    T value;
    std::memcpy(&value, at_, sizeof value);
    at_ += sizeof value;
    return value;
  }
  void TakeBytes(void* out, size_t size) {
    std::memcpy(out, at_, size);
    at_ += size;
  }

 private:
  const uint8_t* at_;
};

Status Bad(const std::string& what) { return absl::InvalidArgumentError(what); }

Status TakeMagic(Bytes bytes, size_t size, Reader* reader) {
  if (bytes.size() != size) return Bad(absl::StrCat("a greeting of ", bytes.size(), " bytes"));
  char magic[kMagicSize];
  reader->TakeBytes(magic, sizeof magic);
  if (std::memcmp(magic, kMagic, kMagicSize) != 0) return Bad("not an atoll gateway");
  return OkStatus();
}

Status CheckFields(const FrameHeader& header) {
  const bool numbers = header.type == FrameType::kContribution || header.type == FrameType::kResult;
  if (header.payload > kMaxPayload) {
    return Bad(absl::StrCat("a frame with a payload of ", header.payload, " bytes"));
  }
  if (!numbers && header.range != Range{0, 0}) return Bad("a frame with a range it cannot have");
  if (numbers && header.range.empty()) return Bad("a frame with no elements");
  switch (header.type) {
    case FrameType::kConfirm:
      return header.payload == 0 ? OkStatus() : Bad("a confirmation with a payload");
    case FrameType::kStart:
      return header.payload == kStartSize ? OkStatus() : Bad("a start of the wrong size");
    case FrameType::kAttachment:
      return header.payload <= Engine::kMaxAttachment ? OkStatus() : Bad("a huge attachment");
    case FrameType::kContribution:
    case FrameType::kResult:
      return OkStatus();
    case FrameType::kAbort:
    case FrameType::kBye:
      return header.payload >= 1 && header.payload <= 1 + kMaxReason
                 ? OkStatus()
                 : Bad("a reason of the wrong size");
  }
  return Bad(absl::StrCat("a frame of unknown type ", static_cast<int>(header.type)));
}

}  // namespace

void EncodeHello(const Hello& hello, uint8_t* out) {
  Writer(out)
      .PutBytes(kMagic, kMagicSize)
      .Put<uint16_t>(hello.version)
      .Put<uint16_t>(0)
      .Put<uint32_t>(hello.lane)
      .Put<uint64_t>(hello.view)
      .Put<uint16_t>(hello.from)
      .Put<uint16_t>(hello.to)
      .Put<uint16_t>(hello.stream)
      .Put<uint16_t>(hello.streams)
      .PutBytes(hello.nonce.data(), kNonceSize);
}

void EncodeAnswer(const Answer& answer, uint8_t* out) {
  Writer(out)
      .PutBytes(kMagic, kMagicSize)
      .Put<uint16_t>(answer.version)
      .Put<uint16_t>(0)
      .Put<uint32_t>(0)
      .PutBytes(answer.nonce.data(), kNonceSize);
}

void EncodeHeader(const FrameHeader& header, uint8_t* out) {
  Writer(out)
      .PutBytes(kFrameMagic, sizeof kFrameMagic)
      .Put<uint8_t>(static_cast<uint8_t>(header.type))
      .Put<uint8_t>(0)  // flags
      .Put<uint32_t>(header.lane)
      .Put<uint64_t>(header.operation)
      .Put<uint64_t>(static_cast<uint64_t>(header.range.begin))
      .Put<uint32_t>(static_cast<uint32_t>(header.range.size()))
      .Put<uint32_t>(header.payload);
}

std::vector<uint8_t> EncodeStart(const Start& start) {
  std::vector<uint8_t> bytes(kStartSize);
  Writer(bytes.data())
      .Put<uint64_t>(start.elements)
      .Put<uint32_t>(start.chunk_elements)
      .Put<uint16_t>(start.members)
      .Put<uint8_t>(start.schedule)
      .Put<uint8_t>(start.codec)
      .Put<uint32_t>(start.attachment_bytes)
      .Put<uint32_t>(0);
  return bytes;
}

std::vector<uint8_t> EncodeReason(const Reason& reason) {
  const size_t size = std::min(reason.text.size(), kMaxReason);
  std::vector<uint8_t> bytes(1 + size);
  Writer(bytes.data())
      .Put<uint8_t>(static_cast<uint8_t>(reason.code))
      .PutBytes(reason.text.data(), size);
  return bytes;
}

StatusOr<Hello> ParseHello(Bytes bytes) {
  Reader reader(bytes);
  RETURN_IF_ERROR(TakeMagic(bytes, kHelloSize, &reader));
  Hello hello;
  hello.version = reader.Take<uint16_t>();
  if (hello.version != kWireVersion) return hello;
  const auto reserved = reader.Take<uint16_t>();
  hello.lane = reader.Take<uint32_t>();
  hello.view = reader.Take<uint64_t>();
  hello.from = reader.Take<uint16_t>();
  hello.to = reader.Take<uint16_t>();
  hello.stream = reader.Take<uint16_t>();
  hello.streams = reader.Take<uint16_t>();
  reader.TakeBytes(hello.nonce.data(), kNonceSize);
  if (reserved != 0) return Bad("a hello with reserved bits");
  if (hello.from >= kMaxMembers || hello.to >= kMaxMembers || hello.from == hello.to) {
    return Bad("a hello with member indexes that cannot be");
  }
  if (hello.streams < 1 || hello.streams > kMaxStreams || hello.stream >= hello.streams) {
    return Bad("a hello with stream numbers that cannot be");
  }
  return hello;
}

StatusOr<Answer> ParseAnswer(Bytes bytes) {
  Reader reader(bytes);
  RETURN_IF_ERROR(TakeMagic(bytes, kAnswerSize, &reader));
  Answer answer;
  answer.version = reader.Take<uint16_t>();
  if (answer.version != kWireVersion) return answer;
  const auto reserved = reader.Take<uint16_t>();
  if (reserved != 0 || reader.Take<uint32_t>() != 0) return Bad("an answer with reserved bits");
  reader.TakeBytes(answer.nonce.data(), kNonceSize);
  return answer;
}

StatusOr<FrameHeader> ParseHeader(Bytes bytes) {
  if (bytes.size() != kHeaderSize) return Bad("a header of the wrong size");
  Reader reader(bytes);
  uint8_t magic[2];
  reader.TakeBytes(magic, sizeof magic);
  if (std::memcmp(magic, kFrameMagic, sizeof magic) != 0) return Bad("bytes that are no frame");
  FrameHeader header;
  header.type = static_cast<FrameType>(reader.Take<uint8_t>());
  const auto flags = reader.Take<uint8_t>();
  header.lane = reader.Take<uint32_t>();
  header.operation = reader.Take<uint64_t>();
  const auto begin = reader.Take<uint64_t>();
  const auto count = reader.Take<uint32_t>();
  header.payload = reader.Take<uint32_t>();
  if (flags != 0) return Bad("a frame with unknown flags");
  if (begin > kMaxElements) return Bad("a frame for elements that no vector has");
  header.range = {static_cast<int64_t>(begin), static_cast<int64_t>(begin + count)};
  RETURN_IF_ERROR(CheckFields(header));
  return header;
}

StatusOr<Start> ParseStart(Bytes bytes) {
  if (bytes.size() != kStartSize) return Bad("a start of the wrong size");
  Reader reader(bytes);
  Start start;
  start.elements = reader.Take<uint64_t>();
  start.chunk_elements = reader.Take<uint32_t>();
  start.members = reader.Take<uint16_t>();
  start.schedule = reader.Take<uint8_t>();
  start.codec = reader.Take<uint8_t>();
  start.attachment_bytes = reader.Take<uint32_t>();
  if (reader.Take<uint32_t>() != 0) return Bad("a start with reserved bits");
  if (start.elements > kMaxElements) return Bad("a start of a vector that cannot be");
  if (start.chunk_elements == 0) return Bad("a start with chunks of no elements");
  if (start.attachment_bytes > Engine::kMaxAttachment) return Bad("a huge attachment");
  return start;
}

StatusOr<Reason> ParseReason(Bytes bytes) {
  if (bytes.empty() || bytes.size() > 1 + kMaxReason) return Bad("a reason of the wrong size");
  Reason reason;
  reason.code = static_cast<ReasonCode>(bytes[0]);
  switch (reason.code) {
    case ReasonCode::kCancelled:
    case ReasonCode::kLost:
    case ReasonCode::kLeft:
      break;
    default:
      return Bad(absl::StrCat("a reason with the unknown code ", bytes[0]));
  }
  for (const uint8_t byte : bytes.subspan(1)) {
    reason.text.push_back(byte >= 0x20 && byte < 0x7F ? static_cast<char>(byte) : '?');
  }
  return reason;
}

std::string StartDifference(const Start& here, const Start& there) {
  std::vector<std::string> differences;
  const auto compare = [&](const char* what, uint64_t a, uint64_t b) {
    if (a != b) differences.push_back(absl::StrCat(what, " ", a, " here, ", b, " there"));
  };
  compare("elements", here.elements, there.elements);
  compare("members", here.members, there.members);
  compare("schedule", here.schedule, there.schedule);
  if (here.codec != there.codec) {
    differences.push_back(absl::StrCat("codec ", CodecName(static_cast<Codec>(here.codec)),
                                       " here, ", CodecName(static_cast<Codec>(there.codec)),
                                       " there"));
  } else {
    // Chunks are counted in bytes, so a different codec changes their elements too.
    compare("elements a chunk", here.chunk_elements, there.chunk_elements);
  }
  return absl::StrJoin(differences, "; ");
}

}  // namespace atl::wan
