// Who may connect: the ZeroMQ authenticator (ZAP, RFC 27) of one server. A client whose public key
// is a lease's is let in under its region's name, which the server then finds on every message as
// "User-Id"; all others are turned away in the handshake.
//
// Thread rule: owns a thread, which ends when the context is shut down; the destructor joins it.
// The context must be shut down (ZmqContext::Shutdown) before.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <thread>

#include "base/status.h"
#include "control/zmq_socket.h"

namespace atl {

class ZapAuthenticator {
 public:
  // `regions`: raw public key (32 bytes) -> region. Must start before the context's server binds.
  static StatusOr<std::unique_ptr<ZapAuthenticator>> Start(
      const ZmqContext& context, std::map<std::string, std::string> regions);
  ~ZapAuthenticator();

 private:
  ZapAuthenticator(ZmqSocket socket, std::map<std::string, std::string> regions);
  void Serve();

  ZmqSocket socket_;
  const std::map<std::string, std::string> regions_;
  std::thread thread_;
};

}  // namespace atl
