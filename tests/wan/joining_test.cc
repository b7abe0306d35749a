// Who is let in: members in any order of starting, with the right key; and strangers of all kinds,
// who are not, and who change nothing for the others.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <thread>

#include "absl/strings/str_cat.h"
#include "collectives/wan/engine.h"
#include "collectives/wan/frame.h"
#include "tests/wan/cluster.h"

namespace atl::wan {
namespace {

using testing::HasSubstr;

std::string Message(const Status& status) { return std::string(status.message()); }

// A connection of somebody who is no gateway.
class Stranger {
 public:
  explicit Stranger(const Endpoint& endpoint) : fd_(*StartConnectTcp(endpoint)) {
    pollfd ready = {fd_.get(), POLLOUT, 0};
    poll(&ready, 1, -1);
  }
  void Send(Bytes bytes) { (void)!send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL); }
  std::vector<uint8_t> Receive(size_t size) {
    std::vector<uint8_t> bytes(size);
    size_t have = 0;
    while (have < size) {
      pollfd ready = {fd_.get(), POLLIN, 0};
      poll(&ready, 1, -1);
      const ssize_t got = recv(fd_.get(), bytes.data() + have, size - have, 0);
      if (got <= 0) break;
      have += static_cast<size_t>(got);
    }
    bytes.resize(have);
    return bytes;
  }
  // Waits until the other end has closed.
  void AwaitEnd() {
    uint8_t waste[256];
    while (true) {
      pollfd ready = {fd_.get(), POLLIN, 0};
      poll(&ready, 1, -1);
      if (recv(fd_.get(), waste, sizeof waste, 0) <= 0) return;
    }
  }

 private:
  Fd fd_;
};

TEST(WanJoin, AMemberThatCallsBeforeTheOtherHasJoinedIsHeldAndThenLetIn) {
  Cluster cluster(2);
  const Status early = cluster.engines[1]->Join(cluster.GroupOf(1), 0.2);
  EXPECT_TRUE(absl::IsDeadlineExceeded(early)) << early;
  EXPECT_THAT(Message(early), HasSubstr("region 'johor'"));
  const Status alone = cluster.engines[0]->Join(cluster.GroupOf(0), 0.1);
  EXPECT_TRUE(absl::IsDeadlineExceeded(alone)) << alone;
  EXPECT_THAT(Message(alone), HasSubstr("region 'oslo'"));
  cluster.JoinAll();
  ExpectSums(&cluster, 1);
}

TEST(WanJoin, AMemberMayCallBeforeTheOtherListens) {
  Cluster cluster(2);
  const uint16_t port = cluster.endpoints[0].port;
  cluster.engines[0].reset();
  const Status refused = cluster.engines[1]->Join(cluster.GroupOf(1), 0.1);
  EXPECT_TRUE(absl::IsDeadlineExceeded(refused)) << refused;
  EXPECT_THAT(Message(refused), HasSubstr("refused"));
  std::thread dialler([&] {
    const Status status = cluster.engines[1]->Join(cluster.GroupOf(1), 30);
    EXPECT_TRUE(status.ok()) << status;
  });
  cluster.engines[0] = MakeEngine(2, 64 << 10, port);
  EXPECT_TRUE(cluster.engines[0]->Join(cluster.GroupOf(0), 30).ok());
  dialler.join();
  ExpectSums(&cluster, 1);
}

// An address whose host answers no call: the queue of those who wait to be accepted is full.
class BlackHole {
 public:
  BlackHole() : listener_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address);
    listen(listener_.get(), 0);
    for (int i = 0; i < 4; ++i) waiting_.push_back(*StartConnectTcp(endpoint()));
  }
  Endpoint endpoint() const { return *LocalEndpoint(listener_); }

 private:
  Fd listener_;
  std::vector<Fd> waiting_;
};

TEST(WanJoin, CallsThatAFirewallSwallowsInOneDirectionDoNotMatterIfTheOthersComeThrough) {
  for (const int hidden : {0, 1}) {
    for (const int streams : {1, 3}) {
      const BlackHole hole;
      Cluster cluster(2, streams);
      cluster.endpoints[hidden] = hole.endpoint();
      cluster.JoinAll();
      ExpectSums(&cluster, 1);
      // Who comes through brings the other connections too.
      while (cluster.engines[0]->Links()[0].connections < streams) std::this_thread::yield();
      ExpectSums(&cluster, 2);
    }
  }
}

TEST(WanJoin, ARegionThatOnlyCallsOutTakesPart) {
  for (const int hidden : {0, 1, 2}) {
    Cluster cluster(3);
    cluster.endpoints[hidden] = {};
    cluster.JoinAll();
    ExpectSums(&cluster, 1);
  }
}

