// The all-reduce between regions over links that are cut and with regions that fall silent, each
// region a process of its own (wan_peer.cc) in a lab. Needs root and /dev/net/tun; skipped with the
// reason where they are not. How quick an engine is to name who is silent is printed, not judged.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <deque>
#include <filesystem>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/clock.h"
#include "base/env.h"
#include "base/exit_code.h"
#include "tools/wanlab/lab.h"

namespace atl {
namespace {

namespace fs = std::filesystem;

constexpr double kPatienceSeconds = 90;  // then it hangs
constexpr double kEnginesPatienceSeconds = 30;
constexpr int64_t kElements = 8 << 20;  // seconds of a line of 100 Mbit/s

double Now() { return Clock::Real()->MonotonicSeconds(); }

double NumberIn(const std::string& word) {
  double number = -1;
  EXPECT_TRUE(absl::SimpleAtod(word, &number)) << word;
  return number;
}

struct Event {
  std::string name;
  double time = 0;
  std::string words;
  std::vector<std::string> Words() const { return absl::StrSplit(words, ' '); }
};

// The test's end of a wan_peer.
class Gateway {
 public:
  // Regions in `uncallable` only call out.
  Gateway(const RunningLab& lab, int region, const std::string& schedule,
          const std::set<int>& uncallable) {
    int in[2], out[2];
    EXPECT_EQ(pipe2(in, O_CLOEXEC), 0);
    EXPECT_EQ(pipe2(out, O_CLOEXEC), 0);
    const Fd peers_in(in[0]), peers_out(out[1]);
    in_ = Fd(in[1]);
    out_ = Fd(out[0]);
    std::vector<std::string> addresses;
    for (int i = 0; i < lab.size(); ++i) {
      addresses.push_back(absl::StrCat(lab.regions()[i].name, "=",
                                       uncallable.count(i) > 0 ? "none" : lab.Address(i)));
    }
    RegionProcess process;
    process.words = {GetEnv("WAN_PEER_PROGRAM").value_or("wan_peer"), absl::StrCat(region),
                     absl::StrJoin(addresses, ","), schedule};
    process.stdin_fd = peers_in.get();
    process.stdout_fd = peers_out.get();
    const auto pid = lab.Spawn(region, process);
    EXPECT_TRUE(pid.ok()) << pid.status();
    pid_ = pid.ok() ? *pid : -1;
  }
  ~Gateway() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }

  pid_t pid() const { return pid_; }
  void Say(const std::string& line) {
    const std::string bytes = line + "\n";
    EXPECT_EQ(write(in_.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  }
  // The next event of this name; what comes before it stays for others to await.
  Event Await(const std::string& name) {
    const double deadline = Now() + kPatienceSeconds;
    while (true) {
      for (auto event = events_.begin(); event != events_.end(); ++event) {
        if (event->name != name) continue;
        Event found = *event;
        events_.erase(event);
        return found;
      }
      if (!ReadUntil(deadline)) break;
    }
    ADD_FAILURE() << "no '" << name << "' from process " << pid_ << "; it said: " << Rest();
    return {name, -1, ""};
  }
  bool Has(const std::string& name) {
    ReadUntil(Now());
    for (const Event& event : events_) {
      if (event.name == name) return true;
    }
    return false;
  }

 private:
  // False: nothing came.
  bool ReadUntil(double deadline) {
    pollfd ready = {out_.get(), POLLIN, 0};
    const int timeout_ms = static_cast<int>(std::max(0.0, deadline - Now()) * 1e3);
    if (poll(&ready, 1, timeout_ms) <= 0) return false;
    char bytes[4096];
    const ssize_t got = read(out_.get(), bytes, sizeof bytes);
    if (got <= 0) return false;
    text_.append(bytes, static_cast<size_t>(got));
    size_t end;
    while ((end = text_.find('\n')) != std::string::npos) {
      const std::vector<std::string> words =
          absl::StrSplit(text_.substr(0, end), absl::MaxSplits(' ', 2));
      events_.push_back({words.at(0), NumberIn(words.at(1)), words.at(2)});
      text_.erase(0, end + 1);
    }
    return true;
  }
  std::string Rest() const {
    return absl::StrJoin(events_, "; ", [](std::string* out, const Event& event) {
      absl::StrAppend(out, event.name, " ", event.words);
    });
  }

  pid_t pid_ = -1;
  Fd in_, out_;
  std::string text_;
  std::deque<Event> events_;
};

class WanLabTest : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "not root: network namespaces cannot be made";
    if (access("/dev/net/tun", R_OK | W_OK) != 0) {
      GTEST_SKIP() << "/dev/net/tun cannot be opened: no TUN device can be made";
    }
    char name[] = "/tmp/wan-lab-test-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    directory_ = name;
    SetEnv("ATOLL_LAB_DIR", directory_ + "/labs", true);
  }
  void TearDown() override {
    gateways_.clear();
    lab_.reset();
    if (!directory_.empty()) fs::remove_all(directory_);
  }

