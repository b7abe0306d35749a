#include "collectives/wan/frame.h"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "collectives/codec/codec.h"
#include "collectives/wan/engine.h"
#include "collectives/wan/fetch_frame.h"
#include "collectives/wan/relayed.h"

namespace atl::wan {
namespace {

static_assert(std::endian::native == std::endian::little, "integers are copied as they are");

constexpr char kMagic[] = "ATOLLWAN";
constexpr size_t kMagicSize = 8;
static_assert(kGreetingHead == kMagicSize + sizeof(uint16_t));
constexpr uint8_t kFrameMagic[2] = {'A', 'F'};
constexpr uint64_t kMaxElements = uint64_t{1} << 48;
constexpr uint64_t kMaxSequence = uint64_t{1} << 62;
constexpr size_t kCheckAt = 6;  // in a header
constexpr uint16_t kNobody = 0xFFFF;
constexpr size_t kReportSize = 8 + 6 * sizeof(double);

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
    if (size > 0) std::memcpy(at_, bytes, size);  // of nothing there may be no address
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
    if (size > 0) std::memcpy(out, at_, size);
    at_ += size;
  }

 private:
  const uint8_t* at_;
};

Status Bad(const std::string& what) { return absl::InvalidArgumentError(what); }

// Takes the head of a greeting of our version, which has this size.
Status TakeHead(Bytes bytes, size_t size, Reader* reader) {
  if (bytes.size() != size) return Bad(absl::StrCat("a greeting of ", bytes.size(), " bytes"));
  ASSIGN_OR_RETURN(const uint16_t version, ParseVersion(bytes.first(kGreetingHead)));
  if (version != kWireVersion) return Bad(absl::StrCat("a greeting of version ", version));
  *reader = Reader(bytes.subspan(kGreetingHead));
  return OkStatus();
}

bool IsNumbers(FrameType type) {
  return type == FrameType::kContribution || type == FrameType::kResult;
}

Status CheckPayload(const FrameHeader& header) {
  const size_t size = header.payload;
  const auto bounded = [size](size_t least, size_t most, const char* what) {
    return size >= least && size <= most
               ? OkStatus()
               : Bad(absl::StrCat(what, " with a payload of ", size, " bytes"));
  };
  switch (header.type) {
    case FrameType::kConfirm:
    case FrameType::kPing:
      return bounded(0, 0, "a confirmation or ping");
    case FrameType::kStart:
      return bounded(kStartSize, kStartSize + kMaxPlanBytes, "a start");
    case FrameType::kAttachment:
      return bounded(0, Engine::kMaxAttachment, "an attachment");
    case FrameType::kContribution:
    case FrameType::kResult:
    case FrameType::kProbe:
      return bounded(0, kMaxPayload, "a frame");
    case FrameType::kAbort:
    case FrameType::kBye:
      return bounded(kReasonSize, kReasonSize + kMaxReason, "a reason");
    case FrameType::kRelayedStart:
      return bounded(kRelayedStartSize, kRelayedStartSize + Engine::kMaxAttachment,
                     "a relayed start");
    case FrameType::kSilence:
      return bounded(kRelayedSilenceSize, kRelayedSilenceSize, "a word on silence");
    case FrameType::kFetch:
      return bounded(kFetchFrameSize + 1, kFetchFrameSize + kMaxNameBytes, "a fetch");
    case FrameType::kBlock:
      return bounded(1, kMaxPayload, "a block");
    case FrameType::kFetchEnd:
      return bounded(1, 1 + kMaxReason, "an end of a fetch");
    case FrameType::kFetchCancel:
      return bounded(0, 0, "a cancelled fetch");
    case FrameType::kPlan:
      return bounded(8, 8 + kMaxPlanBytes, "a plan");
    case FrameType::kReport:
      return bounded(4, 4 + kMaxMembers * kReportSize, "a report");
    case FrameType::kAck:
      return bounded(8, 8 + kMaxAckRanges * 16, "an acknowledgement");
  }
  return Bad(absl::StrCat("a frame of unknown type ", static_cast<int>(header.type)));
}

