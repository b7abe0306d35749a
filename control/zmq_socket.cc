#include "control/zmq_socket.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "base/socket.h"
#include "control/server.h"

namespace atl {
namespace {

constexpr int kQueueMessages =
    64;  // a peer, each way; bounds memory at 64 x kMaxControlMessageBytes
constexpr int kLingerMs = 1000;
constexpr int kHandshakeMs = 10000;
constexpr int kHeartbeatMs = 2000;

}  // namespace

ZmqContext::~ZmqContext() {
  while (zmq_ctx_term(context_) != 0 && errno == EINTR) {
  }
}

StatusOr<ZmqSocket> ZmqSocket::Open(const ZmqContext& context, int type) {
  ZmqSocket socket;
  socket.socket_ = zmq_socket(context.get(), type);
  if (socket.socket_ == nullptr) return ErrnoError(errno, "cannot open a control socket");
  return socket;
}

void ZmqSocket::Close() {
  if (socket_ != nullptr) zmq_close(socket_);
  socket_ = nullptr;
}

void ZmqSocket::Set(int option, int64_t value) {
  const int narrow = static_cast<int>(value);
  // The one option that is 64 bits wide.
  const int result = option == ZMQ_MAXMSGSIZE
                         ? zmq_setsockopt(socket_, option, &value, sizeof value)
                         : zmq_setsockopt(socket_, option, &narrow, sizeof narrow);
  CHECK_EQ(result, 0) << "option " << option << ": " << zmq_strerror(errno);
}

void ZmqSocket::Set(int option, const std::string& value) {
  CHECK_EQ(zmq_setsockopt(socket_, option, value.data(), value.size()), 0)
      << "option " << option << ": " << zmq_strerror(errno);
}

std::string ZmqSocket::LastEndpoint() const {
  char text[512] = {};
  size_t size = sizeof text;
  if (zmq_getsockopt(socket_, ZMQ_LAST_ENDPOINT, text, &size) != 0) return "";
  return text;
}

bool ZmqMessage::Receive(const ZmqSocket& socket, int flags) {
  while (zmq_msg_recv(&message_, socket.get(), flags) < 0) {
    if (errno != EINTR) return false;
  }
  return true;
}

std::string ZmqMessage::Property(const char* name) {
  const char* value = zmq_msg_gets(&message_, name);
  return value == nullptr ? "" : value;
}

bool ReceiveFrames(const ZmqSocket& socket, size_t limit, std::vector<std::string>* frames,
                   bool* too_long, std::string* user_id) {
  frames->clear();
  *too_long = false;
  user_id->clear();
  ZmqMessage frame;
  if (!frame.Receive(socket, ZMQ_DONTWAIT)) return false;
  while (true) {
    if (frames->size() < limit) {
      frames->push_back(frame.Text());
      *user_id = frame.Property("User-Id");
    } else {
      *too_long = true;
    }
    if (!frame.more() || !frame.Receive(socket, 0)) return true;
  }
}

void SetControlOptions(ZmqSocket* socket, const std::string& host) {
  socket->Set(ZMQ_MAXMSGSIZE, kMaxControlMessageBytes);
  socket->Set(ZMQ_SNDHWM, kQueueMessages);
  socket->Set(ZMQ_RCVHWM, kQueueMessages);
  socket->Set(ZMQ_LINGER, kLingerMs);
  socket->Set(ZMQ_HANDSHAKE_IVL, kHandshakeMs);
  socket->Set(ZMQ_HEARTBEAT_IVL, kHeartbeatMs);
  socket->Set(ZMQ_HEARTBEAT_TIMEOUT, kPeerSilenceSeconds * 1000);
  socket->Set(ZMQ_HEARTBEAT_TTL, kPeerSilenceSeconds * 1000);
  socket->Set(ZMQ_TCP_KEEPALIVE, 1);
  socket->Set(ZMQ_TCP_KEEPALIVE_IDLE, 30);
  socket->Set(ZMQ_TCP_KEEPALIVE_INTVL, 10);
  socket->Set(ZMQ_TCP_KEEPALIVE_CNT, 3);
  if (absl::StrContains(host, ":")) socket->Set(ZMQ_IPV6, 1);
}

Waker::Waker() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) { PCHECK(fd_.valid()) << "eventfd"; }

void Waker::Wake() {
  const int saved = errno;
  const uint64_t one = 1;
  // Fails only when 2^64 - 2 wakes are pending, and then it is woken anyway.
  [[maybe_unused]] const ssize_t written = write(fd_.get(), &one, sizeof one);
  errno = saved;
}

bool Waker::Take() {
  uint64_t count = 0;
  return read(fd_.get(), &count, sizeof count) == sizeof count;
}

void PollUntil(std::vector<zmq_pollitem_t>* items, double deadline) {
  while (true) {
    const double left = deadline - Clock::Real()->MonotonicSeconds();
    // An hour at a time, so that "for ever" fits; rounded up, so that the last step does not spin.
    const long wait_ms = static_cast<long>(std::ceil(std::clamp(left, 0.0, 3600.0) * 1000));
    if (zmq_poll(items->data(), static_cast<int>(items->size()), wait_ms) > 0 || left <= 0) return;
  }
}

std::string TcpAddress::ToString() const {
  return absl::StrCat("tcp://", Endpoint{host, port}.ToString());
}

StatusOr<TcpAddress> ParseTcpAddress(const std::string& address, bool listen) {
  const Status form =
      UsageError(absl::StrCat("'", address, "' is not an address of the form tcp://HOST:PORT",
                              listen ? ", such as tcp://0.0.0.0:7077; port 0 takes a free one"
                                     : ", such as tcp://10.1.2.3:7077"));
  constexpr absl::string_view kScheme = "tcp://";
  if (!absl::StartsWith(address, kScheme)) return form;
  std::string rest = address.substr(kScheme.size());
  if (listen) {
    if (absl::EndsWith(rest, ":*")) rest = absl::StrCat(rest.substr(0, rest.size() - 1), "0");
    if (absl::StartsWith(rest, "*:")) rest = absl::StrCat("0.0.0.0", rest.substr(1));
    if (absl::StartsWith(rest, "localhost:")) rest = absl::StrCat("127.0.0.1", rest.substr(9));
  }
  const StatusOr<Endpoint> endpoint = Endpoint::Parse(rest);
  if (!endpoint.ok() || endpoint->host.empty() || (!listen && endpoint->port == 0)) return form;
  return TcpAddress{endpoint->host, endpoint->port};
}

StatusOr<std::string> DecodeKey(const std::string& z85) {
  std::string raw(32, '\0');
  if (z85.size() != 40 || z85.find('\0') != std::string::npos ||
      zmq_z85_decode(reinterpret_cast<uint8_t*>(raw.data()), z85.c_str()) == nullptr) {
    return absl::InvalidArgumentError("not a key of 40 Z85 characters");
  }
  return raw;
}

}  // namespace atl
