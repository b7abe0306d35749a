// Pulls over loopback: from one and several sources, resumed, from damaged and half-done ones.
#include "checkpoint/transfer/pull.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "checkpoint/names.h"
#include "checkpoint/sha256.h"
#include "tests/checkpoint/transfer/transfer_test_util.h"

namespace atl::checkpoint {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

constexpr char kModel[] = "model-00001-of-00002.safetensors";
constexpr char kMomentum[] = "outer/momentum-00001-of-00002.safetensors";

class TransferPull : public testing::Test {
 protected:
  void SetUp() override { original_ = SaveChunky(root_.path() + "/a"); }
  std::string In(const std::string& name) const { return root_.path() + "/" + name; }
  // A copy of the checkpoint in the directory `name`.
  std::string Copy(const std::string& name) {
    const std::string path = In(name) + "/" + RoundName(41);
    CopyTree(original_, path);
    return path;
  }
  std::string DigestOf(const std::string& path) {
    return absl::BytesToHexString(Sha256(*ReadFile(path + "/" + kManifestName)));
  }
  TemporaryDirectory root_;
  std::string original_;
};

TEST_F(TransferPull, BringsTheSameFilesFromTwoSources) {
  Copy("b");
  const auto a = Serve(In("a")), b = Serve(In("b"));
  const auto result = Pull(PullFrom({a->endpoint(), b->endpoint()}, In("to")));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->round, 41);
  EXPECT_EQ(result->path, In("to") + "/round-000041");
  EXPECT_THAT(result->vouched, HasSubstr("agree"));
  EXPECT_EQ(result->download.verified, result->download.wanted);
  ExpectSame(original_, result->path);
  EXPECT_THAT(NamesIn(In("to")), ElementsAre(".lock", "round-000041"));
}

TEST_F(TransferPull, ASecondPullFindsTheCheckpointThere) {
  const auto a = Serve(In("a"));
  ASSERT_TRUE(Pull(PullFrom({a->endpoint()}, In("to"))).ok());
  const auto again = Pull(PullFrom({a->endpoint()}, In("to")));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->was_there);
}

TEST_F(TransferPull, AnotherCheckpointOfTheRoundIsNotReplaced) {
  SaveJob other = ChunkyJob(In("to"));
  other.digest = "ffeeddccbbaa99887766554433221100";
  ASSERT_TRUE(SaveEverywhere(other)[0].ok());
  const auto a = Serve(In("a"));
  const auto result = Pull(PullFrom({a->endpoint()}, In("to")));
  EXPECT_EQ(ExitCodeOf(result.status()), ExitCode::kUsage);
  EXPECT_THAT(result.status().message(), HasSubstr("is another one"));
}

// A region's own files differ; what is equal comes from both.
TEST_F(TransferPull, TakesARegionsOwnFilesFromThatRegion) {
  SaveJob job = ChunkyJob(In("b"));
  std::vector<float> flat = FlatVector(job.tensors, 41, 0);
  RunRegion(1, [&](int, Communicator& region) {
    SaveOptions options = OptionsOf(job);
    options.description.region = "batam";
    std::vector<std::vector<float>> vectors;
    for (int section = 0; section < 3; ++section) {
      vectors.push_back(FlatVector(job.tensors, section == 2 ? 99 : 41, section));
    }
    for (int section = 0; section < 3; ++section) {
      options.sections[section].slices = {
          {{0, static_cast<int64_t>(vectors[section].size())}, vectors[section].data()}};
    }
    const auto saved = Save(options, region);
    ASSERT_TRUE(saved.ok()) << saved.status();
  });
  // What is equal in both is whole in batam alone.
  FlipIn(original_ + "/" + kModel, {0, 1});
  const auto a = Serve(In("a")), b = Serve(In("b"));
  PullOptions options = PullFrom({a->endpoint(), b->endpoint()}, In("to"));
  options.root = DigestOf(original_);
  const auto result = Pull(options);
  ASSERT_TRUE(result.ok()) << result.status();
  const auto checkpoint = Checkpoint::Open(result->path);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->description().region, "oslo");
  const Status verified = (*checkpoint)->Verify();
  EXPECT_TRUE(verified.ok()) << verified;
}

