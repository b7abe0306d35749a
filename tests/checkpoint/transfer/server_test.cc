// A server beside what changes under it: repairs, prunes, rates, and descriptors that run out.
#include "checkpoint/transfer/server.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/file.h"
#include "checkpoint/names.h"
#include "checkpoint/retention.h"
#include "checkpoint/transfer/open_files.h"
#include "checkpoint/transfer/rate_file.h"
#include "tests/checkpoint/transfer/transfer_test_util.h"

namespace atl::checkpoint {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;

constexpr char kMomentum[] = "outer/momentum-00001-of-00002.safetensors";
constexpr double kPatienceSeconds = 90;

class TransferServer : public testing::Test {
 protected:
  std::string In(const std::string& name) const { return root_.path() + "/" + name; }
  void WriteText(const std::string& path, const std::string& text) {
    ASSERT_TRUE(WriteFileAtomically(path, text).ok());
  }
  // Asks again and again until it is so.
  template <typename Condition>
  bool Becomes(Condition condition) {
    const double deadline = Clock::Real()->MonotonicSeconds() + kPatienceSeconds;
    while (!condition()) {
      if (Clock::Real()->MonotonicSeconds() > deadline) return false;
    }
    return true;
  }
  TemporaryDirectory root_;
};

// Files of the damaged checkpoint were open, and its manifest is the same file after the repair.
TEST_F(TransferServer, GivesWhatARepairHasPutInPlace) {
  const std::string path = SaveChunky(In("a"));
  CopyTree(path, In("good"));
  FlipIn(path + "/" + kMomentum, {1});
  const auto server = Serve(In("a"));
  const auto damaged = Pull(PullFrom({server->endpoint()}, In("to")));
  EXPECT_THAT(damaged.status().message(), HasSubstr("damaged at every source"));
  fs::remove(In("good") + "/" + kManifestName);
  fs::create_hard_link(path + "/" + kManifestName, In("good") + "/" + kManifestName);
  fs::remove_all(path);
  fs::rename(In("good"), path);
  StatusOr<PullResult> result = damaged;
  EXPECT_TRUE(Becomes([&] {
    result = Pull(PullFrom({server->endpoint()}, In("to")));
    return result.ok();
  })) << result.status();
  ExpectSame(path, In("to") + "/round-000041");
}

TEST_F(TransferServer, WhatIsBeingFetchedIsNotPruned) {
  const std::string path = SaveChunky(In("a"));
  SaveJob newer = ChunkyJob(In("a"));
  newer.round = 42;
  ASSERT_TRUE(SaveEverywhere(newer)[0].ok());
  auto server = Serve(In("a"));
  PullOptions options = PullFrom({server->endpoint()}, In("to"));
  options.round = 41;
  ASSERT_TRUE(Pull(options).ok());
  const auto held = OpenFile(path, O_RDONLY | O_DIRECTORY);
  ASSERT_TRUE(held.ok());
  EXPECT_EQ(flock(held->get(), LOCK_EX | LOCK_NB), -1);
  EXPECT_EQ(errno, EWOULDBLOCK);
  PruneOptions prune;
  prune.directory = In("a");
  prune.keep = 1;
  const auto refused = Prune(prune);
  ASSERT_TRUE(refused.ok()) << refused.status();
  ASSERT_THAT(refused->failures, SizeIs(1));
  EXPECT_THAT(refused->failures[0], HasSubstr("is being fetched"));
  EXPECT_TRUE(fs::exists(path));
  server.reset();
  const auto pruned = Prune(prune);
  ASSERT_TRUE(pruned.ok()) << pruned.status();
  EXPECT_THAT(pruned->removed, SizeIs(1));
  EXPECT_FALSE(fs::exists(path));
}

// 25 MiB would take ten minutes.
TEST_F(TransferServer, ItsRateIsLiftedWhileItGives) {
  const std::string path = SaveChunky(In("a"));
  WriteText(In("a") + "/" + kRateFileName, "400kbit\n");
  const auto server = Serve(In("a"));
  EXPECT_EQ(server->state().rate_cap, 50e3);
  PullOptions options = PullFrom({server->endpoint()}, In("to"));
  options.progress = [&](const DownloadState&) { fs::remove(In("a") + "/" + kRateFileName); };
  const auto result = Pull(options);
  ASSERT_TRUE(result.ok()) << result.status();
  ExpectSame(path, result->path);
  EXPECT_EQ(server->state().rate_cap, 0);
}

// It would take seven hours.
TEST_F(TransferServer, ThePullsRateIsLiftedWhileItRuns) {
  const std::string path = SaveChunky(In("a"));
  const auto server = Serve(In("a"));
  PullOptions options = PullFrom({server->endpoint()}, In("to"));
  options.rate_cap = 1000;
  options.progress = [&](const DownloadState&) {
    WriteText(In("to") + "/" + kRateFileName, "none\n");
  };
  const auto result = Pull(options);
  ASSERT_TRUE(result.ok()) << result.status();
  ExpectSame(path, result->path);
}

TEST_F(TransferServer, SendsNoQuickerThanItMay) {
  SaveChunky(In("a"));
  ServeOptions serve;
  serve.directory = In("a");
  serve.listen = {"127.0.0.1", 0};
  serve.key = TestKey();
  serve.rate_cap = 20e6;
  const auto server = Server::Start(serve);
  ASSERT_TRUE(server.ok()) << server.status();
  const double began = Clock::Real()->MonotonicSeconds();
  const auto result = Pull(PullFrom({(*server)->endpoint()}, In("to")));
  ASSERT_TRUE(result.ok()) << result.status();
  const double seconds = Clock::Real()->MonotonicSeconds() - began;
  // It can be slower than the cap, never quicker.
  EXPECT_GT(seconds, 0.9 * static_cast<double>(result->download.wanted) / serve.rate_cap);
}

// Held and let go by turns, as by the all-reduces of a job. The turns are so many questions long.
TEST_F(TransferServer, YieldsByTurnsAndGivesAll) {
  const std::string path = SaveChunky(In("a"));
  std::atomic<int> asked = 0;
  ServeOptions serve;
  serve.directory = In("a");
  serve.listen = {"127.0.0.1", 0};
  serve.key = TestKey();
  serve.yield = [&asked] {
    const int turn = ++asked / 5;
    return turn % 2 == 0 && turn < 10 ? wan::Yield::kHold : wan::Yield::kSpare;
  };
  const auto server = Server::Start(serve);
  ASSERT_TRUE(server.ok()) << server.status();
  const auto result = Pull(PullFrom({(*server)->endpoint()}, In("to")));
  ASSERT_TRUE(result.ok()) << result.status();
  ExpectSame(path, In("to") + "/round-000041");
  EXPECT_GT(asked, 0);
}

TEST_F(TransferServer, ARateFileCountsAsLongAsItIsThere) {
  RateFile rate(root_.path(), 1000);
  EXPECT_EQ(rate.Look(), 1000);
  const std::string path = In(kRateFileName);
  WriteText(path, "8mbit\n");
  EXPECT_EQ(rate.Look(), 1e6);
  for (const char* const changes_nothing : {"", "quickly", "0mbit", "-1mbit", "8", "8mbit 9mbit"}) {
    WriteText(path, changes_nothing);
    EXPECT_EQ(rate.Look(), 1e6) << changes_nothing;
  }
  WriteText(path, std::string(1000, '9'));
  EXPECT_EQ(rate.Look(), 1e6);
  WriteText(path, " none ");
  EXPECT_EQ(rate.Look(), 0);
  fs::remove(path);
  EXPECT_EQ(rate.Look(), 1000);
}

int OpenDescriptors() {
  int count = 0;
  for (const auto& entry : fs::directory_iterator("/proc/self/fd")) count += entry.exists() ? 1 : 0;
  return count;
}

TEST_F(TransferServer, AFewFilesAreOpenAtATime) {
  const int before = OpenDescriptors();
  OpenFiles files(3);
  std::vector<int> owners(50);
  for (size_t i = 0; i < owners.size(); ++i) {
    const std::string path = In(absl::StrCat(i));
    WriteText(path, absl::StrCat("file ", i));
  }
  for (int turn = 0; turn < 2; ++turn) {
    for (size_t i = 0; i < owners.size(); ++i) {
      const auto file = files.Get(&owners[i], In(absl::StrCat(i)), O_RDONLY);
      ASSERT_TRUE(file.ok()) << file.status();
      char digit = 0;
      ASSERT_TRUE(ReadAt(**file, "", &digit, 1, 5).ok());
      EXPECT_EQ(digit, absl::StrCat(i)[0]);
      EXPECT_LE(OpenDescriptors(), before + 3);
    }
  }
  files.Forget(&owners[49]);
  EXPECT_EQ(OpenDescriptors(), before + 2);
}

TEST_F(TransferServer, ItsOwnDescriptorsGoBeforeAnythingFails) {
  for (const char* const name : {"a", "b", "c"}) WriteText(In(name), name);
  OpenFiles files(64);
  int owners[3] = {};
  rlimit limit = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  ASSERT_TRUE(files.Get(&owners[0], In("a"), O_RDONLY).ok());
  // The next free number is the first that is not allowed.
  const int next = dup(0);
  close(next);
  rlimit none = limit;
  none.rlim_cur = static_cast<rlim_t>(next);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  const auto instead = files.Get(&owners[1], In("b"), O_RDONLY);
  // What is held cannot be closed.
  const auto third = files.Get(&owners[2], In("c"), O_RDONLY);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  EXPECT_TRUE(instead.ok()) << instead.status();
  EXPECT_TRUE(absl::IsResourceExhausted(third.status())) << third.status();
  EXPECT_TRUE(files.Get(&owners[2], In("c"), O_RDONLY).ok());
}

}  // namespace
}  // namespace atl::checkpoint
