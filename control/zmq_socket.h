// The one place that includes zmq.h: owned contexts, sockets and messages, and what both ends of
// the control plane share (limits, liveness, waking). Thread rule: a context may be used by any
// thread, a socket or message by one at a time; Waker::Wake by any thread and by signal handlers.
#pragma once

#include <zmq.h>

#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/status.h"
#include "control/keys.h"

namespace atl {

class ZmqContext {
 public:
  ZmqContext() : context_(zmq_ctx_new()) {}
  // Waits until every socket is closed and has sent what it had, at most their linger.
  ~ZmqContext();
  ZmqContext(const ZmqContext&) = delete;
  ZmqContext& operator=(const ZmqContext&) = delete;
  // Ends every blocking call of the context's sockets with ETERM.
  void Shutdown() { zmq_ctx_shutdown(context_); }
  void* get() const { return context_; }

 private:
  void* const context_;
};

class ZmqSocket {
 public:
  ZmqSocket() = default;
  ZmqSocket(ZmqSocket&& other) noexcept : socket_(std::exchange(other.socket_, nullptr)) {}
  ZmqSocket& operator=(ZmqSocket&& other) noexcept {
    Close();
    socket_ = std::exchange(other.socket_, nullptr);
    return *this;
  }
  ~ZmqSocket() { Close(); }

  // Error (exit code 4): the process has too many open files or sockets.
  static StatusOr<ZmqSocket> Open(const ZmqContext& context, int type);
  // A value that the library refuses is a programmer error.
  void Set(int option, int64_t value);
  void Set(int option, const std::string& value);
  std::string LastEndpoint() const;
  void* get() const { return socket_; }
  void Close();

 private:
  void* socket_ = nullptr;
};

class ZmqMessage {
 public:
  ZmqMessage() { zmq_msg_init(&message_); }
  ~ZmqMessage() { zmq_msg_close(&message_); }
  ZmqMessage(const ZmqMessage&) = delete;
  ZmqMessage& operator=(const ZmqMessage&) = delete;
  // False if nothing waits (with ZMQ_DONTWAIT) or the context ended.
  bool Receive(const ZmqSocket& socket, int flags);
  bool more() { return zmq_msg_more(&message_) != 0; }
  const char* data() { return static_cast<const char*>(zmq_msg_data(&message_)); }
  size_t size() { return zmq_msg_size(&message_); }
  std::string Text() { return std::string(data(), size()); }
  // What the authenticator said about the connection on which the message came; empty if nothing.
  std::string Property(const char* name);

 private:
  zmq_msg_t message_;
};

// All frames of the next message, at most `limit` of them: of a longer message the rest is read
// and dropped, and `*too_long` set. False if none waits.
bool ReceiveFrames(const ZmqSocket& socket, size_t limit, std::vector<std::string>* frames,
                   bool* too_long, std::string* user_id);

// Limits and liveness that both ends set before they bind or connect: message size, queue lengths,
// handshake time, linger, TCP keepalive, ZMTP heartbeats. A silent peer is given up after about
// kPeerSilenceSeconds.
inline constexpr int kPeerSilenceSeconds = 10;
void SetControlOptions(ZmqSocket* socket, const std::string& host);

// Ends a poll from any thread or signal handler. Several wakes before a poll count as one.
class Waker {
 public:
  Waker();
  void Wake();
  // True if woken since the last call.
  bool Take();
  int fd() const { return fd_.get(); }

 private:
  Fd fd_;
};

// Waits until one of `items` is ready or the time is over. Interrupted calls go on.
void PollUntil(std::vector<zmq_pollitem_t>* items, double deadline);

// "tcp://host:port" taken apart. Errors (exit code 2) show the form. A listener may write '*' for
// all addresses and for a free port.
struct TcpAddress {
  std::string host;
  uint16_t port = 0;
  std::string ToString() const;
};
StatusOr<TcpAddress> ParseTcpAddress(const std::string& address, bool listen);

// 32 bytes of a Z85 key; error if it is none.
StatusOr<std::string> DecodeKey(const std::string& z85);

}  // namespace atl