Status CheckFields(const FrameHeader& header) {
  RETURN_IF_ERROR(CheckPayload(header));
  if (IsNumbers(header.type)) {
    if (header.range.empty()) return Bad("a frame with no elements");
    if (header.tree >= kMaxTrees) return Bad("a frame of a tree that no plan has");
  } else if (header.type == FrameType::kBlock) {
    if (header.range.size() != static_cast<int64_t>(header.payload) || header.tree != 0) {
      return Bad("a block whose length is another one than it says");
    }
  } else if (header.range != Range{0, 0} || header.tree != 0) {
    return Bad("a frame with a range it cannot have");
  }
  if (IsSequenced(header.type) != (header.sequence != 0)) {
    return Bad("a frame with or without a sequence number, wrongly");
  }
  if (header.sequence >= kMaxSequence) return Bad("a sequence number that nobody reaches");
  return OkStatus();
}

// So that a length which was damaged on the way is seen before its bytes are waited for. Proof
// against accidents; against intent there is the tag.
uint16_t HeaderCheck(const uint8_t* header) {
  std::array<uint8_t, kHeaderSize> bytes;
  std::memcpy(bytes.data(), header, kHeaderSize);
  bytes[kCheckAt] = bytes[kCheckAt + 1] = 0;
  return static_cast<uint16_t>(XXH3_64bits(bytes.data(), bytes.size()));
}

// Finite, not negative, and of a size that arithmetic survives.
bool IsSane(double value) { return value >= 0 && value <= 1e18; }

constexpr double kMaxReportedSeconds = 3600;  // of a round trip
constexpr double kMaxReportedRate = 1e15;
bool IsSane(const LinkReport& report) {
  return IsSane(report.busy_seconds) && IsSane(report.acked_bytes) && IsSane(report.paced_rate) &&
         IsSane(report.retransmitted) && IsSane(report.rtt_seconds) &&
         IsSane(report.queue_seconds) && report.rtt_seconds <= kMaxReportedSeconds &&
         report.queue_seconds <= kMaxReportedSeconds && report.paced_rate <= kMaxReportedRate &&
         (report.busy_seconds == 0 || report.acked_bytes <= kMaxReportedRate * report.busy_seconds);
}

}  // namespace

bool IsSequenced(FrameType type) {
  switch (type) {
    case FrameType::kConfirm:
    case FrameType::kAck:
    case FrameType::kPing:
    case FrameType::kProbe:
      return false;
    default:
      return true;
  }
}

void EncodeHello(const Hello& hello, uint8_t* out) {
  Writer(out)
      .PutBytes(kMagic, kMagicSize)
      .Put<uint16_t>(hello.version)
      .Put<uint8_t>(hello.plain)
      .Put<uint8_t>(0)
      .Put<uint32_t>(hello.lane)
      .Put<uint64_t>(hello.view)
      .Put<uint16_t>(hello.from)
      .Put<uint16_t>(hello.to)
      .Put<uint32_t>(0)
      .Put<uint64_t>(hello.incarnation)
      .PutBytes(hello.nonce.data(), kNonceSize);
}

void EncodeAnswer(const Answer& answer, uint8_t* out) {
  Writer(out)
      .PutBytes(kMagic, kMagicSize)
      .Put<uint16_t>(answer.version)
      .Put<uint16_t>(0)
      .Put<uint32_t>(0)
      .Put<uint64_t>(answer.incarnation)
      .PutBytes(answer.nonce.data(), kNonceSize);
}

void EncodeHeader(const FrameHeader& header, uint8_t* out) {
  Writer(out)
      .PutBytes(kFrameMagic, sizeof kFrameMagic)
      .Put<uint8_t>(static_cast<uint8_t>(header.type))
      .Put<uint8_t>(0)  // flags
      .Put<uint16_t>(header.tree)
      .Put<uint16_t>(0)
      .Put<uint32_t>(static_cast<uint32_t>(header.range.size()))
      .Put<uint32_t>(header.payload)
      .Put<uint64_t>(header.operation)
      .Put<uint64_t>(header.sequence)
      .Put<uint64_t>(static_cast<uint64_t>(header.range.begin));
  const uint16_t check = HeaderCheck(out);
  std::memcpy(out + kCheckAt, &check, sizeof check);
}

std::vector<uint8_t> EncodeStart(const Start& start) {
  std::vector<uint8_t> bytes(kStartSize + start.next_plan.size());
  Writer(bytes.data())
      .Put<uint64_t>(start.elements)
      .Put<uint32_t>(start.chunk_elements)
      .Put<uint32_t>(start.plan_version)
      .Put<uint16_t>(start.members)
      .Put<uint8_t>(start.codec)
      .Put<uint8_t>(0)
      .Put<uint32_t>(start.attachment_bytes)
      .PutBytes(start.next_plan.data(), start.next_plan.size());
  return bytes;
}

