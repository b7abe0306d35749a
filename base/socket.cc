#include "base/socket.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cerrno>
#include <memory>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace atl {
namespace {

constexpr char kRefusedPayload[] = "atoll/connection_refused";

Status ConnectError(int error_number, const Endpoint& endpoint) {
  Status status = ErrnoError(error_number, absl::StrCat("cannot connect to ", endpoint.ToString()));
  if (error_number == ECONNREFUSED) status.SetPayload(kRefusedPayload, absl::Cord());
  return status;
}

using AddressList = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

StatusOr<AddressList> Resolve(const Endpoint& endpoint, bool passive, int socktype) {
  addrinfo hints = {};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = socktype;
  hints.ai_flags = AI_NUMERICSERV | (passive ? AI_PASSIVE : 0);
  addrinfo* list = nullptr;
  const std::string port = absl::StrCat(endpoint.port);
  const int error = getaddrinfo(endpoint.host.empty() ? nullptr : endpoint.host.c_str(),
                                port.c_str(), &hints, &list);
  if (error != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot resolve '", endpoint.host, "': ", gai_strerror(error)));
  }
  return AddressList(list, &freeaddrinfo);
}

StatusOr<Endpoint> FromSockaddr(const sockaddr_storage& address) {
  char text[INET6_ADDRSTRLEN] = {};
  if (address.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    inet_ntop(AF_INET, &v4.sin_addr, text, sizeof text);
    return Endpoint{text, ntohs(v4.sin_port)};
  }
  if (address.ss_family == AF_INET6) {
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
    inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof text);
    return Endpoint{text, ntohs(v6.sin6_port)};
  }
  return absl::InternalError("the socket has neither an IPv4 nor an IPv6 address");
}

}  // namespace

std::string Endpoint::ToString() const {
  return host.find(':') == std::string::npos ? absl::StrCat(host, ":", port)
                                             : absl::StrCat("[", host, "]:", port);
}

StatusOr<Endpoint> Endpoint::Parse(const std::string& text) {
  const auto bad = [&] {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not host:port"));
  };
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos) return bad();
  Endpoint endpoint;
  endpoint.host = text.substr(0, colon);
  if (endpoint.host.size() >= 2 && endpoint.host.front() == '[' && endpoint.host.back() == ']') {
    endpoint.host = endpoint.host.substr(1, endpoint.host.size() - 2);
  } else if (endpoint.host.find(':') != std::string::npos) {
    return bad();
  }
  int port = 0;
  if (!absl::SimpleAtoi(text.substr(colon + 1), &port) || port < 0 || port > 65535) return bad();
  endpoint.port = static_cast<uint16_t>(port);
  return endpoint;
}

StatusOr<Fd> ListenTcp(const Endpoint& endpoint) {
  ASSIGN_OR_RETURN(const AddressList list, Resolve(endpoint, true, SOCK_STREAM));
  int last_error = EADDRNOTAVAIL;
  for (const addrinfo* at = list.get(); at != nullptr; at = at->ai_next) {
    Fd fd(socket(at->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    const int one = 1;
    if (!fd.valid()) {
      last_error = errno;
      continue;
    }
    setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd.get(), at->ai_addr, at->ai_addrlen) == 0 && listen(fd.get(), 256) == 0) return fd;
    last_error = errno;
  }
  return ErrnoError(last_error, absl::StrCat("cannot listen on ", endpoint.ToString()));
}

StatusOr<Endpoint> LocalEndpoint(const Fd& fd) {
  sockaddr_storage address = {};
  socklen_t size = sizeof address;
  if (getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    return ErrnoError(errno, "cannot ask for a socket's address");
  }
  return FromSockaddr(address);
}

StatusOr<Fd> StartConnectTcp(const Endpoint& endpoint) {
  ASSIGN_OR_RETURN(const AddressList list, Resolve(endpoint, false, SOCK_STREAM));
  Fd fd(socket(list->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return ErrnoError(errno, "cannot make a socket");
  RETURN_IF_ERROR(SetNoDelay(fd));
  if (connect(fd.get(), list->ai_addr, list->ai_addrlen) != 0 && errno != EINPROGRESS) {
    return ConnectError(errno, endpoint);
  }
  return fd;
}

Status ConnectResult(const Fd& fd, const Endpoint& endpoint) {
  int error = 0;
  socklen_t size = sizeof error;
  if (getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
  if (error != 0) return ConnectError(error, endpoint);
  return OkStatus();
}

bool IsConnectionRefused(const Status& status) {
  return status.GetPayload(kRefusedPayload).has_value();
}

StatusOr<Fd> AcceptTcp(const Fd& listener) {
  Fd fd(accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!fd.valid()) {
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ECONNABORTED || errno == EINTR)
      return Fd();
    return ErrnoError(errno, "cannot accept a connection");
  }
  RETURN_IF_ERROR(SetNoDelay(fd));
  return fd;
}

Status SetNoDelay(const Fd& fd) {
  const int one = 1;
  if (setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) != 0) {
    return ErrnoError(errno, "cannot set TCP_NODELAY");
  }
  return OkStatus();
}

StatusOr<std::string> LocalHostTowards(const Endpoint& remote) {
  ASSIGN_OR_RETURN(const AddressList list, Resolve(remote, false, SOCK_DGRAM));
  Fd fd(socket(list->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd.valid() || connect(fd.get(), list->ai_addr, list->ai_addrlen) != 0) {
    return ErrnoError(errno, absl::StrCat("no route to ", remote.ToString()));
  }
  ASSIGN_OR_RETURN(const Endpoint local, LocalEndpoint(fd));
  return local.host;
}

}  // namespace atl