  // Skipped where nobody may make a lab, root or not.
  void Up(const Lab& description, const std::string& schedule = "auto",
          const std::set<int>& uncallable = {}) {
    auto lab = RunningLab::Up(description, {});
    if (!lab.ok() && ExitCodeOf(lab.status()) == ExitCode::kEnvironment) {
      GTEST_SKIP() << lab.status().message();
    }
    ASSERT_TRUE(lab.ok()) << lab.status();
    lab_.emplace(*std::move(lab));
    for (int region = 0; region < lab_->size(); ++region) {
      gateways_.push_back(std::make_unique<Gateway>(*lab_, region, schedule, uncallable));
    }
    for (const auto& gateway : gateways_) gateway->Await("ready");
  }
  static Lab Regions(const std::vector<std::string>& names) {
    Lab lab;
    for (const std::string& name : names) lab.regions.push_back({name, 100'000'000, 100'000'000});
    lab.links.resize(names.size() * names.size());
    for (LabLink& link : lab.links) link.delay_seconds = 0.02;
    return lab;
  }
  static Lab ThreeRegions() { return Regions({"johor", "oslo", "batam"}); }

  Gateway& gateway(int region) { return *gateways_[region]; }
  void SayTo(const std::vector<int>& regions, const std::string& line) {
    for (const int region : regions) gateway(region).Say(line);
  }
  void AwaitOf(const std::vector<int>& regions, const std::string& event) {
    for (const int region : regions) gateway(region).Await(event);
  }
  void Join(const std::vector<int>& regions, int view) {
    SayTo(regions, absl::StrCat("join ", view, " ", absl::StrJoin(regions, ",")));
    AwaitOf(regions, "joined");
  }
  // All end with the same bits, and with the right ones.
  std::vector<Event> AwaitSums(const std::vector<int>& regions) {
    std::vector<Event> done;
    std::set<std::string> digests;
    for (const int region : regions) {
      done.push_back(gateway(region).Await("done"));
      if (done.back().Words().size() == 3) digests.insert(done.back().Words()[2]);
    }
    EXPECT_EQ(digests.size(), 1u);
    return done;
  }

  void SumsOfSeveralSizes(const std::vector<int>& regions, int view) {
    int id = 0;
    for (const char* codec : {"fp32", "int8"}) {
      for (const int elements : {1, 5, 1283, 1000003}) {
        SCOPED_TRACE(absl::StrCat(elements, " elements, ", codec));
        SayTo(regions, absl::StrCat("reduce ", view, " ", ++id, " ", elements, " ", codec));
        AwaitSums(regions);
      }
    }
  }

