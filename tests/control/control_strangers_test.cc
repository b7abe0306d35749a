// Strangers on the control plane, and peers with a right key that misbehave.
#include <poll.h>
#include <unistd.h>

#include "base/random.h"
#include "base/socket.h"
#include "control/message.h"
#include "tests/control/control_fixture.h"

namespace atl {
namespace {

TEST_F(Control, GarbageFromAKeyedPeerIsCountedAndDropped) {
  const Lease oslo = NewLease("oslo"), johor = NewLease("johor");
  auto server = Serve();
  RawClient raw(server->address(), oslo);
  const std::string good = Report(5).SerializeAsString();
  raw.Send("this is no message");
  raw.Send("");                           // parses, but has no body
  raw.Send("two", true), raw.Send(good);  // two frames
  for (int i = 0; i < 50; ++i) raw.Send("x", i < 49);
  raw.Send(good);
  const auto incoming = server->Receive(kPatience);
  ASSERT_TRUE(incoming);
  EXPECT_EQ(incoming->region, "oslo");
  EXPECT_EQ(incoming->message.sequence(), 5);
  EXPECT_EQ(server->rejected_messages(), 4);
  auto other = Connect(server->address(), johor);
  other->Send(Report(6));
  ASSERT_TRUE(Reach(other.get(), State::kConnected));
  EXPECT_EQ(server->Receive(kPatience)->region, "johor");
}

TEST_F(Control, AnOversizedMessageCostsItsSenderTheConnectionAndNobodyElse) {
  const Lease oslo = NewLease("oslo"), johor = NewLease("johor");
  auto server = Serve();
  auto other = Connect(server->address(), johor);
  ASSERT_TRUE(Reach(other.get(), State::kConnected));
  {
    RawClient raw(server->address(), oslo);
    raw.Send(std::string(kMaxControlMessageBytes + 1, 'x'));
    EXPECT_FALSE(server->Receive(0.3));
  }
  pb::LeaderMessage large;
  large.mutable_fault()->set_what(std::string(kMaxControlMessageBytes - 64, 'x'));
  other->Send(large);
  const auto incoming = server->Receive(kPatience);
  ASSERT_TRUE(incoming);
  EXPECT_EQ(incoming->region, "johor");
  EXPECT_EQ(incoming->message.fault().what().size(), kMaxControlMessageBytes - 64);
  // Our own ends do not even try.
  large.mutable_fault()->set_what(std::string(kMaxControlMessageBytes + 1, 'x'));
  other->Send(large);
  other->Send(Report(3));
  EXPECT_EQ(server->Receive(kPatience)->message.sequence(), 3);
}

TEST_F(Control, ARegionCannotSpeakOrListenForAnother) {
  const Lease oslo = NewLease("oslo"), johor = NewLease("johor");
  auto server = Serve();
  RawClient honest(server->address(), oslo, "leader-of-oslo");
  honest.Send(Report(1).SerializeAsString());
  ASSERT_EQ(server->Receive(kPatience)->region, "oslo");

  // Claims the other's name in the message, and the other's routing id below it.
  pb::LeaderMessage claim;
  claim.mutable_hello()->set_region("oslo");
  RawClient liar(server->address(), johor);
  liar.Send(claim.SerializeAsString());
  const auto incoming = server->Receive(kPatience);
  ASSERT_TRUE(incoming);
  EXPECT_EQ(incoming->region, "johor");
  RawClient thief(server->address(), johor, "leader-of-oslo");
  thief.Send(claim.SerializeAsString());
  EXPECT_FALSE(server->Receive(0.3));  // the id is taken: not even heard

  server->Send("oslo", Ack(1));
  EXPECT_TRUE(honest.Receives(20000));
  EXPECT_FALSE(thief.Receives(0));
  EXPECT_FALSE(liar.Receives(0));
}

TEST_F(Control, SpeakersOfOtherProtocolsDoNoHarm) {
  const Lease oslo = NewLease("oslo");
  auto server = Serve();
  const auto endpoint = Endpoint::Parse(server->address().substr(6));
  std::vector<Fd> strangers;
  for (int i = 0; i < 20; ++i) {
    auto fd = StartConnectTcp(*endpoint);
    ASSERT_TRUE(fd.ok());
    pollfd item = {fd->get(), POLLOUT, 0};
    ASSERT_EQ(poll(&item, 1, 20000), 1);
    const std::string bytes = i % 2 == 0 ? "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
                                         : std::string(1000, static_cast<char>(255 - i));
    ASSERT_GT(write(fd->get(), bytes.data(), bytes.size()), 0);
    strangers.push_back(*std::move(fd));
  }
  auto client = Connect(server->address(), oslo);
  client->Send(Report(1));
  ASSERT_TRUE(Reach(client.get(), State::kConnected)) << client->StateText();
  EXPECT_EQ(server->Receive(kPatience)->region, "oslo");
}

TEST_F(Control, AClientWithoutACurveKeyIsNotHeard) {
  NewLease("oslo");
  auto server = Serve();
  void* context = zmq_ctx_new();
  void* socket = zmq_socket(context, ZMQ_DEALER);
  const int linger = 0;
  zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof linger);
  ASSERT_EQ(zmq_connect(socket, server->address().c_str()), 0);
  const std::string bytes = Report(1).SerializeAsString();
  zmq_send(socket, bytes.data(), bytes.size(), 0);
  EXPECT_FALSE(server->Receive(0.3));
  zmq_close(socket);
  zmq_ctx_term(context);
}

TEST(ControlMessage, SurvivesMutatedBytes) {
  pb::LeaderMessage message;
  message.set_sequence(3);
  auto* ready = message.mutable_ready();
  ready->add_gateways("127.0.0.1:40001");
  ready->set_accelerator("cpu");
  auto* checkpoint = ready->add_checkpoints();
  checkpoint->set_round(5);
  checkpoint->set_path("/runs/a");
  const std::string valid = message.SerializeAsString();
  ASSERT_TRUE(ParseLeaderMessage(valid.data(), valid.size()).ok());
  const CounterRandom random(11);
  uint64_t draw = 0;
  int refused = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string bytes = valid;
    for (uint64_t edit = random.Bits(draw++) % 4; edit < 4; ++edit) {
      const size_t at = random.Bits(draw++) % bytes.size();
      bytes[at] = static_cast<char>(random.Bits(draw++));
    }
    const size_t kept = random.Bits(draw++) % (4 * bytes.size());
    if (kept < bytes.size()) bytes.resize(kept);
    const auto parsed = ParseLeaderMessage(bytes.data(), bytes.size());
    refused += !parsed.ok();
    if (parsed.ok()) {
      EXPECT_NE(parsed->body_case(), pb::LeaderMessage::BODY_NOT_SET);
    }
    (void)ParseOrchestratorMessage(bytes.data(), bytes.size());
  }
  EXPECT_GT(refused, 5000);
}

}  // namespace
}  // namespace atl
