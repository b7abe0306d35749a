// A member that has the key and keeps no rule, and an engine that is in a view with it and in
// another one with an honest engine.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <limits>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "collectives/wan/engine.h"
#include "collectives/wan/frame.h"
#include "collectives/wan/seal.h"
#include "tests/wan/cluster.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define ATOLL_WATCHED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define ATOLL_WATCHED 1
#endif
#endif

namespace atl::wan {

#ifdef ATOLL_WATCHED
inline constexpr int kFlood = 5000;  // sanitizers are slow, and have memory of their own
inline constexpr size_t kRoom = std::numeric_limits<size_t>::max() / 2;  // is added to
#else
inline constexpr int kFlood = 400000;
inline constexpr size_t kRoom = 16 << 20;
#endif

inline constexpr time_t kPatienceSeconds = 60;  // then it hangs

inline size_t ResidentBytes() {
  long pages = 0, resident = 0;
  std::FILE* const file = std::fopen("/proc/self/statm", "r");
  const int fields = std::fscanf(file, "%ld %ld", &pages, &resident);
  std::fclose(file);
  return fields == 2 ? static_cast<size_t>(resident) * sysconf(_SC_PAGESIZE) : 0;
}

inline FrameHeader Header(FrameType type, uint64_t sequence = 0, uint64_t operation = 0) {
  FrameHeader header;
  header.type = type;
  header.sequence = sequence;
  header.operation = operation;
  return header;
}

inline FrameHeader Numbers(FrameType type, uint64_t sequence, uint64_t operation, Range range,
                           int tree) {
  FrameHeader header = Header(type, sequence, operation);
  header.range = range;
  header.tree = static_cast<uint16_t>(tree);
  return header;
}

struct Frame {
  FrameHeader header;
  std::vector<uint8_t> payload;
};

// One connection of the hostile member, blocking. Everything it says is sealed as it should be.
class HostileLink {
 public:
  HostileLink(const Endpoint& engine, const Group& group, int from, uint64_t incarnation = 7,
              int receive_buffer = 0)
      : fd_(*StartConnectTcp(engine)) {
    if (receive_buffer > 0) {
      setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    }
    Await(POLLOUT);
    Block();
    Hello hello;
    hello.view = static_cast<uint64_t>(group.view.value);
    hello.from = static_cast<uint16_t>(from);
    hello.to = static_cast<uint16_t>(1 - from);
    hello.incarnation = incarnation;
    uint8_t bytes[kHelloSize];
    EncodeHello(hello, bytes);
    SendRaw(bytes);
    uint8_t answered[kAnswerSize];
    if (!ReceiveRaw(answered, kAnswerSize)) return;
    const auto answer = ParseAnswer(Bytes(answered, kAnswerSize));
    if (!answer.ok()) return;
    const StreamKeys keys = DeriveStreamKeys(group.key, hello, *answer);
    sealer_.emplace(keys.from_dialler, false);
    opener_.emplace(keys.from_acceptor, false);
    Confirm();
  }
  // Answers a call of the engine's.
  HostileLink(Fd accepted, const Group& group) : fd_(std::move(accepted)) {
    Block();
    uint8_t bytes[kHelloSize];
    if (!ReceiveRaw(bytes, kHelloSize)) return;
    const auto hello = ParseHello(Bytes(bytes, kHelloSize));
    if (!hello.ok()) return;
    Answer answer;
    answer.incarnation = 7;
    uint8_t answered[kAnswerSize];
    EncodeAnswer(answer, answered);
    SendRaw(answered);
    const StreamKeys keys = DeriveStreamKeys(group.key, *hello, answer);
    sealer_.emplace(keys.from_acceptor, false);
    opener_.emplace(keys.from_dialler, false);
    Confirm();
  }

  bool ready() const { return ready_; }

