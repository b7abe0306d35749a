// Labs that are really up: namespaces, TUN devices and the relay. Needs root and /dev/net/tun;
// skipped with the reason where they are not.
#include "tools/wanlab/lab.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/clock.h"
#include "base/env.h"
#include "base/exit_code.h"
#include "tools/wanlab/namespace.h"

namespace atl {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::IsEmpty;

namespace fs = std::filesystem;

constexpr double kPatienceSeconds = 30;

struct Outcome {
  int code = -1;
  std::string output;
};

class LabTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!IsRoot()) GTEST_SKIP() << "not root: network namespaces cannot be made";
    if (access("/dev/net/tun", R_OK | W_OK) != 0) {
      GTEST_SKIP() << "/dev/net/tun cannot be opened: no TUN device can be made";
    }
    char name[] = "/tmp/wanlab-test-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    directory_ = name;
    SetEnv("ATOLL_LAB_DIR", directory_ + "/labs", true);
    // Nobody may make one in this sandbox, root or not.
    const auto probe = RunningLab::Up(TwoRegions(0.001), {});
    if (!probe.ok() && ExitCodeOf(probe.status()) == ExitCode::kEnvironment) {
      GTEST_SKIP() << probe.status().message();
    }
    ASSERT_TRUE(probe.ok()) << probe.status();
  }
  void TearDown() override {
    if (directory_.empty()) return;
    for (const LabState& lab : AllLabs()) EXPECT_TRUE(RunningLab::TakeDown(lab).ok());
    fs::remove_all(directory_);
  }

  static Lab TwoRegions(double delay_seconds) {
    Lab lab;
    lab.regions = {{"johor", 0, 0}, {"oslo", 0, 0}};
    lab.links.resize(4);
    for (LabLink& link : lab.links) link.delay_seconds = delay_seconds;
    return lab;
  }
  std::string LabFile(double delay_ms) {
    const std::string path = absl::StrCat(directory_, "/lab.yaml");
    std::ofstream(path) << "regions: [johor, oslo]\nlinks: {default: {delay: " << delay_ms
                        << "ms}}\n";
    return path;
  }

  // Runs a program of the host and collects what it prints.
  Outcome Run(const std::vector<std::string>& words) {
    const std::string path = directory_ + "/output";
    const pid_t pid = StartTo(words, path);
    int status = 0;
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    std::ifstream file(path);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
            std::string(std::istreambuf_iterator<char>(file), {})};
  }
  Outcome Wanlab(std::vector<std::string> words) {
    words.insert(words.begin(), GetEnv("WANLAB_PROGRAM").value_or("wanlab"));
    return Run(words);
  }
  static pid_t StartTo(const std::vector<std::string>& words, const std::string& path) {
    const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    const pid_t pid = fork();
    if (pid == 0) {
      dup2(fd, 1);
      dup2(fd, 2);
      std::vector<char*> pointers;
      for (const std::string& word : words) pointers.push_back(const_cast<char*>(word.c_str()));
      pointers.push_back(nullptr);
      execvp(pointers[0], pointers.data());
      _exit(127);
    }
    close(fd);
    return pid;
  }

  template <typename Condition>
  static bool Eventually(const Condition& condition) {
    const double deadline = Clock::Real()->MonotonicSeconds() + kPatienceSeconds;
    while (!condition()) {
      if (Clock::Real()->MonotonicSeconds() > deadline) return false;
      poll(nullptr, 0, 5);
    }
    return true;
  }
  static std::vector<uint64_t> Networks(const RunningLab& lab) {
    std::vector<uint64_t> numbers;
    for (const RegionState& region : lab.regions()) numbers.push_back(region.network);
    return numbers;
  }

  std::string directory_;
};

// A program in region `region` that answers each datagram with itself, and one that counts the
// answers: `ping` is not everywhere.
constexpr char kEcho[] =
    "import socket\n"
    "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    "s.bind(('', 7000))\n"
    "while True:\n"
    "    data, sender = s.recvfrom(100)\n"
    "    s.sendto(data, sender)\n";
