// Addresses, listening, connecting, and their errors.
#include "base/socket.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/random.h"

namespace atl {
namespace {

using ::testing::HasSubstr;

// Waits until the descriptor is readable or writable; the test's time-out is the limit.
void Await(const Fd& fd, short events) {
  pollfd entry = {fd.get(), events, 0};
  ASSERT_EQ(poll(&entry, 1, -1), 1);
}

TEST(Endpoint, IsReadAndWritten) {
  EXPECT_EQ(*Endpoint::Parse("host.example:80"), (Endpoint{"host.example", 80}));
  EXPECT_EQ(*Endpoint::Parse("[::1]:65535"), (Endpoint{"::1", 65535}));
  EXPECT_EQ(*Endpoint::Parse(":7000"), (Endpoint{"", 7000}));
  EXPECT_EQ((Endpoint{"::1", 5}).ToString(), "[::1]:5");
  EXPECT_EQ((Endpoint{"10.0.0.1", 5}).ToString(), "10.0.0.1:5");
}

TEST(Endpoint, ThatIsNoneIsRefusedByName) {
  for (const char* text :
       {"", "host", "host:", "host:x", "host:65536", "host:-1", "::1:5", "a:b:c"}) {
    const auto endpoint = Endpoint::Parse(text);
    ASSERT_FALSE(endpoint.ok()) << text;
    EXPECT_THAT(std::string(endpoint.status().message()), HasSubstr(absl::StrCat("'", text, "'")));
  }
}

TEST(Endpoint, SurvivesAnyBytes) {
  const CounterRandom random(2);
  constexpr char kAlphabet[] = "a[]:0123456789.\x00\xff";
  for (uint64_t i = 0; i < 20000; ++i) {
    std::string text;
    for (uint64_t k = 0; k < i % 16; ++k) {
      text += kAlphabet[random.Bits(i * 16 + k) % (sizeof kAlphabet - 1)];
    }
    const auto endpoint = Endpoint::Parse(text);
    if (!endpoint.ok()) continue;
    EXPECT_EQ(*Endpoint::Parse(endpoint->ToString()), *endpoint) << text;
  }
}

TEST(Sockets, CarryBytesBothWays) {
  for (const char* host : {"127.0.0.1", "localhost"}) {
    const auto listener = ListenTcp({host, 0});
    ASSERT_TRUE(listener.ok()) << listener.status();
    const Endpoint address = *LocalEndpoint(*listener);
    EXPECT_NE(address.port, 0);
    EXPECT_FALSE(AcceptTcp(*listener)->valid()) << "nobody waits yet";

    const Fd client = *StartConnectTcp(address);
    Await(client, POLLOUT);
    ASSERT_TRUE(ConnectResult(client, address).ok());
    Await(*listener, POLLIN);
    const Fd server = *AcceptTcp(*listener);
    ASSERT_TRUE(server.valid());

    ASSERT_EQ(send(client.get(), "ping", 4, 0), 4);
    Await(server, POLLIN);
    char bytes[8];
    ASSERT_EQ(recv(server.get(), bytes, sizeof bytes, 0), 4);
    ASSERT_EQ(send(server.get(), "pong", 4, 0), 4);
    Await(client, POLLIN);
    ASSERT_EQ(recv(client.get(), bytes, sizeof bytes, 0), 4);
    EXPECT_EQ(std::string(bytes, 4), "pong");

    for (const Fd* fd : {&client, &server}) {
      int no_delay = 0;
      socklen_t size = sizeof no_delay;
      ASSERT_EQ(getsockopt(fd->get(), IPPROTO_TCP, TCP_NODELAY, &no_delay, &size), 0);
      EXPECT_NE(no_delay, 0);
    }
  }
}

TEST(Sockets, OnAPortInUseFailWithTheExitCodeForTheEnvironmentAndNameIt) {
  const Fd first = *ListenTcp({"127.0.0.1", 0});
  const Endpoint taken = *LocalEndpoint(first);
  const auto second = ListenTcp(taken);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(static_cast<int>(ExitCodeOf(second.status())), 4);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(taken.ToString()));
}

TEST(Sockets, SayWhomTheyCouldNotReach) {
  Endpoint nobody;
  {
    const Fd listener = *ListenTcp({"127.0.0.1", 0});
    nobody = *LocalEndpoint(listener);
  }
  Status status;
  const auto client = StartConnectTcp(nobody);
  if (client.ok()) {
    Await(*client, POLLOUT);
    status = ConnectResult(*client, nobody);
  } else {
    status = client.status();
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr(nobody.ToString()));
}

TEST(Sockets, SayWhichNameTheyCouldNotResolve) {
  const auto client = StartConnectTcp({"no such host", 1});
  ASSERT_FALSE(client.ok());
  EXPECT_THAT(std::string(client.status().message()), HasSubstr("'no such host'"));
}

TEST(Sockets, KnowTheLocalAddressTowardsAPeer) {
  EXPECT_EQ(*LocalHostTowards({"127.0.0.1", 9}), "127.0.0.1");
}

}  // namespace
}  // namespace atl
