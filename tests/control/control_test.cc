// Both ends of the control plane over real sockets.
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/socket.h"
#include "gmock/gmock.h"
#include "tests/control/control_fixture.h"

namespace atl {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST_F(Control, MessagesGoBothWaysUnderTheRegionOfTheKey) {
  const Lease oslo = NewLease("oslo"), johor = NewLease("johor");
  auto server = Serve();
  EXPECT_THAT(server->address(), testing::MatchesRegex("tcp://127\\.0\\.0\\.1:[1-9][0-9]*"));
  auto first = Connect(server->address(), oslo), second = Connect(server->address(), johor);
  first->Send(Report(1));
  first->Send(Report(2));
  second->Send(Report(3));
  std::map<std::string, std::vector<uint64_t>> heard;
  for (int i = 0; i < 3; ++i) {
    // Send alone connects nothing: a client that is not asked to receive still delivers.
    const double deadline = Now() + kPatience;
    std::optional<ControlServer::Incoming> incoming;
    while (!incoming && Now() < deadline) {
      first->Receive(0.01);
      second->Receive(0.01);
      incoming = server->Receive(0.01);
    }
    ASSERT_TRUE(incoming);
    heard[incoming->region].push_back(incoming->message.sequence());
  }
  EXPECT_EQ(heard["oslo"], (std::vector<uint64_t>{1, 2}));
  EXPECT_EQ(heard["johor"], (std::vector<uint64_t>{3}));
  EXPECT_EQ(first->state(), State::kConnected);

  server->Send("johor", Ack(3));
  server->Send("oslo", Ack(2));
  server->Send("batam", Ack(9));  // never spoke: dropped
  auto answer = first->Receive(kPatience);
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->ack().sequence(), 2);
  answer = second->Receive(kPatience);
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->ack().sequence(), 3);
  EXPECT_EQ(server->rejected_messages(), 0);
}

TEST_F(Control, ALeaseThatTheOrchestratorDoesNotKnowIsRejectedUntilItDoes) {
  NewLease("oslo");
  auto server = Serve();
  const std::string address = server->address();
  const Lease stranger{"oslo", GenerateKeyPair(), keys_.public_key};
  auto client = Connect(address, stranger);
  client->Send(Report(1));
  ASSERT_TRUE(Reach(client.get(), State::kKeyRejected)) << client->StateText();
  EXPECT_THAT(client->StateText(), AllOf(HasSubstr(address), HasSubstr("'oslo'"),
                                         HasSubstr("refused the lease"), HasSubstr("keys")));
  EXPECT_FALSE(server->Receive(0.05));

  server.reset();
  regions_[stranger.keys.public_key] = "oslo";
  server = Serve(address);
  ASSERT_TRUE(Reach(client.get(), State::kConnected)) << client->StateText();
  const auto incoming = server->Receive(kPatience);
  ASSERT_TRUE(incoming);
  EXPECT_EQ(incoming->message.sequence(), 1);
}

TEST_F(Control, AnOrchestratorThatLacksTheKeyOfTheLeaseIsNotTrusted) {
  Lease lease = NewLease("oslo");
  auto server = Serve();
  lease.orchestrator_public_key = GenerateKeyPair().public_key;
  auto client = Connect(server->address(), lease);
  client->Send(Report(1));
  ASSERT_TRUE(Reach(client.get(), State::kKeyRejected)) << client->StateText();
  EXPECT_THAT(client->StateText(), AllOf(HasSubstr(server->address()), HasSubstr("'oslo'"),
                                         HasSubstr("does not hold the orchestrator key")));
  EXPECT_FALSE(server->Receive(0.05));
}

TEST_F(Control, SaysThatNobodyIsThereAndWhy) {
  const auto listener = ListenTcp({"127.0.0.1", 0});
  ASSERT_TRUE(listener.ok());
  const std::string address = absl::StrCat("tcp://", LocalEndpoint(*listener)->ToString());
  {
    const Fd closed = Fd(dup(listener->get()));  // only a bound socket, no longer listening
    ASSERT_EQ(shutdown(closed.get(), SHUT_RDWR), 0);
  }
  auto client = Connect(address, NewLease("oslo"));
  EXPECT_EQ(client->state(), State::kConnecting);
  EXPECT_THAT(client->StateText(), HasSubstr(address));
  ASSERT_TRUE(Reach(client.get(), State::kNobodyThere)) << client->StateText();
  const double deadline = Now() + kPatience;
  while (client->StateText().find("refused") == std::string::npos && Now() < deadline) {
    client->Receive(0.02);
  }
  EXPECT_EQ(client->StateText(),
            absl::StrCat("nobody answers at ", address, ": Connection refused"));
}