TEST(WanJoin, WhereBothCalledNoMoreConnectionsStayThanWereAskedFor) {
  Cluster cluster(2, 1);
  for (int64_t view = 1; view <= 20; ++view) {
    cluster.JoinAll(view);
    std::vector<std::vector<float>> data(2, std::vector<float>(100000, 1.0f));
    for (const auto& operation : cluster.StartAll(1, &data, {}, view)) {
      const auto result = operation->Wait();
      ASSERT_TRUE(result.ok()) << result.status();
    }
    EXPECT_EQ(data[0], std::vector<float>(100000, 2.0f));
    while (cluster.engines[0]->Links()[0].connections != 1 ||
           cluster.engines[1]->Links()[0].connections != 1) {
      std::this_thread::yield();
    }
    for (const auto& engine : cluster.engines) engine->Leave({view});
  }
}

TEST(WanJoin, MembersMayUseDifferentNumbersOfStreams) {
  Cluster cluster(2, 1);
  cluster.engines.push_back(MakeEngine(4));
  cluster.endpoints.push_back(cluster.engines.back()->endpoint());
  cluster.JoinAll();
  ExpectSums(&cluster, 1);
}

TEST(WanJoin, AWrongKeyIsToldAsSuchOnBothSides) {
  Cluster cluster(2);
  Group wrong = cluster.GroupOf(1);
  wrong.key[31] ^= 1;
  Status acceptor;
  std::thread thread([&] { acceptor = cluster.engines[0]->Join(cluster.GroupOf(0), 1); });
  const Status dialler = cluster.engines[1]->Join(wrong, 20);
  EXPECT_TRUE(absl::IsUnauthenticated(dialler)) << dialler;
  EXPECT_THAT(Message(dialler), HasSubstr("region 'johor'"));
  thread.join();
  EXPECT_TRUE(absl::IsUnauthenticated(acceptor)) << acceptor;
  EXPECT_THAT(Message(acceptor), HasSubstr("region 'oslo'"));
  EXPECT_GE(cluster.engines[0]->connections_refused(), 1);
  cluster.JoinAll();
  ExpectSums(&cluster, 1);
}

TEST(WanJoin, LeavingEndsAJoinThatIsUnderWay) {
  Cluster cluster(2);
  Status status;
  std::thread thread([&] {
    do {  // the main thread's short join may be under way
      status = cluster.engines[1]->Join(cluster.GroupOf(1), 60);
    } while (absl::IsAlreadyExists(status));
  });
  // A second join of the same lane is refused once the first is under way.
  while (!absl::IsAlreadyExists(cluster.engines[1]->Join(cluster.GroupOf(1), 0))) {
  }
  cluster.engines[1]->Leave({1});
  thread.join();
  EXPECT_TRUE(absl::IsCancelled(status) || absl::IsDeadlineExceeded(status)) << status;
}

TEST(WanStrangers, GarbageIsDroppedAndCountedAndChangesNothing) {
  Cluster cluster(2);
  std::thread joining([&] { cluster.JoinAll(); });
  const CounterRandom random(5);
  for (int i = 0; i < 20; ++i) {
    Stranger stranger(cluster.endpoints[0]);
    std::vector<uint8_t> bytes(200);
    for (size_t k = 0; k < bytes.size(); ++k) {
      bytes[k] = static_cast<uint8_t>(random.Bits(1000 * i + k));
    }
    stranger.Send(bytes);
    stranger.AwaitEnd();
  }
  joining.join();
  EXPECT_EQ(cluster.engines[0]->connections_refused(), 20);
  ExpectSums(&cluster, 1);
}

TEST(WanStrangers, OneWhoKnowsEverythingButTheKeyGetsNoFurtherThanTheGreeting) {
  Cluster cluster(2, 1);
  std::thread joining([&] {
    EXPECT_TRUE(absl::IsUnauthenticated(cluster.engines[0]->Join(cluster.GroupOf(0), 1)));
  });
  Hello hello;
  hello.view = 1;
  hello.from = 1;
  hello.to = 0;
  hello.incarnation = 1;
  uint8_t bytes[kHelloSize];
  EncodeHello(hello, bytes);
  Stranger stranger(cluster.endpoints[0]);
  stranger.Send(bytes);
  const auto answer = ParseAnswer(stranger.Receive(kAnswerSize));
  ASSERT_TRUE(answer.ok()) << answer.status();
  stranger.Send(stranger.Receive(kHeaderSize + kTagSize));  // its own confirmation, sent back
  stranger.AwaitEnd();
  EXPECT_EQ(cluster.engines[0]->connections_refused(), 1);
  joining.join();
}

TEST(WanStrangers, AMemberThatDoesNotExistIsRefused) {
  Cluster cluster(2, 1);
  cluster.JoinAll();
  Hello hello;
  hello.view = 1;
  int64_t refused = 0;
  for (const uint16_t from : {2, 500}) {
    hello.from = from;
    uint8_t bytes[kHelloSize];
    EncodeHello(hello, bytes);
    Stranger stranger(cluster.endpoints[0]);
    stranger.Send(bytes);
    stranger.AwaitEnd();
    EXPECT_EQ(cluster.engines[0]->connections_refused(), ++refused);
  }
  ExpectSums(&cluster, 1);
}