std::vector<uint8_t> EncodeReason(const Reason& reason) {
  const size_t size = std::min(reason.text.size(), kMaxReason);
  std::vector<uint8_t> bytes(kReasonSize + size);
  Writer(bytes.data())
      .Put<uint8_t>(static_cast<uint8_t>(reason.code))
      .Put<uint16_t>(static_cast<uint16_t>(reason.about.value_or(kNobody)))
      .PutBytes(reason.text.data(), size);
  return bytes;
}

// version 4, kind 1, 0 1, trees 2, throughput 8, latency 8, bytes a chunk 8; a tree: weight 4, root
// 2, 0 2, parents 2 each (0xFFFF: none), reduce then broadcast.
std::vector<uint8_t> EncodePlan(const NumberedPlan& numbered) {
  const TreePlan& plan = numbered.plan;
  const size_t members = plan.members();
  std::vector<uint8_t> bytes(32 + plan.trees.size() * (8 + 4 * members));
  Writer writer(bytes.data());
  writer.Put<uint32_t>(numbered.version)
      .Put<uint8_t>(static_cast<uint8_t>(plan.kind))
      .Put<uint8_t>(0)
      .Put<uint16_t>(static_cast<uint16_t>(plan.trees.size()))
      .Put<double>(plan.throughput)
      .Put<double>(plan.latency)
      .Put<int64_t>(plan.chunk_bytes);
  for (const Tree& tree : plan.trees) {
    const double units = std::clamp(std::round(tree.weight * kWeightUnits), 1.0, kWeightUnits);
    writer.Put<uint32_t>(static_cast<uint32_t>(units))
        .Put<uint16_t>(static_cast<uint16_t>(tree.root))
        .Put<uint16_t>(0);
    for (const int parent : tree.reduce_parent) writer.Put<uint16_t>(static_cast<uint16_t>(parent));
    for (const int parent : tree.broadcast_parent) {
      writer.Put<uint16_t>(static_cast<uint16_t>(parent));
    }
  }
  return bytes;
}

std::vector<uint8_t> EncodeProbeRequest(double seconds) {
  std::vector<uint8_t> bytes(sizeof seconds);
  Writer(bytes.data()).Put<double>(seconds);
  return bytes;
}

// reports 4; a report: to 2, reachable 1, 0 5, then six numbers of 8 bytes.
std::vector<uint8_t> EncodeReports(const std::vector<LinkReport>& reports) {
  std::vector<uint8_t> bytes(4 + reports.size() * kReportSize);
  Writer writer(bytes.data());
  writer.Put<uint32_t>(static_cast<uint32_t>(reports.size()));
  for (const LinkReport& report : reports) {
    writer.Put<uint16_t>(static_cast<uint16_t>(report.to))
        .Put<uint8_t>(report.reachable ? 1 : 0)
        .Put<uint8_t>(0)
        .Put<uint32_t>(0)
        .Put<double>(report.busy_seconds)
        .Put<double>(report.acked_bytes)
        .Put<double>(report.paced_rate)
        .Put<double>(report.retransmitted)
        .Put<double>(report.rtt_seconds)
        .Put<double>(report.queue_seconds);
  }
  return bytes;
}

std::vector<uint8_t> EncodeAck(const Ack& ack) {
  const size_t ranges = std::min(ack.ranges.size(), kMaxAckRanges);
  std::vector<uint8_t> bytes(8 + ranges * 16);
  Writer writer(bytes.data());
  writer.Put<uint64_t>(ack.below);
  for (size_t i = 0; i < ranges; ++i) {
    writer.Put<int64_t>(ack.ranges[i].begin).Put<int64_t>(ack.ranges[i].end);
  }
  return bytes;
}

StatusOr<uint16_t> ParseVersion(Bytes head) {
  if (head.size() != kGreetingHead) return Bad("a greeting without its head");
  Reader reader(head);
  char magic[kMagicSize];
  reader.TakeBytes(magic, sizeof magic);
  if (std::memcmp(magic, kMagic, kMagicSize) != 0) return Bad("not an atoll gateway");
  return reader.Take<uint16_t>();
}