TEST_F(Control, AClientThatIsEarlyConnectsWhenTheOrchestratorComes) {
  const Lease lease = NewLease("oslo");
  std::string address = Serve()->address();  // free again
  auto client = Connect(address, lease);
  client->Send(Report(1));
  ASSERT_TRUE(Reach(client.get(), State::kNobodyThere));
  auto server = Serve(address);
  ASSERT_TRUE(Reach(client.get(), State::kConnected)) << client->StateText();
  const auto incoming = server->Receive(kPatience);
  ASSERT_TRUE(incoming);
  EXPECT_EQ(incoming->message.sequence(), 1);
}

TEST_F(Control, APortInUseIsNamed) {
  auto server = Serve();
  const auto second = ControlServer::Create({server->address(), keys_, regions_});
  EXPECT_EQ(ExitCodeOf(second.status()), ExitCode::kEnvironment);
  EXPECT_THAT(std::string(second.status().message()),
              AllOf(HasSubstr(server->address()), HasSubstr("Address already in use")));
}

TEST_F(Control, AnAddressThatIsNotThisHostsIsNamed) {
  const auto server = ControlServer::Create({"tcp://192.0.2.7:0", keys_, regions_});
  EXPECT_EQ(ExitCodeOf(server.status()), ExitCode::kEnvironment);
  EXPECT_THAT(std::string(server.status().message()), HasSubstr("192.0.2.7"));
}

TEST_F(Control, MalformedAddressesAreUsageErrors) {
  const Lease lease = NewLease("oslo");
  for (const char* address : {"", "127.0.0.1:7077", "tcp://", "tcp://host", "tcp://host:port",
                              "ipc://x", "tcp://h:70777", "tcp://h:0", "tcp://*:7077"}) {
    const auto client = ControlClient::Create(address, lease);
    if (std::string(address) == "tcp://*:7077") continue;  // a name like any other, resolved later
    EXPECT_EQ(ExitCodeOf(client.status()), ExitCode::kUsage) << address;
  }
  for (const char* address : {"", "127.0.0.1:7077", "tcp://host:port", "udp://127.0.0.1:0"}) {
    const auto server = ControlServer::Create({address, keys_, regions_});
    EXPECT_EQ(ExitCodeOf(server.status()), ExitCode::kUsage) << address;
  }
  for (const char* address : {"tcp://127.0.0.1:*", "tcp://localhost:0", "tcp://*:0"}) {
    EXPECT_TRUE(ControlServer::Create({address, keys_, regions_}).ok()) << address;
  }
}

TEST_F(Control, AClientGoesOnWhenTheOrchestratorComesBackOnItsPort) {
  const Lease lease = NewLease("oslo");
  auto server = Serve();
  const std::string address = server->address();
  auto client = Connect(address, lease);
  ASSERT_TRUE(Reach(client.get(), State::kConnected));
  for (uint64_t life = 1; life <= 3; ++life) {
    server.reset();
    ASSERT_TRUE(Reach(client.get(), State::kDisconnected)) << client->StateText();
    EXPECT_THAT(client->StateText(), HasSubstr("lost the orchestrator"));
    client->Send(Report(life));  // waits for the connection
    server = Serve(address);
    ASSERT_TRUE(Reach(client.get(), State::kConnected)) << client->StateText();
    const auto incoming = server->Receive(kPatience);
    ASSERT_TRUE(incoming);
    EXPECT_EQ(incoming->message.sequence(), life);
    server->Send("oslo", Ack(life));
    const auto answer = client->Receive(kPatience);
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->ack().sequence(), life);
  }
}

TEST_F(Control, OfSeveralAddressesTheOneThatAnswersIsTaken) {
  const Lease lease = NewLease("johor");
  auto first = Serve();
  const auto second = Serve();
  const std::string first_address = first->address();
  const auto client = Connect(absl::StrCat(first_address, ",", second->address()), lease);
  second->Close();  // a standby does not listen
  ASSERT_TRUE(Reach(client.get(), State::kConnected));
  client->Send(Beat(1));
  ASSERT_TRUE(first->Receive(kPatience));
  first.reset();
  ASSERT_TRUE(Reach(client.get(), State::kDisconnected));
  EXPECT_THAT(client->StateText(), HasSubstr(second->address()));
  ASSERT_TRUE(second->Reopen().ok());
  ASSERT_TRUE(Reach(client.get(), State::kConnected));
  client->Send(Beat(2));
  const auto incoming = second->Receive(kPatience);
  ASSERT_TRUE(incoming);
  EXPECT_EQ(incoming->region, "johor");
  EXPECT_EQ(incoming->message.heartbeat().round(), 2);
  second->Send("johor", Ack(3));
  const auto answer = client->Receive(kPatience);
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->ack().sequence(), 3);
}