// Prints the shortest round trip in ms, or 'none'.
constexpr char kAsk[] =
    "import socket, sys, time\n"
    "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    "s.settimeout(float(sys.argv[2]))\n"
    "best = None\n"
    "for number in range(20):\n"
    "    begin = time.monotonic()\n"
    "    s.sendto(bytes([number]), (sys.argv[1], 7000))\n"
    "    try:\n"
    "        while s.recv(100) != bytes([number]): pass\n"
    "        trip = 1000 * (time.monotonic() - begin)\n"
    "        best = trip if best is None else min(best, trip)\n"
    "    except OSError: pass\n"
    "    if best is not None and number >= 4: break\n"
    "print('none' if best is None else best)\n";

TEST_F(LabTest, ARegionIsReachedAtItsAddressAfterTwiceTheDelay) {
  auto lab = RunningLab::Up(TwoRegions(0.02), {});
  ASSERT_TRUE(lab.ok()) << lab.status();
  EXPECT_NE(lab->Address(0), lab->Address(1));
  const auto echo = lab->Spawn(1, {.words = {"python3", "-c", kEcho}});
  ASSERT_TRUE(echo.ok()) << echo.status();
  const Outcome near = Wanlab({"exec", "--name=" + lab->name(), "johor", "--", "python3", "-c",
                               kAsk, lab->Address(1), "1"});
  EXPECT_EQ(near.code, 0) << near.output;
  EXPECT_GE(std::atof(near.output.c_str()), 39) << near.output;  // above: a busy machine
  // Loopback is the region's own.
  const Outcome self = Wanlab(
      {"exec", "--name=" + lab->name(), "johor", "--", "python3", "-c", kAsk, "127.0.0.1", "0.05"});
  EXPECT_EQ(self.output, "none\n");
  // The host is in no region.
  const Outcome host = Run({"python3", "-c", kAsk, lab->Address(1), "0.05"});
  EXPECT_THAT(host.output, testing::AnyOf(HasSubstr("none"), HasSubstr("unreachable")));
}

TEST_F(LabTest, ACutStopsEverythingUntilItIsHealed) {
  auto lab = RunningLab::Up(TwoRegions(0.001), {});
  ASSERT_TRUE(lab.ok()) << lab.status();
  ASSERT_TRUE(lab->Spawn(1, {.words = {"python3", "-c", kEcho}}).ok());
  const auto ask = [&](const char* patience) {
    return Wanlab({"exec", "--name=" + lab->name(), "johor", "--", "python3", "-c", kAsk,
                   lab->Address(1), patience})
        .output;
  };
  EXPECT_NE(ask("1"), "none\n");
  ASSERT_TRUE(lab->Cut("johor", "oslo").ok());
  EXPECT_EQ(ask("0.02"), "none\n");
  const auto stats = lab->Stats();
  ASSERT_TRUE(stats.ok()) << stats.status();
  EXPECT_GE((*stats)["links"][0]["cut"], 20);
  EXPECT_TRUE((*stats)["links"][0]["is_cut"]);
  ASSERT_TRUE(lab->Heal("johor", "oslo").ok());
  EXPECT_NE(ask("1"), "none\n");
}