TEST_F(TransferPull, WhatIsDamagedEverywhereIsNamedAndTheRestIsKept) {
  FlipIn(original_ + "/" + kMomentum, {1});
  const auto a = Serve(In("a"));
  const auto failed = Pull(PullFrom({a->endpoint()}, In("to")));
  EXPECT_TRUE(absl::IsDataLoss(failed.status())) << failed.status();
  EXPECT_THAT(failed.status().message(), HasSubstr(absl::StrCat("chunk 1 of ", kMomentum)));
  EXPECT_TRUE(List(In("to"), nullptr).empty());

  const std::string good = Copy("b");
  FlipIn(good + "/" + kMomentum, {1});  // back to what it was
  const auto b = Serve(In("b"));
  const auto result = Pull(PullFrom({b->endpoint()}, In("to")));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->download.received, kChunkBytes);
  EXPECT_EQ(result->download.resumed, result->download.wanted - kChunkBytes);
  ExpectSame(good, result->path);
}

// It lacks one chunk, and the other source has two wrong ones.
TEST_F(TransferPull, ASourceThatIsStillPullingGivesWhatItHas) {
  const std::string half = Copy("b");
  FlipIn(half + "/" + kMomentum, {1});
  {
    const auto b = Serve(In("b"));
    EXPECT_FALSE(Pull(PullFrom({b->endpoint()}, In("half"))).ok());
  }
  const std::string ruined = Copy("c");
  FlipIn(ruined + "/" + kModel, {0, 1});
  const auto b = Serve(In("half")), c = Serve(In("c"));
  PullOptions options = PullFrom({b->endpoint(), c->endpoint()}, In("to"));
  const auto result = Pull(options);
  ASSERT_TRUE(result.ok()) << result.status();
  ExpectSame(original_, result->path);
  EXPECT_GT(result->download.sources[0].bytes, 0);
}

TEST_F(TransferPull, SourcesThatDisagreeAreNamedUntilAHashDecides) {
  SaveJob other = ChunkyJob(In("b"));
  other.tensors.back().shape = {1024, 999};
  other.tensors.back().elements.end = (2 << 20) + 1024 * 999;
  ASSERT_TRUE(SaveEverywhere(other)[0].ok());
  const auto a = Serve(In("a")), b = Serve(In("b"));
  PullOptions options = PullFrom({a->endpoint(), b->endpoint()}, In("to"));
  const auto refused = Pull(options);
  EXPECT_EQ(ExitCodeOf(refused.status()), ExitCode::kUsage);
  EXPECT_THAT(refused.status().message(), HasSubstr("disagree"));
  options.root = RootIn(original_);
  const auto result = Pull(options);
  ASSERT_TRUE(result.ok()) << result.status();
  ExpectSame(original_, result->path);
}

TEST_F(TransferPull, AHashThatNobodyHasIsAnError) {
  const auto a = Serve(In("a"));
  PullOptions options = PullFrom({a->endpoint()}, In("to"));
  options.root = std::string(64, '0');
  EXPECT_THAT(Pull(options).status().message(), HasSubstr("no source has a checkpoint"));
  options.root = "";
  options.round = 12;
  EXPECT_THAT(Pull(options).status().message(), HasSubstr("nobody has round 12"));
}

TEST_F(TransferPull, AWrongKeyIsToldFromNoAnswer) {
  const auto a = Serve(In("a"), TestKey(8));
  const auto result = Pull(PullFrom({a->endpoint()}, In("to")));
  EXPECT_TRUE(absl::IsUnavailable(result.status())) << result.status();
  EXPECT_THAT(result.status().message(), HasSubstr("with the same key"));
  EXPECT_GT(a->state().refused, 0);
}

// Pulls that were killed over and over once shut the next ones out for a minute.
TEST_F(TransferPull, CallersThatAreGoneDoNotShutOthersOut) {
  const auto a = Serve(In("a"));
  PullOptions options = PullFrom({a->endpoint()}, In("to"));
  options.round = 12;
  for (int i = 0; i < 70; ++i) {
    ASSERT_THAT(Pull(options).status().message(), HasSubstr("nobody has round 12")) << i;
  }
}

TEST_F(TransferPull, ASourceThatComesBackGoesOnGiving) {
  FlipIn(original_ + "/" + kModel, {0});
  auto a = Serve(In("a"));
  const std::string good = Copy("b");
  FlipIn(good + "/" + kModel, {0});
  const Endpoint there = Serve(In("b"))->endpoint();  // and gone again
  PullOptions options = PullFrom({a->endpoint(), there}, In("to"));
  std::unique_ptr<Server> back;
  options.progress = [&](const DownloadState& state) {
    if (back != nullptr || state.verified + kChunkBytes < state.wanted) return;
    ServeOptions serve;
    serve.directory = In("b");
    serve.listen = there;
    serve.key = TestKey();
    auto started = Server::Start(serve);
    if (started.ok()) back = *std::move(started);
  };
  const auto result = Pull(options);
  ASSERT_TRUE(result.ok()) << result.status();
  ExpectSame(good, result->path);
}

}  // namespace
}  // namespace atl::checkpoint