TEST_F(Control, WhatWasSaidLastArrivesThoughTheSenderIsGone) {
  const Lease lease = NewLease("oslo");
  auto server = Serve();
  auto client = Connect(server->address(), lease);
  ASSERT_TRUE(Reach(client.get(), State::kConnected));
  client->Send(Report(7));
  const auto incoming = server->Receive(kPatience);
  ASSERT_TRUE(incoming);
  server->Send("oslo", Ack(7));
  server.reset();
  const auto answer = client->Receive(kPatience);
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->ack().sequence(), 7);

  server = Serve();
  client = Connect(server->address(), lease);
  ASSERT_TRUE(Reach(client.get(), State::kConnected));
  client->Send(Report(8));
  client.reset();
  const auto last = server->Receive(kPatience);
  ASSERT_TRUE(last);
  EXPECT_EQ(last->message.sequence(), 8);
}

TEST_F(Control, ARegionThatComesBackReplacesItsFormerConnection) {
  const Lease oslo = NewLease("oslo");
  auto server = Serve();
  RawClient former(server->address(), oslo);
  former.Send(Report(1).SerializeAsString());
  ASSERT_TRUE(server->Receive(kPatience));
  RawClient present(server->address(), oslo);
  present.Send(Report(2).SerializeAsString());
  ASSERT_TRUE(server->Receive(kPatience));
  server->Send("oslo", Ack(2));
  EXPECT_TRUE(present.Receives(20000));
  EXPECT_FALSE(former.Receives(0));
}

TEST_F(Control, WakeEndsAReceiveUnderWayAndTheNextOne) {
  const Lease oslo = NewLease("oslo");
  auto server = Serve();
  auto client = Connect(server->address(), oslo);
  double before = Now();
  std::thread waker([&] { server->Wake(), client->Wake(); });
  EXPECT_FALSE(server->Receive(kPatience));
  EXPECT_FALSE(client->Receive(kPatience));
  waker.join();
  server->Wake(), server->Wake();
  EXPECT_FALSE(server->Receive(kPatience));
  EXPECT_LT(Now() - before, kPatience);
  // Taken: the next one waits again.
  before = Now();
  EXPECT_FALSE(server->Receive(0.05));
  EXPECT_GE(Now() - before, 0.045);
}

ControlServer* signalled_server = nullptr;

TEST_F(Control, WakeWorksFromASignalHandler) {
  auto server = Serve();
  signalled_server = server.get();
  struct sigaction action = {}, before = {};
  action.sa_handler = [](int) { signalled_server->Wake(); };
  sigaction(SIGUSR1, &action, &before);
  kill(getpid(), SIGUSR1);
  const double start = Now();
  EXPECT_FALSE(server->Receive(kPatience));
  EXPECT_LT(Now() - start, kPatience);
  sigaction(SIGUSR1, &before, nullptr);
}

TEST_F(Control, AFullQueueDropsItsOldestHeartbeatsFirst) {
  const Lease oslo = NewLease("oslo");
  const std::string address = Serve()->address();
  auto client = Connect(address, oslo);
  for (uint64_t i = 1; i <= 600; ++i) {
    client->Send(Beat(static_cast<int64_t>(i)));
    client->Send(Report(i));
  }
  auto server = Serve(address);
  std::vector<uint64_t> reports;
  int64_t beats = 0, first_beat = 0;
  const double deadline = Now() + kPatience;
  while (reports.size() < 600 && Now() < deadline) {
    client->Receive(0.001);
    while (const auto incoming = server->Receive(0.001)) {
      if (incoming->message.has_heartbeat()) {
        if (++beats == 1) first_beat = incoming->message.heartbeat().round();
      } else {
        reports.push_back(incoming->message.sequence());
      }
    }
  }
  ASSERT_EQ(reports.size(), 600);
  EXPECT_EQ(reports.front(), 1);
  EXPECT_EQ(reports.back(), 600);
  EXPECT_EQ(beats, 424);
  EXPECT_EQ(first_beat, 177);
}

}  // namespace
}  // namespace atl