TEST_F(LabTest, ABulkTransferArrivesWholeAcrossCutsAndLosses) {
  Lab description = TwoRegions(0.005);
  description.regions[0].up_bits_per_second = 200'000'000;
  for (LabLink& link : description.links) link.loss = 0.001;
  auto lab = RunningLab::Up(description, {});
  ASSERT_TRUE(lab.ok()) << lab.status();
  // 20 MB whose every byte is known: super-packets are cut and must come together again.
  const std::string receive =
      "import socket, hashlib\n"
      "l = socket.create_server(('', 7001))\n"
      "open('" +
      directory_ +
      "/listening', 'w')\n"
      "c, _ = l.accept()\n"
      "h = hashlib.sha256()\n"
      "while (b := c.recv(1 << 20)): h.update(b)\n"
      "open('" +
      directory_ + "/sum', 'w').write(h.hexdigest())\n";
  const std::string send =
      "import socket, hashlib, random, sys\n"
      "data = random.Random(3).randbytes(20_000_000)\n"
      "s = socket.create_connection((sys.argv[1], 7001))\n"
      "s.sendall(data); s.close()\n"
      "print(hashlib.sha256(data).hexdigest(), end='')\n";
  const auto receiver = lab->Spawn(1, {.words = {"python3", "-c", receive}});
  ASSERT_TRUE(receiver.ok());
  ASSERT_TRUE(Eventually([&] { return fs::exists(directory_ + "/listening"); }));
  const Outcome sent = Wanlab(
      {"exec", "--name=" + lab->name(), "johor", "--", "python3", "-c", send, lab->Address(1)});
  int status = -1;
  ASSERT_EQ(waitpid(*receiver, &status, 0), *receiver);
  EXPECT_EQ(status, 0);
  std::ifstream file(directory_ + "/sum");
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(file), {}), sent.output);
  const auto stats = lab->Stats();
  EXPECT_GT((*stats)["links"][0]["lost"], 0);
  EXPECT_GE((*stats)["links"][0]["bytes"], 20'000'000);
}

TEST_F(LabTest, TwoLabsLiveSideBySide) {
  auto first = RunningLab::Up(TwoRegions(0.001), {"first", true});
  auto second = RunningLab::Up(TwoRegions(0.001), {"second", true});
  ASSERT_TRUE(first.ok() && second.ok()) << first.status() << second.status();
  EXPECT_NE(first->Address(0), second->Address(0));
  ASSERT_TRUE(second->Spawn(1, {.words = {"python3", "-c", kEcho}}).ok());
  // Neither reaches the other, even at the other's address.
  const auto ask = [&](const std::string& lab, const char* patience) {
    return Wanlab({"exec", "--name=" + lab, "johor", "--", "python3", "-c", kAsk,
                   second->Address(1), patience})
        .output;
  };
  EXPECT_NE(ask("second", "1"), "none\n");
  EXPECT_THAT(ask("first", "0.02"), HasSubstr("unreachable"));
  const auto again = RunningLab::Up(TwoRegions(0.001), {"first", true});
  EXPECT_EQ(ExitCodeOf(again.status()), ExitCode::kUsage);
  EXPECT_THAT(std::string(again.status().message()), HasSubstr("is up already"));
  ASSERT_TRUE(first->Down().ok());
  EXPECT_NE(ask("second", "1"), "none\n");
}

TEST_F(LabTest, DownLeavesNothing) {
  auto lab = RunningLab::Up(TwoRegions(0.001), {"short", true});
  ASSERT_TRUE(lab.ok()) << lab.status();
  const std::vector<uint64_t> networks = Networks(*lab);
  const pid_t relay =
      (json::parse(std::ifstream(directory_ + "/labs/short/state.json")).at("relay").get<pid_t>());
  const auto sleeper = lab->Spawn(0, {.words = {"sleep", "600"}});
  ASSERT_TRUE(sleeper.ok());
  EXPECT_THAT(ProcessesIn(networks), testing::ElementsAre(*sleeper));
  ASSERT_TRUE(lab->Down().ok());
  int status = 0;
  EXPECT_EQ(waitpid(*sleeper, &status, 0), *sleeper);
  EXPECT_EQ(WTERMSIG(status), SIGKILL);
  EXPECT_THAT(ProcessesIn(networks), IsEmpty());
  EXPECT_EQ(StartTime(relay), 0u);
  EXPECT_FALSE(fs::exists(directory_ + "/labs/short"));
  EXPECT_TRUE(lab->Down().ok());
}