  // Region 2 falls silent in mid-operation, by `silence`: the others hear of it from their engines,
  // give up, and go on without it.
  template <typename Silence>
  void NamedGivenUpAndDoneWithout(const std::string& how, const Silence& silence) {
    Join({0, 1, 2}, 1);
    SayTo({0, 1, 2}, absl::StrCat("reduce 1 1 ", kElements, " fp32"));
    AwaitOf({0, 1, 2}, "moving");
    const double began = Now();
    silence();
    for (const int region : {0, 1}) {
      const Event silent = gateway(region).Await("silent");
      ASSERT_EQ(silent.Words().size(), 2u);
      EXPECT_EQ(silent.Words()[0], "batam");
      const double heard = NumberIn(silent.Words()[1]);
      EXPECT_GT(heard, 0);
      EXPECT_LT(heard, kEnginesPatienceSeconds);
      EXPECT_FALSE(gateway(region).Has("failed")) << "while it may still be saved";
      std::printf("%s: region %d names batam %.2f s after, silent for %.2f s by its clock\n",
                  how.c_str(), region, silent.time - began, heard);
      RecordProperty(absl::StrCat("named_after_seconds_", region),
                     absl::StrCat(silent.time - began));
    }
    SayTo({0, 1}, "cancel");
    AwaitOf({0, 1}, "cancelled");
    AwaitOf({0, 1}, "failed");
    SayTo({0, 1}, "leave 1");
    AwaitOf({0, 1}, "left");
    Join({0, 1}, 2);
    SayTo({0, 1}, "reduce 2 1 300007 fp32");
    AwaitSums({0, 1});
  }