  // The payload's size goes into the header. False: the connection has ended.
  bool Send(FrameHeader header, const std::vector<uint8_t>& payload = {}) {
    header.payload = static_cast<uint32_t>(payload.size());
    return SendAs(header, payload);
  }
  // The header as it is, whatever follows it.
  bool SendAs(const FrameHeader& header, const std::vector<uint8_t>& payload) {
    std::vector<uint8_t> bytes(kHeaderSize + payload.size() + kTagSize);
    EncodeHeader(header, bytes.data());
    sealer_->Seal(Bytes(bytes.data(), kHeaderSize), payload, bytes.data() + kHeaderSize,
                  bytes.data() + kHeaderSize + payload.size());
    return SendRaw(bytes);
  }
  bool SendRaw(Bytes bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes = bytes.subspan(static_cast<size_t>(sent));
    }
    return true;
  }
  // Nothing: the connection has ended.
  std::optional<Frame> Receive() {
    uint8_t head[kHeaderSize];
    if (!ReceiveRaw(head, kHeaderSize)) return std::nullopt;
    const auto header = ParseHeader(Bytes(head, kHeaderSize));
    if (!header.ok()) return std::nullopt;
    std::vector<uint8_t> bytes(header->payload + kTagSize);
    if (!ReceiveRaw(bytes.data(), bytes.size())) return std::nullopt;
    if (!opener_->Open(Bytes(head, kHeaderSize), bytes.data(), header->payload,
                       bytes.data() + header->payload)) {
      return std::nullopt;
    }
    bytes.resize(header->payload);
    return Frame{*header, std::move(bytes)};
  }
  std::optional<Frame> ReceiveA(FrameType type) {
    while (auto frame = Receive()) {
      if (frame->header.type == type) return frame;
    }
    return std::nullopt;
  }
  // All that was sent before has been dealt with, and the connection stands.
  bool Stands() {
    if (!Send(Header(FrameType::kPing))) return false;
    return ReceiveA(FrameType::kAck).has_value();
  }
  void AwaitEnd() {
    const double end = Clock::Real()->MonotonicSeconds() + kPatienceSeconds;
    while (Receive().has_value()) {  // pings, perhaps
      timed_out_ = timed_out_ || Clock::Real()->MonotonicSeconds() > end;
      if (timed_out_) break;
    }
    EXPECT_FALSE(timed_out_) << "the connection stands where it should have ended";
  }

 private:
  void Await(short what) {
    pollfd ready = {fd_.get(), what, 0};
    poll(&ready, 1, -1);
  }
  void Block() {
    const int flags = fcntl(fd_.get(), F_GETFL);
    fcntl(fd_.get(), F_SETFL, flags & ~O_NONBLOCK);
    const timeval patience = {kPatienceSeconds, 0};  // what hangs is a failure
    setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd_.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  }
  bool ReceiveRaw(uint8_t* out, size_t size) {
    while (size > 0) {
      const ssize_t got = recv(fd_.get(), out, size, 0);
      timed_out_ = timed_out_ || (got < 0 && errno == EAGAIN);
      if (got <= 0) return false;
      out += got;
      size -= static_cast<size_t>(got);
    }
    return true;
  }
  void Confirm() {
    Send(Header(FrameType::kConfirm));
    const auto confirmed = Receive();
    ready_ = confirmed.has_value() && confirmed->header.type == FrameType::kConfirm;
  }

  Fd fd_;
  std::optional<Sealer> sealer_;
  std::optional<Opener> opener_;
  bool ready_ = false;
  bool timed_out_ = false;
};

inline std::vector<uint8_t> ReportOf(double rtt, int to = 0) {
  LinkReport report;
  report.to = to;
  report.rtt_seconds = rtt;
  return EncodeReports({report});
}

inline Start StartOf(size_t elements, uint32_t plan_version) {
  Start start;
  start.elements = elements;
  start.chunk_elements = (64 << 10) / sizeof(float);
  start.plan_version = plan_version;
  start.members = 2;
  start.codec = static_cast<uint8_t>(Codec::kFp32);
  return start;
}

