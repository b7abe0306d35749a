// TCP over IPv4 and IPv6, non-blocking. Raw sockets live here alone; engines read and write the
// descriptors.
#pragma once

#include <cstdint>
#include <string>

#include "base/file.h"
#include "base/status.h"

namespace atl {

// "host:port" or "[v6]:port"; a name is resolved when used. Port 0 asks the system for a free one
// when listening.
struct Endpoint {
  std::string host;
  uint16_t port = 0;
  std::string ToString() const;
  static StatusOr<Endpoint> Parse(const std::string& text);
  friend bool operator==(const Endpoint&, const Endpoint&) = default;
};

// A listening socket (SO_REUSEADDR, non-blocking). A port in use is an error with exit code 4 that
// names it.
StatusOr<Fd> ListenTcp(const Endpoint& endpoint);
// The address that a socket is bound to.
StatusOr<Endpoint> LocalEndpoint(const Fd& fd);
// Begins a non-blocking connect: the descriptor becomes writable when it is through; then ask
// ConnectResult().
StatusOr<Fd> StartConnectTcp(const Endpoint& endpoint);
Status ConnectResult(const Fd& fd, const Endpoint& endpoint);
// An error of these two that says: the host answers, and nobody listens there.
bool IsConnectionRefused(const Status& status);
// Next waiting connection (non-blocking, TCP_NODELAY), or an invalid Fd if none waits.
StatusOr<Fd> AcceptTcp(const Fd& listener);
Status SetNoDelay(const Fd& fd);
// The local address from which `remote` would be reached (no packet is sent): what to advertise to
// peers.
StatusOr<std::string> LocalHostTowards(const Endpoint& remote);

}  // namespace atl
