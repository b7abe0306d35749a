// What the tests of the control plane share: a fixture with keys and leases, sample messages, and a
// peer with a right key that sends what it likes.
#pragma once

#include <zmq.h>

#include <map>
#include <memory>
#include <string>

#include "base/clock.h"
#include "control/client.h"
#include "control/server.h"
#include "gtest/gtest.h"

namespace atl {

using State = ControlClient::State;
// Seconds; on a loaded machine everything still comes in time.
inline constexpr double kPatience = 20;

inline double Now() { return Clock::Real()->MonotonicSeconds(); }

class Control : public testing::Test {
 protected:
  Lease NewLease(const std::string& region) {
    const Lease lease{region, GenerateKeyPair(), keys_.public_key};
    regions_[lease.keys.public_key] = region;
    return lease;
  }
  std::unique_ptr<ControlServer> Serve(const std::string& listen = "tcp://127.0.0.1:0") {
    auto server = ControlServer::Create({listen, keys_, regions_});
    EXPECT_TRUE(server.ok()) << server.status();
    return server.ok() ? *std::move(server) : nullptr;
  }
  static std::unique_ptr<ControlClient> Connect(const std::string& address, const Lease& lease) {
    auto client = ControlClient::Create(address, lease);
    EXPECT_TRUE(client.ok()) << client.status();
    return client.ok() ? *std::move(client) : nullptr;
  }
  static bool Reach(ControlClient* client, State state) {
    const double deadline = Now() + kPatience;
    while (client->state() != state && Now() < deadline) client->Receive(0.02);
    return client->state() == state;
  }

  const KeyPair keys_ = GenerateKeyPair();
  std::map<std::string, std::string> regions_;
};

inline pb::LeaderMessage Beat(int64_t round) {
  pb::LeaderMessage message;
  message.mutable_heartbeat()->set_round(round);
  return message;
}

inline pb::LeaderMessage Report(uint64_t sequence) {
  pb::LeaderMessage message;
  message.set_sequence(sequence);
  message.mutable_round()->set_round(static_cast<int64_t>(sequence));
  return message;
}

inline pb::OrchestratorMessage Ack(uint64_t sequence) {
  pb::OrchestratorMessage message;
  message.mutable_ack()->set_sequence(sequence);
  return message;
}

// A correctly keyed peer that sends what it likes.
class RawClient {
 public:
  RawClient(const std::string& address, const Lease& lease, const std::string& routing_id = "") {
    const int linger = 2000;
    zmq_setsockopt(socket_, ZMQ_LINGER, &linger, sizeof linger);
    zmq_setsockopt(socket_, ZMQ_CURVE_SERVERKEY, lease.orchestrator_public_key.data(), 40);
    zmq_setsockopt(socket_, ZMQ_CURVE_PUBLICKEY, lease.keys.public_key.data(), 40);
    zmq_setsockopt(socket_, ZMQ_CURVE_SECRETKEY, lease.keys.secret_key.data(), 40);
    if (!routing_id.empty()) {
      zmq_setsockopt(socket_, ZMQ_ROUTING_ID, routing_id.data(), routing_id.size());
    }
    EXPECT_EQ(zmq_connect(socket_, address.c_str()), 0);
  }
  ~RawClient() {
    zmq_close(socket_);
    zmq_ctx_term(context_);
  }
  void Send(const std::string& bytes, bool more = false) {
    EXPECT_GE(zmq_send(socket_, bytes.data(), bytes.size(), more ? ZMQ_SNDMORE : 0), 0);
  }
  bool Receives(int timeout_ms) {
    zmq_pollitem_t item = {socket_, 0, ZMQ_POLLIN, 0};
    return zmq_poll(&item, 1, timeout_ms) > 0;
  }

 private:
  void* const context_ = zmq_ctx_new();
  void* const socket_ = zmq_socket(context_, ZMQ_DEALER);
};

}  // namespace atl