TEST_F(LabTest, ALabEndsWithItsOwner) {
  int channel[2];
  ASSERT_EQ(pipe(channel), 0);
  const pid_t owner = fork();
  if (owner == 0) {
    auto lab = RunningLab::Up(TwoRegions(0.001), {"orphan", true});
    const auto sleeper = lab.ok()
                             ? lab->Spawn(0, {.words = {"sleep", "600"}, .dies_with_parent = false})
                             : StatusOr<pid_t>(-1);
    const pid_t pid = sleeper.value_or(-1);
    if (write(channel[1], &pid, sizeof pid) != sizeof pid) _exit(1);
    kill(getpid(), SIGKILL);
  }
  pid_t sleeper = -1;
  ASSERT_EQ(read(channel[0], &sleeper, sizeof sleeper), static_cast<ssize_t>(sizeof sleeper));
  ASSERT_GT(sleeper, 0);
  waitpid(owner, nullptr, 0);
  EXPECT_TRUE(Eventually([&] { return !fs::exists(directory_ + "/labs/orphan"); }));
  EXPECT_EQ(StartTime(sleeper), 0u);
  close(channel[0]);
  close(channel[1]);
}

TEST_F(LabTest, WhatACrashedRelayLeavesIsRemovedByTheNextUp) {
  const Outcome up = Wanlab({"up", LabFile(1), "--name=crashed"});
  ASSERT_EQ(up.code, 0) << up.output;
  auto lab = RunningLab::Attach("crashed");
  ASSERT_TRUE(lab.ok()) << lab.status();
  const auto sleeper = lab->Spawn(0, {.words = {"sleep", "600"}, .dies_with_parent = false});
  ASSERT_TRUE(sleeper.ok());
  const pid_t relay = (json::parse(std::ifstream(directory_ + "/labs/crashed/state.json"))
                           .at("relay")
                           .get<pid_t>());
  kill(relay, SIGKILL);
  EXPECT_TRUE(Eventually([&] { return StartTime(relay) == 0; }));
  EXPECT_NE(StartTime(*sleeper), 0u);
  const Outcome refused = Wanlab({"exec", "--name=crashed", "johor", "--", "true"});
  EXPECT_EQ(refused.code, 4);
  EXPECT_THAT(refused.output, HasSubstr("has died"));
  EXPECT_EQ(Wanlab({"up", LabFile(1), "--name=crashed"}).code, 0);
  ASSERT_TRUE(Eventually([&] { return StartTime(*sleeper) == 0; }));
  waitpid(*sleeper, nullptr, 0);
  EXPECT_EQ(Wanlab({"down", "--name=crashed"}).code, 0);
  EXPECT_FALSE(fs::exists(directory_ + "/labs/crashed"));
}

