// 1. A DEALER with the lease's key connects; ZeroMQ dials again by itself, 100 ms to 2 s apart. A
//    monitor on the socket tells how the handshake went, and so what `state` is.
// 2. Messages wait in an own bounded queue and are handed to ZeroMQ only while an authenticated
//    connection stands, so little that is old piles up below. (ZMQ_IMMEDIATE would say the same,
//    but then a message that came just before its sender went is lost, and JobEnded is one.)
// 3. ZeroMQ gives up for ever after a peer refused the key. The peer may learn the key later (a
//    lease renewed, an orchestrator restarted), so the socket is then made anew every 2 s.
// 4. Of several addresses one is dialled at a time: a standby listens only once it leads. One that
//    refuses the connection, or has not finished a handshake in 3 s, makes room for the next.
// 5. ZeroMQ does not say why a connection could not be made. While nobody is there a plain TCP
//    connect, at most every 2 s, finds the reason for the user.
#include "control/client.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/socket.h"
#include "control/message.h"
#include "control/server.h"
#include "control/zmq_socket.h"

namespace atl {
namespace {

constexpr size_t kMaxQueued = 1024;
constexpr int kReconnectMs = 100;
constexpr int kReconnectMaxMs = 2000;
constexpr int kConnectTimeoutMs = 10000;
constexpr double kRedialSeconds = 2;
constexpr double kProbeSeconds = 2;
// Four round trips of a handshake over the longest links, and some.
constexpr double kAnswerSeconds = 3;
constexpr double kRefusedSeconds = 0.25;
// A handshake that breaks without a word also happens when the orchestrator ends just then: only a
// second one in a row means that the keys do not fit.
constexpr int kBrokenHandshakes = 2;

struct Queued {
  std::string bytes;
  bool heartbeat = false;
};

class ZmqControlClient : public ControlClient {
 public:
  ZmqControlClient(std::vector<TcpAddress> addresses, Lease lease)
      : addresses_(std::move(addresses)), lease_(std::move(lease)) {
    std::vector<std::string> texts;
    for (const TcpAddress& address : addresses_) texts.push_back(address.ToString());
    text_ = absl::StrJoin(texts, " or ");
  }
  Status Dial();

  std::optional<pb::OrchestratorMessage> Receive(double seconds) override;
  void Send(const pb::LeaderMessage& message) override;
  State state() const override { return state_; }
  std::string StateText() const override;
  void Wake() override { waker_.Wake(); }

 private:
  void ReadMonitor();
  void OnEvent(uint16_t event);
  void Flush();
  std::optional<pb::OrchestratorMessage> TryReceive(bool* any);
  void Redial(double now);
  // Step 4.
  void TakeNextAddress(double now);
  const TcpAddress& address() const { return addresses_[current_]; }
  // Step 5: begins a probe if one is due, or takes the result of the one under way.
  void Probe(double now, bool writable);