  std::string directory_;
  std::optional<RunningLab> lab_;
  std::vector<std::unique_ptr<Gateway>> gateways_;
};

TEST_F(WanLabTest, ACutOfFiveSecondsInMidCollectiveIsSurvivedToTheBit) {
  constexpr double kCutSeconds = 5;
  Up(ThreeRegions());
  if (IsSkipped()) return;
  Join({0, 1, 2}, 1);
  SayTo({0, 1, 2}, absl::StrCat("reduce 1 1 ", kElements, " fp32"));
  AwaitOf({0, 1, 2}, "moving");
  ASSERT_TRUE(lab_->Cut("johor", "oslo").ok());
  const double healing = Now() + kCutSeconds;
  EXPECT_EQ(gateway(0).Await("silent").Words()[0], "oslo");
  EXPECT_EQ(gateway(1).Await("silent").Words()[0], "johor");
  while (Now() < healing) poll(nullptr, 0, 10);  // what is tested: so long a cut
  ASSERT_TRUE(lab_->Heal("johor", "oslo").ok());
  const double healed = Now();
  for (const Event& done : AwaitSums({0, 1, 2})) {
    EXPECT_GT(done.time, healed);  // it was in the middle of it
    std::printf("done %.2f s after the cut was healed\n", done.time - healed);
  }
  // Both are heard again, and the next one goes as if nothing had been.
  EXPECT_EQ(gateway(0).Await("silent").words, "oslo 0");
  EXPECT_EQ(gateway(1).Await("silent").words, "johor 0");
  SayTo({0, 1, 2}, "reduce 1 2 300007 int8");
  AwaitSums({0, 1, 2});
}

TEST_F(WanLabTest, AStoppedGatewayIsNamedAndTheOthersGoOnWithoutIt) {
  Up(ThreeRegions());
  if (IsSkipped()) return;
  NamedGivenUpAndDoneWithout("SIGSTOP", [this] { kill(gateway(2).pid(), SIGSTOP); });
  // It runs again: its operation ends, and not with a sum.
  kill(gateway(2).pid(), SIGCONT);
  gateway(2).Await("failed");
  EXPECT_FALSE(gateway(2).Has("done"));
}

TEST_F(WanLabTest, AGatewayInABlackHoleIsNamedAndTheOthersGoOnWithoutIt) {
  Up(ThreeRegions());
  if (IsSkipped()) return;
  NamedGivenUpAndDoneWithout("black hole", [this] {
    ASSERT_TRUE(lab_->Cut("batam", "johor").ok());
    ASSERT_TRUE(lab_->Cut("batam", "oslo").ok());
  });
  EXPECT_THAT(gateway(2).Await("silent").Words()[0], testing::AnyOf("johor", "oslo"));
  gateway(2).Say("cancel");
  gateway(2).Await("failed");
  EXPECT_FALSE(gateway(2).Has("done"));
}

TEST_F(WanLabTest, TwoRegionsThatOnlyCallOutAreRelayedByTheThirdEvenThroughACut) {
  Up(ThreeRegions(), "auto", {0, 2});
  if (IsSkipped()) return;
  Join({0, 1, 2}, 1);
  SumsOfSeveralSizes({0, 1, 2}, 1);
  // They have no use for the link between them, and hear of each other from the third.
  ASSERT_TRUE(lab_->Cut("johor", "batam").ok());
  SayTo({0, 1, 2}, absl::StrCat("reduce 1 100 ", kElements, " fp32"));
  AwaitOf({0, 1, 2}, "moving");
  ASSERT_TRUE(lab_->Cut("johor", "oslo").ok());
  EXPECT_EQ(gateway(1).Await("silent").Words()[0], "johor");
  EXPECT_EQ(gateway(2).Await("silent").Words()[0], "johor");
  ASSERT_TRUE(lab_->Heal("johor", "oslo").ok());
  AwaitSums({0, 1, 2});
  EXPECT_EQ(gateway(2).Await("silent").words, "johor 0");
  SayTo({0, 1, 2}, "reduce 1 101 300007 int8");
  AwaitSums({0, 1, 2});
}

TEST_F(WanLabTest, ThreeOfFourRegionsThatOnlyCallOutAreRelayedWhereverTheFourthStands) {
  Up(Regions({"johor", "oslo", "batam", "turku"}), "auto", {0, 1, 3});
  if (IsSkipped()) return;
  Join({0, 1, 2, 3}, 1);
  SumsOfSeveralSizes({0, 1, 2, 3}, 1);
  Join({2, 3, 1}, 2);
  SumsOfSeveralSizes({2, 3, 1}, 2);
}

TEST_F(WanLabTest, RegionsThatOnlyCallOutFailAtOnceWhereNobodyCanStandBetweenThem) {
  Up(ThreeRegions(), "auto", {0, 2});
  if (IsSkipped()) return;
  SayTo({0, 2}, "join 1 0,2");
  for (const int region : {0, 2}) {
    const std::string words = gateway(region).Await("failed").words;
    EXPECT_THAT(words, testing::HasSubstr("johor, batam"));
    EXPECT_THAT(words, testing::HasSubstr("give one of them an address"));
  }
}

// Two pairs of regions with a narrow line between any two that are not neighbours: the packing that
// fits has routes through others.
TEST_F(WanLabTest, DeepTreesGiveAllRegionsTheSameBitsWithEveryCodec) {
  Lab lab;
  for (const char* name : {"johor", "oslo", "batam", "turku", "lagos"}) {
    lab.regions.push_back({name, 0, 0});
  }
  const int n = lab.size();
  lab.links.resize(n * n);
  for (int from = 0; from < n; ++from) {
    for (int to = 0; to < n; ++to) {
      const bool neighbours = (from + 1) % n == to || (to + 1) % n == from;
      lab.link(from, to).rate_bits_per_second = neighbours ? 100'000'000 : 5'000'000;
      lab.link(from, to).delay_seconds = 0.005;
    }
  }
  Up(lab, "trees");
  if (IsSkipped()) return;
  const std::vector<int> all = {0, 1, 2, 3, 4};
  Join(all, 1);
  int id = 0;
  int deep = 0;  // plans move with what is learned from operations as short as these
  for (const char* codec : {"fp32", "bf16", "fp16", "int8", "int4"}) {
    gateway(0).Say("plan 1");
    deep += gateway(0).Await("plan").words == "trees deep" ? 1 : 0;
    for (const int elements : {1, 4, 5, 1283, 300007}) {
      SCOPED_TRACE(absl::StrCat(elements, " elements, ", codec));
      SayTo(all, absl::StrCat("reduce 1 ", ++id, " ", elements, " ", codec));
      for (const Event& done : AwaitSums(all)) EXPECT_EQ(done.Words()[0], "trees");
    }
  }
  EXPECT_GT(deep, 0);
}

}  // namespace
}  // namespace atl
