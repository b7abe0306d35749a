// What `atoll env` says of a host's TCP settings.
#include "cli/host_advice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

namespace atl {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

HostTcp Usual() {
  HostTcp tcp;
  tcp.available = tcp.allowed = {"reno", "cubic", "bbr"};
  tcp.standard = "cubic";
  tcp.send_buffer_bytes = 4 << 20;
  tcp.receive_buffer_bytes = 6 << 20;
  return tcp;
}

TEST(HostAdvice, NothingIsToBeDoneWhereBbrMayBeAskedForAndBuffersAreUsual) {
  EXPECT_THAT(HostAdvice(Usual(), false), IsEmpty());
  EXPECT_EQ(ReachBytes(Usual()), 20'000'000);
}

TEST(HostAdvice, SaysHowToGetBbr) {
  HostTcp tcp = Usual();
  tcp.allowed = {"reno", "cubic"};
  EXPECT_THAT(HostAdvice(tcp, true), IsEmpty());  // root may choose any
  EXPECT_THAT(HostAdvice(tcp, false), ElementsAre(HasSubstr("tcp_allowed_congestion_control"),
                                                  HasSubstr("tcp_slow_start_after_idle=0")));
  tcp.available = {"reno", "cubic"};
  tcp.slow_start_after_idle = false;
  EXPECT_THAT(HostAdvice(tcp, true), ElementsAre(HasSubstr("modprobe tcp_bbr")));
}

TEST(HostAdvice, NamesTheBufferThatIsSmall) {
  HostTcp tcp = Usual();
  tcp.send_buffer_bytes = 1 << 20;
  EXPECT_THAT(HostAdvice(tcp, false), ElementsAre(HasSubstr("tcp_wmem")));
  EXPECT_EQ(ReachBytes(tcp), 5'000'000);
  tcp = Usual();
  tcp.receive_buffer_bytes = 3 << 20;
  EXPECT_THAT(HostAdvice(tcp, false), ElementsAre(HasSubstr("tcp_rmem")));
  EXPECT_EQ(ReachBytes(tcp), 10'000'000);
}

TEST(HostAdvice, ReadsSettingsAndIsSilentOnThoseThatAreNotThere) {
  char name[] = "/tmp/host-advice-test-XXXXXX";
  ASSERT_NE(mkdtemp(name), nullptr);
  const std::string directory = name;
  EXPECT_THAT(HostAdvice(ReadHostTcp(directory), false), IsEmpty());
  EXPECT_EQ(ReachBytes(ReadHostTcp(directory)), 0);
  std::ofstream(directory + "/tcp_available_congestion_control") << "reno cubic\n";
  std::ofstream(directory + "/tcp_slow_start_after_idle") << "0\n";
  std::ofstream(directory + "/tcp_wmem") << "4096\t16384\t4194304\n";
  std::ofstream(directory + "/tcp_rmem") << "nonsense\n";
  const HostTcp tcp = ReadHostTcp(directory);
  EXPECT_THAT(tcp.available, ElementsAre("reno", "cubic"));
  EXPECT_FALSE(tcp.slow_start_after_idle);
  EXPECT_EQ(tcp.send_buffer_bytes, 4 << 20);
  EXPECT_EQ(tcp.receive_buffer_bytes, 0);
  std::filesystem::remove_all(directory);
}

TEST(HostAdvice, ReadsThisHostsSettings) {
  if (!std::filesystem::exists("/proc/sys/net/ipv4/tcp_wmem")) GTEST_SKIP() << "no /proc/sys";
  const HostTcp tcp = ReadHostTcp();
  EXPECT_THAT(tcp.available, testing::Contains(tcp.standard));
  EXPECT_GT(ReachBytes(tcp), 0);
}

}  // namespace
}  // namespace atl