  const std::vector<TcpAddress> addresses_;
  std::string text_;
  size_t current_ = 0;
  double dialed_at_ = 0;
  double answer_by_ = 0;  // else the next address
  const Lease lease_;
  ZmqContext context_;
  ZmqSocket dealer_;
  ZmqSocket monitor_;
  Waker waker_;
  std::deque<Queued> queue_;
  State state_ = State::kConnecting;
  bool ever_connected_ = false;
  bool key_refused_ = false;  // said so by the peer, not just guessed
  int broken_handshakes_ = 0;
  int dials_ = 0;
  double redial_at_ = 0;  // 0: not due
  Fd probe_;
  double probe_at_ = 0;
  int failed_dials_ = 0;  // since the last TCP connection
  std::string reason_;    // why nobody is there
};

Status ZmqControlClient::Dial() {
  ASSIGN_OR_RETURN(dealer_, ZmqSocket::Open(context_, ZMQ_DEALER));
  ASSIGN_OR_RETURN(monitor_, ZmqSocket::Open(context_, ZMQ_PAIR));
  SetControlOptions(&dealer_, address().host);
  dealer_.Set(ZMQ_RECONNECT_IVL, kReconnectMs);
  dealer_.Set(ZMQ_RECONNECT_IVL_MAX, kReconnectMaxMs);
  dealer_.Set(ZMQ_CONNECT_TIMEOUT, kConnectTimeoutMs);
  dealer_.Set(ZMQ_CURVE_SERVERKEY, lease_.orchestrator_public_key);
  dealer_.Set(ZMQ_CURVE_PUBLICKEY, lease_.keys.public_key);
  dealer_.Set(ZMQ_CURVE_SECRETKEY, lease_.keys.secret_key);
  monitor_.Set(ZMQ_LINGER, 0);
  const std::string events = absl::StrCat("inproc://monitor-", ++dials_);
  constexpr int kEvents = ZMQ_EVENT_CONNECTED | ZMQ_EVENT_CONNECT_RETRIED | ZMQ_EVENT_DISCONNECTED |
                          ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                          ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;
  if (zmq_socket_monitor(dealer_.get(), events.c_str(), kEvents) != 0 ||
      zmq_connect(monitor_.get(), events.c_str()) != 0) {
    return ErrnoError(errno, "cannot watch the control connection");
  }
  const std::string text = address().ToString();
  if (zmq_connect(dealer_.get(), text.c_str()) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot connect to ", text, ": ", zmq_strerror(errno)));
  }
  dialed_at_ = Clock::Real()->MonotonicSeconds();
  answer_by_ = dialed_at_ + kAnswerSeconds;
  return OkStatus();
}

void ZmqControlClient::Redial(double now) {
  // What ZeroMQ held unsent of a former connection is lost: reports are repeated until
  // acknowledged.
  dealer_.Close();
  monitor_.Close();
  const Status dialed = Dial();
  redial_at_ = dialed.ok() ? 0 : now + kRedialSeconds;
  if (!dialed.ok()) LOG(WARNING) << dialed.message();
}

void ZmqControlClient::TakeNextAddress(double now) {
  current_ = (current_ + 1) % addresses_.size();
  failed_dials_ = 0;
  broken_handshakes_ = 0;
  probe_.Reset();
  if (state_ == State::kKeyRejected) state_ = State::kConnecting;
  Redial(now);
  answer_by_ = now + kAnswerSeconds;  // also where dialling failed
}

void ZmqControlClient::ReadMonitor() {
  std::vector<std::string> frames;
  bool too_long = false;
  std::string user_id;
  while (monitor_.get() != nullptr && ReceiveFrames(monitor_, 2, &frames, &too_long, &user_id)) {
    if (frames[0].size() < sizeof(uint16_t)) continue;
    uint16_t event = 0;
    std::memcpy(&event, frames[0].data(), sizeof event);
    OnEvent(event);
  }
}

void ZmqControlClient::OnEvent(uint16_t event) {
  switch (event) {
    case ZMQ_EVENT_CONNECTED:
      failed_dials_ = -1;
      probe_.Reset();
      break;
    case ZMQ_EVENT_HANDSHAKE_SUCCEEDED:
      state_ = State::kConnected;
      ever_connected_ = true;
      broken_handshakes_ = 0;
      key_refused_ = false;
      reason_.clear();
      break;
    case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH:
    case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
      state_ = State::kKeyRejected;
      key_refused_ = event == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;
      redial_at_ = Clock::Real()->MonotonicSeconds() + kRedialSeconds;
      break;
    case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
      if (++broken_handshakes_ >= kBrokenHandshakes && !key_refused_) state_ = State::kKeyRejected;
      break;
    case ZMQ_EVENT_DISCONNECTED:
      if (state_ == State::kConnected) {
        state_ = State::kDisconnected;
        answer_by_ = Clock::Real()->MonotonicSeconds() + kAnswerSeconds;
      }
      break;
    case ZMQ_EVENT_CONNECT_RETRIED:
      // Comes after each failed dial, and once after a connection broke, before the next dial.
      if (++failed_dials_ > 0) {
        state_ = ever_connected_ ? State::kDisconnected : State::kNobodyThere;
        broken_handshakes_ = 0;
        answer_by_ = dialed_at_ + kRefusedSeconds;
      }
      break;
    default:
      break;
  }
}

void ZmqControlClient::Probe(double now, bool writable) {
  const Endpoint endpoint{address().host, address().port};
  StatusOr<Fd> probe = Fd();
  if (probe_.valid()) {
    if (!writable) return;
    const Status result = ConnectResult(probe_, endpoint);
    probe_.Reset();
    if (result.ok()) return;  // somebody is there by now: the handshake will tell
    probe = result;
  } else {
    if (failed_dials_ <= 0 || now < probe_at_) return;
    probe_at_ = now + kProbeSeconds;
    probe = StartConnectTcp(endpoint);
  }
  if (probe.ok()) {
    probe_ = *std::move(probe);
    return;
  }
  // "cannot connect to host:port: Connection refused": users are told the address anyway.
  const std::string message(probe.status().message());
  const size_t colon = message.rfind(": ");
  reason_ = colon == std::string::npos ? message : message.substr(colon + 2);
}

void ZmqControlClient::Flush() {
  while (!queue_.empty() && state_ == State::kConnected) {
    const std::string& bytes = queue_.front().bytes;
    if (zmq_send(dealer_.get(), bytes.data(), bytes.size(), ZMQ_DONTWAIT) < 0) return;
    queue_.pop_front();
  }
}

void ZmqControlClient::Send(const pb::LeaderMessage& message) {
  std::string bytes = message.SerializeAsString();
  if (static_cast<int64_t>(bytes.size()) > kMaxControlMessageBytes) {
    LOG(ERROR) << "a control message of " << bytes.size() << " bytes was not sent: at most "
               << kMaxControlMessageBytes << " are allowed";
    return;
  }
  if (queue_.size() >= kMaxQueued) {
    auto victim = queue_.begin();
    while (victim != queue_.end() && !victim->heartbeat) ++victim;
    queue_.erase(victim != queue_.end() ? victim : queue_.begin());
  }
  queue_.push_back({std::move(bytes), message.has_heartbeat()});
  Flush();
}

std::optional<pb::OrchestratorMessage> ZmqControlClient::TryReceive(bool* any) {
  std::vector<std::string> frames;
  bool too_long = false;
  std::string user_id;
  *any = ReceiveFrames(dealer_, 1, &frames, &too_long, &user_id);
  if (!*any) return std::nullopt;
  auto message = ParseOrchestratorMessage(frames[0].data(), frames[0].size());
  if (message.ok() && !too_long) return *std::move(message);
  LOG_EVERY_N(WARNING, 100) << "dropped a message of the orchestrator: "
                            << (too_long ? "not one frame" : message.status().ToString());
  return std::nullopt;
}

std::optional<pb::OrchestratorMessage> ZmqControlClient::Receive(double seconds) {
  double now = Clock::Real()->MonotonicSeconds();
  const double deadline = now + seconds;
  bool probe_ready = false;
  while (true) {
    ReadMonitor();
    if (addresses_.size() > 1 && state_ != State::kConnected && now >= answer_by_) {
      TakeNextAddress(now);
    }
    if (redial_at_ > 0 && now >= redial_at_) Redial(now);
    Probe(now, probe_ready);
    Flush();
    if (waker_.Take()) return std::nullopt;
    bool any = false;
    if (auto message = TryReceive(&any)) return message;
    now = Clock::Real()->MonotonicSeconds();
    if (now >= deadline) return std::nullopt;
    if (any) continue;
    double wait = deadline;
    if (redial_at_ > 0) wait = std::min(wait, redial_at_);
    if (addresses_.size() > 1 && state_ != State::kConnected) {
      wait = std::min(wait, std::max(answer_by_, now));
    }
    if (failed_dials_ > 0 && !probe_.valid()) wait = std::min(wait, std::max(probe_at_, now));
    const bool flushing = !queue_.empty() && state_ == State::kConnected;
    std::vector<zmq_pollitem_t> items = {
        {nullptr, waker_.fd(), ZMQ_POLLIN, 0},
        {dealer_.get(), 0, static_cast<short>(flushing ? ZMQ_POLLIN | ZMQ_POLLOUT : ZMQ_POLLIN), 0},
        {monitor_.get(), 0, ZMQ_POLLIN, 0}};
    if (probe_.valid()) items.push_back({nullptr, probe_.get(), ZMQ_POLLOUT, 0});
    PollUntil(&items, wait);
    probe_ready = probe_.valid() && items.back().revents != 0;
    now = Clock::Real()->MonotonicSeconds();
  }
}

std::string ZmqControlClient::StateText() const {
  const std::string because = reason_.empty() ? "" : absl::StrCat(": ", reason_);
  switch (state_) {
    case State::kConnecting:
      return absl::StrCat("connecting to the orchestrator at ", text_);
    case State::kNobodyThere:
      return absl::StrCat("nobody answers at ", text_, because);
    case State::kKeyRejected:
      if (key_refused_) {
        return absl::StrCat("the orchestrator at ", text_, " refused the lease of '", lease_.region,
                            "': its key is not among those it knows; get the present lease file "
                            "from the orchestrator's keys directory");
      }
      return absl::StrCat("the program at ", text_,
                          " does not hold the orchestrator key that the lease of '", lease_.region,
                          "' names: the address or the lease is another orchestrator's");
    case State::kConnected:
      return absl::StrCat("connected to the orchestrator at ", text_);
    case State::kDisconnected:
      return absl::StrCat("lost the orchestrator at ", text_, because, "; trying again");
  }
  return "";
}

}  // namespace

StatusOr<std::unique_ptr<ControlClient>> ControlClient::Create(const std::string& address,
                                                               const Lease& lease) {
  std::vector<TcpAddress> addresses;
  for (const absl::string_view one : absl::StrSplit(address, ',')) {
    ASSIGN_OR_RETURN(const TcpAddress parsed, ParseTcpAddress(std::string(one), /*listen=*/false));
    addresses.push_back(parsed);
  }
  for (const std::string* key :
       {&lease.keys.public_key, &lease.keys.secret_key, &lease.orchestrator_public_key}) {
    RETURN_IF_ERROR(DecodeKey(*key).status());
  }
  auto client = std::make_unique<ZmqControlClient>(std::move(addresses), lease);
  RETURN_IF_ERROR(client->Dial());
  return StatusOr<std::unique_ptr<ControlClient>>(std::move(client));
}

}  // namespace atl
