#include "control/zap.h"

#include <signal.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace atl {
namespace {

// A request: version, request id, domain, address, identity, mechanism, client's public key.
constexpr size_t kRequestFrames = 7;

void Reply(const ZmqSocket& socket, const std::vector<std::string>& frames) {
  for (size_t i = 0; i < frames.size(); ++i) {
    const int flags = i + 1 < frames.size() ? ZMQ_SNDMORE : 0;
    zmq_send(socket.get(), frames[i].data(), frames[i].size(), flags);
  }
}

}  // namespace

StatusOr<std::unique_ptr<ZapAuthenticator>> ZapAuthenticator::Start(
    const ZmqContext& context, std::map<std::string, std::string> regions) {
  ASSIGN_OR_RETURN(ZmqSocket socket, ZmqSocket::Open(context, ZMQ_REP));
  socket.Set(ZMQ_LINGER, 0);
  if (zmq_bind(socket.get(), "inproc://zeromq.zap.01") != 0) {
    return absl::InternalError(absl::StrCat("cannot authenticate: ", zmq_strerror(errno)));
  }
  return std::unique_ptr<ZapAuthenticator>(
      new ZapAuthenticator(std::move(socket), std::move(regions)));
}

ZapAuthenticator::ZapAuthenticator(ZmqSocket socket, std::map<std::string, std::string> regions)
    : socket_(std::move(socket)), regions_(std::move(regions)) {
  // Signals belong to the thread that made the server: it waits in a call that they must end.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { Serve(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

ZapAuthenticator::~ZapAuthenticator() { thread_.join(); }

void ZapAuthenticator::Serve() {
  while (true) {
    std::vector<std::string> request;
    ZmqMessage frame;
    do {
      if (!frame.Receive(socket_, 0)) {  // the context was shut down
        socket_.Close();
        return;
      }
      if (request.size() < kRequestFrames) request.push_back(frame.Text());
    } while (frame.more());
    const std::string id = request.size() > 1 ? request[1] : "";
    const bool curve =
        request.size() == kRequestFrames && request[0] == "1.0" && request[5] == "CURVE";
    const auto found = curve ? regions_.find(request[6]) : regions_.end();
    if (found != regions_.end()) {
      Reply(socket_, {"1.0", id, "200", "OK", found->second, ""});
    } else {
      LOG(WARNING) << "refused a connection from " << (request.size() > 3 ? request[3] : "?")
                   << ": its key belongs to no lease";
      Reply(socket_, {"1.0", id, "400", "this key belongs to no lease", "", ""});
    }
  }
}

}  // namespace atl