StatusOr<Hello> ParseHello(Bytes bytes) {
  Reader reader(bytes);
  RETURN_IF_ERROR(TakeHead(bytes, kHelloSize, &reader));
  Hello hello;
  hello.plain = reader.Take<uint8_t>();
  const auto reserved = reader.Take<uint8_t>();
  hello.lane = reader.Take<uint32_t>();
  hello.view = reader.Take<uint64_t>();
  hello.from = reader.Take<uint16_t>();
  hello.to = reader.Take<uint16_t>();
  const auto more_reserved = reader.Take<uint32_t>();
  hello.incarnation = reader.Take<uint64_t>();
  reader.TakeBytes(hello.nonce.data(), kNonceSize);
  if (reserved != 0 || more_reserved != 0 || hello.plain > 1) {
    return Bad("a hello with reserved bits");
  }
  if (hello.from >= kMaxMembers || hello.to >= kMaxMembers || hello.from == hello.to) {
    return Bad("a hello with member indexes that cannot be");
  }
  return hello;
}

StatusOr<Answer> ParseAnswer(Bytes bytes) {
  Reader reader(bytes);
  RETURN_IF_ERROR(TakeHead(bytes, kAnswerSize, &reader));
  Answer answer;
  const auto reserved = reader.Take<uint16_t>();
  if (reserved != 0 || reader.Take<uint32_t>() != 0) return Bad("an answer with reserved bits");
  answer.incarnation = reader.Take<uint64_t>();
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
  header.tree = reader.Take<uint16_t>();
  const auto check = reader.Take<uint16_t>();
  const auto count = reader.Take<uint32_t>();
  header.payload = reader.Take<uint32_t>();
  header.operation = reader.Take<uint64_t>();
  header.sequence = reader.Take<uint64_t>();
  const auto begin = reader.Take<uint64_t>();
  if (check != HeaderCheck(bytes.data())) return Bad("a header that was damaged on the way");
  if (flags != 0) return Bad("a frame with unknown flags");
  if (begin > kMaxElements) return Bad("a frame for elements that no vector has");
  header.range = {static_cast<int64_t>(begin), static_cast<int64_t>(begin + count)};
  RETURN_IF_ERROR(CheckFields(header));
  return header;
}

StatusOr<Start> ParseStart(Bytes bytes) {
  if (bytes.size() < kStartSize || bytes.size() > kStartSize + kMaxPlanBytes) {
    return Bad("a start of the wrong size");
  }
  Reader reader(bytes);
  Start start;
  start.elements = reader.Take<uint64_t>();
  start.chunk_elements = reader.Take<uint32_t>();
  start.plan_version = reader.Take<uint32_t>();
  start.members = reader.Take<uint16_t>();
  start.codec = reader.Take<uint8_t>();
  const auto reserved = reader.Take<uint8_t>();
  start.attachment_bytes = reader.Take<uint32_t>();
  if (reserved != 0) return Bad("a start with reserved bits");
  if (start.elements > kMaxElements) return Bad("a start of a vector that cannot be");
  if (start.chunk_elements == 0) return Bad("a start with chunks of no elements");
  if (start.attachment_bytes > Engine::kMaxAttachment) return Bad("a huge attachment");
  start.next_plan.assign(bytes.begin() + kStartSize, bytes.end());
  return start;
}

