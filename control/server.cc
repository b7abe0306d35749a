// 1. The authenticator (control/zap.h) is started, then the ROUTER bound, so that no connection is
//    ever let in unchecked.
// 2. A message's region is the "User-Id" that the authenticator gave the connection on which it
//    came. What a message says about its sender, and the routing id that a peer chose, count for
//    nothing.
// 3. Send goes to the routing id on which the region last spoke: a region that comes back on a new
//    connection replaces its former one with its first message.
#include "control/server.h"

#include <cerrno>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "control/message.h"
#include "control/zap.h"
#include "control/zmq_socket.h"

namespace atl {
namespace {

// A routing id and the message.
constexpr size_t kFrames = 2;

class ZmqControlServer : public ControlServer {
 public:
  Status Start(const Options& options);
  ~ZmqControlServer() override;

  std::string address() const override { return address_; }
  std::optional<Incoming> Receive(double seconds) override;
  void Send(const std::string& region, const pb::OrchestratorMessage& message) override;
  void Wake() override { waker_.Wake(); }
  void Close() override;
  Status Reopen() override { return Listen(address_); }
  bool open() const override { return router_.get() != nullptr; }
  int64_t rejected_messages() const override { return rejected_messages_; }

 private:
  Status Listen(const std::string& listen);
  // The next message if one waits and is sound; `*any` tells whether one waited at all.
  std::optional<Incoming> TryReceive(bool* any);
  void Reject(const std::string& region, absl::string_view why);

  ZmqContext context_;
  std::unique_ptr<ZapAuthenticator> authenticator_;
  ZmqSocket router_;
  Waker waker_;
  std::string secret_key_;
  std::string address_;
  std::map<std::string, std::string> connections_;  // region -> routing id
  int64_t rejected_messages_ = 0;
};

Status BindError(int error, const std::string& listen) {
  const std::string what = absl::StrCat("cannot listen on ", listen, ": ", zmq_strerror(error));
  switch (error) {
    case EADDRINUSE:
      return EnvironmentError(absl::StrCat(
          what,
          "; another program has this port: end it, or choose another port (0 takes a free "
          "one)"));
    case EADDRNOTAVAIL:
    case ENODEV:
      return EnvironmentError(absl::StrCat(
          what, "; this host has no such address: 0.0.0.0 listens on all that it has"));
    default:
      return EnvironmentError(what);
  }
}

Status ZmqControlServer::Start(const Options& options) {
  RETURN_IF_ERROR(ParseTcpAddress(options.listen, /*listen=*/true).status());
  std::map<std::string, std::string> regions;
  for (const auto& [key, region] : options.regions) {
    auto raw = DecodeKey(key);
    if (!raw.ok()) {
      return UsageError(absl::StrCat("the lease of '", region, "': ", raw.status().message()));
    }
    regions[*raw] = region;
  }
  if (!DecodeKey(options.keys.secret_key).ok()) {
    return UsageError("the orchestrator's secret key is not a key of 40 Z85 characters");
  }
  ASSIGN_OR_RETURN(authenticator_, ZapAuthenticator::Start(context_, std::move(regions)));
  secret_key_ = options.keys.secret_key;
  return Listen(options.listen);
}

Status ZmqControlServer::Listen(const std::string& listen) {
  ASSIGN_OR_RETURN(const TcpAddress address, ParseTcpAddress(listen, /*listen=*/true));
  ASSIGN_OR_RETURN(router_, ZmqSocket::Open(context_, ZMQ_ROUTER));
  SetControlOptions(&router_, address.host);
  router_.Set(ZMQ_CURVE_SERVER, 1);
  router_.Set(ZMQ_CURVE_SECRETKEY, secret_key_);
  router_.Set(ZMQ_ZAP_DOMAIN, std::string("atoll"));
  router_.Set(ZMQ_ROUTER_MANDATORY, 1);
  if (zmq_bind(router_.get(), address.ToString().c_str()) != 0) {
    const int error = errno;
    router_.Close();
    return BindError(error, address.ToString());
  }
  address_ = router_.LastEndpoint();
  return OkStatus();
}

void ZmqControlServer::Close() {
  router_.Close();
  connections_.clear();
}

ZmqControlServer::~ZmqControlServer() {
  router_.Close();  // what was sent still goes out: the context waits for it, bounded by the linger
  if (authenticator_ == nullptr) return;
  context_.Shutdown();
  authenticator_.reset();
}

void ZmqControlServer::Reject(const std::string& region, absl::string_view why) {
  ++rejected_messages_;
  LOG_EVERY_N(WARNING, 100) << "dropped " << rejected_messages_
                            << " control messages so far; this one came from region '" << region
                            << "': " << std::string(why);
}

std::optional<ControlServer::Incoming> ZmqControlServer::TryReceive(bool* any) {
  std::vector<std::string> frames;
  bool too_long = false;
  std::string region;
  if (!open()) return std::nullopt;
  *any = ReceiveFrames(router_, kFrames, &frames, &too_long, &region);
  if (!*any) return std::nullopt;
  if (too_long || frames.size() != kFrames) {
    Reject(region, "not one frame");
    return std::nullopt;
  }
  if (region.empty()) {  // libzmq lets everybody in while no authenticator runs
    Reject(region, "its connection was not authenticated");
    return std::nullopt;
  }
  auto message = ParseLeaderMessage(frames[1].data(), frames[1].size());
  if (!message.ok()) {
    Reject(region, message.status().message());
    return std::nullopt;
  }
  connections_[region] = frames[0];
  return Incoming{region, *std::move(message)};
}

std::optional<ControlServer::Incoming> ZmqControlServer::Receive(double seconds) {
  const double deadline = Clock::Real()->MonotonicSeconds() + seconds;
  while (true) {
    if (waker_.Take()) return std::nullopt;
    bool any = false;
    if (auto incoming = TryReceive(&any)) return incoming;
    // Dropped messages count against the time as well: a flood of them must not hold the caller.
    if (Clock::Real()->MonotonicSeconds() >= deadline) return std::nullopt;
    if (any) continue;
    std::vector<zmq_pollitem_t> items = {{nullptr, waker_.fd(), ZMQ_POLLIN, 0}};
    if (open()) items.push_back({router_.get(), 0, ZMQ_POLLIN, 0});
    PollUntil(&items, deadline);
  }
}

void ZmqControlServer::Send(const std::string& region, const pb::OrchestratorMessage& message) {
  const auto connection = connections_.find(region);
  if (connection == connections_.end()) return;
  const std::string bytes = message.SerializeAsString();
  if (static_cast<int64_t>(bytes.size()) > kMaxControlMessageBytes) {
    LOG(ERROR) << "a message of " << bytes.size() << " bytes to region '" << region
               << "' was not sent: at most " << kMaxControlMessageBytes << " are allowed";
    return;
  }
  const std::string& id = connection->second;
  // Refused at once where the connection is gone or its queue is full; the leader asks again.
  if (zmq_send(router_.get(), id.data(), id.size(), ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0 ||
      zmq_send(router_.get(), bytes.data(), bytes.size(), ZMQ_DONTWAIT) < 0) {
    VLOG(1) << "a message to region '" << region << "' was dropped: " << zmq_strerror(errno);
  }
}

}  // namespace

StatusOr<std::unique_ptr<ControlServer>> ControlServer::Create(const Options& options) {
  auto server = std::make_unique<ZmqControlServer>();
  RETURN_IF_ERROR(server->Start(options));
  return StatusOr<std::unique_ptr<ControlServer>>(std::move(server));
}

}  // namespace atl