TEST(WanJoin, AWrongKeyIsRefusedWithoutEncryptionToo) {
  Cluster cluster(0);
  for (int member = 0; member < 2; ++member) {
    EngineOptions options;
    options.listen = {"127.0.0.1", 0};
    options.encrypt = false;
    auto engine = Engine::Create(options);
    ASSERT_TRUE(engine.ok());
    cluster.engines.push_back(*std::move(engine));
    cluster.endpoints.push_back(cluster.engines[member]->endpoint());
  }
  Group wrong = cluster.GroupOf(1);
  wrong.key[0] ^= 1;
  std::thread acceptor([&] { (void)cluster.engines[0]->Join(cluster.GroupOf(0), 0.5); });
  const Status status = cluster.engines[1]->Join(wrong, 10);
  EXPECT_TRUE(absl::IsUnauthenticated(status)) << status;
  acceptor.join();
  cluster.JoinAll();
  ExpectSums(&cluster, 1);
}

TEST(WanJoin, EncryptionIsWantedByBothOrThereIsNoConnection) {
  Cluster cluster(1);
  EngineOptions options;
  options.listen = {"127.0.0.1", 0};
  options.encrypt = false;
  auto engine = Engine::Create(options);
  ASSERT_TRUE(engine.ok());
  cluster.engines.push_back(*std::move(engine));
  cluster.endpoints.push_back(cluster.engines[1]->endpoint());
  std::thread acceptor(
      [&] { EXPECT_FALSE(cluster.engines[0]->Join(cluster.GroupOf(0), 0.5).ok()); });
  EXPECT_FALSE(cluster.engines[1]->Join(cluster.GroupOf(1), 0.5).ok());
  acceptor.join();
  EXPECT_GE(cluster.engines[0]->connections_refused(), 1);
}

// Of any length: of other versions no more is known than the head of their greetings.
TEST(WanStrangers, AnotherVersionIsAnsweredWithOurs) {
  Cluster cluster(1);
  for (const size_t size : {kGreetingHead, size_t{64}, kHelloSize, size_t{500}}) {
    Hello hello;
    hello.version = 77;
    std::vector<uint8_t> bytes(std::max(size, kHelloSize), 0xFF);
    EncodeHello(hello, bytes.data());
    bytes.resize(size);
    Stranger stranger(cluster.endpoints[0]);
    stranger.Send(bytes);
    const auto answer = ParseAnswer(stranger.Receive(kAnswerSize));
    ASSERT_TRUE(answer.ok()) << answer.status() << " to " << size << " bytes";
    EXPECT_EQ(answer->version, kWireVersion);
    stranger.AwaitEnd();
  }
}

TEST(WanJoin, AGatewayOfAnotherVersionIsNamedWithItsVersion) {
  for (const size_t size : {kGreetingHead, kAnswerSize, size_t{100}}) {
    Cluster cluster(1);
    const auto listener = ListenTcp({"127.0.0.1", 0});
    ASSERT_TRUE(listener.ok()) << listener.status();
    cluster.endpoints.push_back(*LocalEndpoint(*listener));
    std::thread other([&] {
      pollfd called = {listener->get(), POLLIN, 0};
      poll(&called, 1, -1);
      const auto fd = AcceptTcp(*listener);
      ASSERT_TRUE(fd.ok() && fd->valid());
      Answer answer;
      answer.version = 4711;
      std::vector<uint8_t> bytes(std::max(size, kAnswerSize), 0xFF);
      EncodeAnswer(answer, bytes.data());
      EXPECT_EQ(send(fd->get(), bytes.data(), size, MSG_NOSIGNAL), static_cast<ssize_t>(size));
      pollfd ended = {fd->get(), POLLRDHUP, 0};
      poll(&ended, 1, -1);
    });
    const Status status = cluster.engines[0]->Join(cluster.GroupOf(0), 30);
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(Message(status), HasSubstr("region 'oslo'"));
    EXPECT_THAT(Message(status), HasSubstr(absl::StrCat("speaks wire version 4711, this gateway "
                                                        "speaks ",
                                                        kWireVersion)));
    other.join();
  }
}

TEST(WanStrangers, ThoseWhoSayNothingAreFewAndTheOldestGoes) {
  Cluster cluster(2);
  std::vector<std::unique_ptr<Stranger>> silent;
  for (int i = 0; i < 300; ++i) silent.push_back(std::make_unique<Stranger>(cluster.endpoints[0]));
  silent[0]->AwaitEnd();
  silent[20]->AwaitEnd();
  cluster.JoinAll();
  ExpectSums(&cluster, 1);
}

}  // namespace
}  // namespace atl::wan