TEST_F(LabTest, ExecPassesTheExitCodeAndKeepsTheHostsFiles) {
  ASSERT_EQ(Wanlab({"up", LabFile(1)}).code, 0);
  EXPECT_EQ(Wanlab({"exec", "oslo", "--", "sh", "-c", "exit 37"}).code, 37);
  EXPECT_EQ(Wanlab({"exec", "oslo", "--", "sh", "-c", "echo $ATOLL_LAB $ATOLL_LAB_REGION"}).output,
            "lab oslo\n");
  EXPECT_EQ(Wanlab({"exec", "oslo", "--", "sh", "-c", "kill -TERM $$"}).code, 128 + SIGTERM);
  // The same mounts and cgroups; only the network is another.
  EXPECT_EQ(Wanlab({"exec", "oslo", "--", "readlink", "/proc/self/ns/mnt"}).output,
            Run({"readlink", "/proc/self/ns/mnt"}).output);
  EXPECT_EQ(Wanlab({"exec", "oslo", "--", "cat", "/proc/self/cgroup"}).output,
            Run({"cat", "/proc/self/cgroup"}).output);
  EXPECT_NE(Wanlab({"exec", "oslo", "--", "readlink", "/proc/self/ns/net"}).output,
            Run({"readlink", "/proc/self/ns/net"}).output);
  EXPECT_EQ(Wanlab({"exec", "olso", "--", "true"}).code, 2);
  EXPECT_THAT(Wanlab({"exec", "olso", "--", "true"}).output, HasSubstr("did you mean 'oslo'?"));
  const json addresses = json::parse(Wanlab({"addresses", "--json"}).output);
  EXPECT_EQ(addresses["regions"][1]["name"], "oslo");
  EXPECT_THAT(Wanlab({"exec", "oslo", "--", "cat", "/proc/net/fib_trie"}).output,
              HasSubstr(addresses["regions"][1]["address"].get<std::string>()));
  EXPECT_EQ(Wanlab({"set", "johor:oslo", "rate=10mbit"}).code, 0);
  EXPECT_EQ(json::parse(Wanlab({"stats", "--json"}).output)["links"][1]["rate_bits_per_second"],
            10'000'000);
  EXPECT_THAT(Wanlab({"stats"}).output, HasSubstr("10.0 Mbit/s"));
  EXPECT_EQ(Wanlab({"set", "johor:oslo", "rate=10"}).code, 2);
  EXPECT_EQ(Wanlab({"down"}).code, 0);
  EXPECT_EQ(Wanlab({"down"}).code, 2);
  EXPECT_THAT(json::parse(Wanlab({"list", "--json"}).output)["labs"], IsEmpty());
}

TEST_F(LabTest, RunTakesTheLabDownHoweverItEnds) {
  const std::string file = LabFile(1);
  const std::string program = GetEnv("WANLAB_PROGRAM").value_or("wanlab");
  const Outcome good = Wanlab(
      {"run", file, "--", "sh", "-c", absl::StrCat(program, " exec oslo -- sh -c 'exit 5'")});
  EXPECT_EQ(good.code, 5) << good.output;
  const Outcome missing = Wanlab({"run", file, "--", "/nowhere/program"});
  EXPECT_NE(missing.code, 0);
  EXPECT_THAT(missing.output, HasSubstr("/nowhere/program"));
  for (const int signal : {SIGTERM, SIGINT, SIGKILL}) {
    const std::string output = directory_ + "/run-output";
    const pid_t pid = StartTo({program, "run", file, "--", program, "exec", "johor", "--", "sh",
                               "-c", "echo begun; exec sleep 600"},
                              output);
    ASSERT_TRUE(Eventually([&] { return fs::exists(output) && fs::file_size(output) >= 6; }));
    kill(pid, signal);
    int status = 0;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_EQ(signal == SIGKILL ? WTERMSIG(status) + 128 : WEXITSTATUS(status), 128 + signal);
    EXPECT_TRUE(Eventually([&] {
      return json::parse(Wanlab({"list", "--json"}).output)["labs"].empty();
    }));
  }
}

TEST_F(LabTest, KernelSettingsAreTheRegionsOwn) {
  Lab description = TwoRegions(0.001);
  description.sysctl = {{"net.ipv4.tcp_wmem", "4096 16384 5000000"}};
  auto lab = RunningLab::Up(description, {});
  ASSERT_TRUE(lab.ok()) << lab.status();
  const std::string words = "cat /proc/sys/net/ipv4/tcp_wmem";
  EXPECT_THAT(Wanlab({"exec", "--name=" + lab->name(), "oslo", "--", "sh", "-c", words}).output,
              HasSubstr("5000000"));
  EXPECT_THAT(Run({"sh", "-c", words}).output, testing::Not(HasSubstr("5000000")));
  description.sysctl = {{"net.ipv4.no_such_thing", "1"}};
  const auto refused = RunningLab::Up(description, {});
  EXPECT_EQ(ExitCodeOf(refused.status()), ExitCode::kEnvironment);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("net.ipv4.no_such_thing"));
}

}  // namespace
}  // namespace atl