StatusOr<NumberedPlan> ParsePlan(Bytes bytes, int members) {
  if (bytes.size() < 32) return Bad("a plan that is too short");
  Reader reader(bytes);
  NumberedPlan numbered;
  TreePlan& plan = numbered.plan;
  numbered.version = reader.Take<uint32_t>();
  const auto kind = reader.Take<uint8_t>();
  const auto reserved = reader.Take<uint8_t>();
  const auto trees = reader.Take<uint16_t>();
  plan.throughput = reader.Take<double>();
  plan.latency = reader.Take<double>();
  plan.chunk_bytes = reader.Take<int64_t>();
  if (reserved != 0 || kind > static_cast<uint8_t>(ScheduleKind::kTrees)) {
    return Bad("a plan of an unknown kind");
  }
  plan.kind = static_cast<ScheduleKind>(kind);
  if (trees < 1 || trees > kMaxTrees || bytes.size() != 32 + trees * (8 + 4 * size_t(members))) {
    return Bad("a plan of the wrong size");
  }
  if (!IsSane(plan.throughput) || !IsSane(plan.latency) || plan.chunk_bytes < 1024 ||
      plan.chunk_bytes > static_cast<int64_t>(kMaxPayload)) {
    return Bad("a plan with numbers that cannot be");
  }
  double total = 0;
  for (int i = 0; i < trees; ++i) {
    Tree tree;
    tree.weight = reader.Take<uint32_t>();
    total += tree.weight;
    tree.root = reader.Take<uint16_t>();
    if (tree.weight < 1 || reader.Take<uint16_t>() != 0) return Bad("a tree that cannot be");
    for (std::vector<int>* const parents : {&tree.reduce_parent, &tree.broadcast_parent}) {
      for (int member = 0; member < members; ++member) {
        const auto parent = reader.Take<uint16_t>();
        parents->push_back(parent == 0xFFFF ? -1 : parent);
      }
    }
    plan.trees.push_back(std::move(tree));
  }
  for (Tree& tree : plan.trees) tree.weight /= total;
  RETURN_IF_ERROR(CheckPlan(plan, members));
  return numbered;
}

StatusOr<std::optional<double>> ParseProbeRequest(Bytes bytes) {
  if (bytes.size() != sizeof(double)) return std::optional<double>();
  const double seconds = Reader(bytes).Take<double>();
  if (!(seconds >= 0 && seconds <= kMaxProbeSeconds)) return Bad("a probe that cannot be");
  return std::optional<double>(seconds);
}

StatusOr<std::vector<LinkReport>> ParseReports(Bytes bytes, int members, int from) {
  if (bytes.size() < 4) return Bad("a report that is too short");
  Reader reader(bytes);
  const auto count = reader.Take<uint32_t>();
  if (count > static_cast<uint32_t>(members) || bytes.size() != 4 + count * kReportSize) {
    return Bad("a report of the wrong size");
  }
  std::vector<LinkReport> reports;
  std::vector<bool> seen(members);
  for (uint32_t i = 0; i < count; ++i) {
    LinkReport report;
    report.from = from;
    report.to = reader.Take<uint16_t>();
    report.reachable = reader.Take<uint8_t>() == 1;
    const auto reserved = reader.Take<uint8_t>();
    if (reader.Take<uint32_t>() != 0 || reserved != 0) return Bad("a report with reserved bits");
    for (double* const number :
         {&report.busy_seconds, &report.acked_bytes, &report.paced_rate, &report.retransmitted,
          &report.rtt_seconds, &report.queue_seconds}) {
      *number = reader.Take<double>();
    }
    if (!IsSane(report) || report.to >= members || report.to == from || seen[report.to]) {
      return Bad("a report that cannot be");
    }
    seen[report.to] = true;
    reports.push_back(report);
  }
  return reports;
}

StatusOr<Ack> ParseAck(Bytes bytes) {
  if (bytes.size() < 8 || (bytes.size() - 8) % 16 != 0 || bytes.size() > 8 + kMaxAckRanges * 16) {
    return Bad("an acknowledgement of the wrong size");
  }
  Reader reader(bytes);
  Ack ack;
  ack.below = reader.Take<uint64_t>();
  if (ack.below < 1 || ack.below > uint64_t{1} << 62) return Bad("an acknowledgement of nothing");
  int64_t last = static_cast<int64_t>(ack.below);
  for (size_t i = 0; i < (bytes.size() - 8) / 16; ++i) {
    Range range;
    range.begin = reader.Take<int64_t>();
    range.end = reader.Take<int64_t>();
    if (range.begin <= last || range.end <= range.begin || range.end > int64_t{1} << 62) {
      return Bad("an acknowledgement whose ranges cannot be");
    }
    last = range.end;
    ack.ranges.push_back(range);
  }
  return ack;
}

StatusOr<Reason> ParseReason(Bytes bytes) {
  if (bytes.size() < kReasonSize || bytes.size() > kReasonSize + kMaxReason) {
    return Bad("a reason of the wrong size");
  }
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
  const auto about = Reader(bytes.subspan(1)).Take<uint16_t>();
  if (about != kNobody) {
    if (about >= kMaxMembers) return Bad("a reason about a member that cannot be");
    reason.about = about;
  }
  for (const uint8_t byte : bytes.subspan(kReasonSize)) {
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
  compare("plan", here.plan_version, there.plan_version);
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