// Engines 0 and 1 sum in view 1000 all the time; engine 0 is in views with the hostile member too.
class WanHostile : public testing::Test {
 protected:
  WanHostile() : honest_(2, 1) { honest_.JoinAll(kHonestView); }
  ~WanHostile() override { OthersGoOn(); }

  Engine& engine() { return *honest_.engines[0]; }
  void OthersGoOn() {
    const uint64_t id = ++honest_id_;
    const auto inputs = MakeInputs(2, 50000, id);
    auto data = inputs;
    for (const auto& operation : honest_.StartAll(id, &data, {}, kHonestView)) {
      const auto result = operation->Wait();
      ASSERT_TRUE(result.ok()) << result.status();
    }
    for (const auto& vector : data) {
      EXPECT_TRUE(SameBits(vector, Reference(inputs, Codec::kFp32)));
    }
  }

  // A view of two in which the hostile member has this index.
  Group NewView(int hostile) {
    Group group;
    group.view = {++view_};
    group.self = {1 - hostile};
    // Anew for each view: calls for the last one end with it.
    listener_ = *ListenTcp({"127.0.0.1", 0});
    const int flags = fcntl(listener_.get(), F_GETFL);
    fcntl(listener_.get(), F_SETFL, flags & ~O_NONBLOCK);
    const Endpoint ours = *LocalEndpoint(listener_);
    group.members = {honest_.endpoints[0], honest_.endpoints[0]};
    group.members[hostile] = ours;
    group.names = {"first", "second"};
    group.names[hostile] = "hostile";
    group.key.fill(static_cast<uint8_t>(view_));
    return group;
  }
  std::unique_ptr<HostileLink> Call(const Group& group, uint64_t incarnation = 7, int buffer = 0) {
    return std::make_unique<HostileLink>(honest_.endpoints[0], group, 1, incarnation, buffer);
  }
  std::unique_ptr<HostileLink> AnswerCall(const Group& group) {
    return std::make_unique<HostileLink>(Fd(accept(listener_.get(), nullptr, nullptr)), group);
  }
  // The engine's side of joining, in a thread.
  std::thread Joining(const Group& group, double seconds = 30) {
    return std::thread([this, group, seconds] { joined_ = engine().Join(group, seconds); });
  }
  // Member 1 joins the engine, which is member 0, as it should. Its report was number 1.
  std::unique_ptr<HostileLink> JoinAsSecond(const Group& group, uint32_t* plan_version = nullptr) {
    std::thread joining = Joining(group);
    auto link = Call(group);
    EXPECT_TRUE(link->ready());
    link->Send(Header(FrameType::kReport, 1), ReportOf(0));
    const auto told = link->ReceiveA(FrameType::kPlan);
    EXPECT_TRUE(told.has_value());
    joining.join();
    EXPECT_TRUE(joined_.ok()) << joined_;
    if (plan_version != nullptr && told.has_value()) {
      *plan_version = ParsePlan(told->payload, 2)->version;
    }
    return link;
  }
  // Member 0 lets the engine join. Its plan was number 1.
  std::unique_ptr<HostileLink> JoinAsFirst(const Group& group) {
    std::thread joining = Joining(group);
    auto link = AnswerCall(group);
    EXPECT_TRUE(link->ready());
    EXPECT_TRUE(link->ReceiveA(FrameType::kReport).has_value());
    link->Send(Header(FrameType::kPlan, 1), EncodePlan({kPlan, EqualPlan(2)}));
    joining.join();
    EXPECT_TRUE(joined_.ok()) << joined_;
    return link;
  }

  static constexpr int64_t kHonestView = 1000;
  static constexpr uint32_t kPlan = 5;
  Cluster honest_;
  Fd listener_;
  int64_t view_ = 1;
  uint64_t honest_id_ = 0;
  Status joined_;
};

}  // namespace atl::wan
