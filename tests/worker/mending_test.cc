// A replica that was written from bad memory becomes the others', over the engine's links.
#include "worker/region/mending.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "base/digest.h"
#include "base/file.h"
#include "tests/checkpoint/checkpoint_test_util.h"

namespace atl {
namespace {

using checkpoint::SaveJob;
using checkpoint::TemporaryDirectory;
using testing::HasSubstr;

constexpr int64_t kRound = 41;
constexpr int64_t kElements = 8790 * kDigestBlock;  // with what is between tensors, and behind

std::map<std::string, std::string> Contents(const std::string& directory) {
  std::map<std::string, std::string> contents;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
    if (!entry.is_regular_file()) continue;
    contents[entry.path().lexically_relative(directory).string()] =
        ReadFile(entry.path().string()).value_or("unreadable");
  }
  return contents;
}

// Regions a, b and c of one view, each with an engine and a replica of three chunks and more; b's
// is wrong in one of them.
class MendingTest : public testing::Test {
 protected:
  void SetUp() override {
    wan::Group group;
    group.view = ViewId{1};
    group.key = {7};
    group.transfers_only = true;
    for (const char* region : {"a", "b", "c"}) {
      wan::EngineOptions options;
      options.listen = {"127.0.0.1", 0};
      auto engine = wan::Engine::Create(options);
      ASSERT_TRUE(engine.ok()) << engine.status();
      engines_.push_back(*std::move(engine));
      group.members.push_back(engines_.back()->endpoint());
      group.names.push_back(region);
      view_.add_members()->set_region(region);
      Save(region, directory_.path() + "/" + region, -1);
    }
    view_.set_id(1);
    view_.set_lanes(1);
    Save("b", directory_.path() + "/right", -1);
    std::filesystem::remove_all(Round("b"));
    Save("b", directory_.path() + "/b", 1'200'000);
    for (size_t i = 0; i < engines_.size(); ++i) {
      group.self = MemberIndex{static_cast<int64_t>(i)};
      ASSERT_TRUE(engines_[i]->Join(group, 30).ok());
    }
  }
  void Save(const std::string& region, const std::string& directory, int64_t wrong_element) {
    SaveJob job;
    job.tensors = Tensors();
    job.prefixes = prefixes_;
    job.digest = DigestOfState();
    job.directory = directory;
    job.region = region;
    job.wrong_element = wrong_element;
    for (const auto& result : SaveEverywhere(job)) ASSERT_TRUE(result.ok()) << result.status();
  }
  static std::vector<checkpoint::TensorSpec> Tensors() {
    return {{"a", {1500, 1500}, {0, 2'250'000}}};
  }
  // That the regions agreed on.
  static std::string DigestOfState() {
    std::vector<float> flat = checkpoint::FlatVector(Tensors(), kRound, 0);
    flat.resize(kElements);
    std::fill(flat.begin() + Tensors()[0].elements.end, flat.end(), 0.0f);
    return DigestOfSlice(flat.data(), 0, kElements, 0).Hex();
  }
  // What a region says of its own replica.
  std::string Proof(const std::string& path) {
    Mending mending("x");
    mending.SetElements(kElements);
    pb::MendCheckpoint order;
    order.set_view(1);
    order.set_round(kRound);
    order.set_path(path);
    mending.Mend(nullptr, view_, order);
    const pb::CheckpointTended tended = Await(mending);
    EXPECT_EQ(tended.path(), path);
    EXPECT_EQ(tended.round(), kRound);
    return tended.failure();
  }
  std::string Round(const std::string& region) const {
    return directory_.path() + "/" + region + "/round-000041";
  }
  pb::MendCheckpoint Order() const {
    pb::MendCheckpoint order;
    order.set_view(1);
    order.set_round(kRound);
    order.set_path(Round("b"));
    const auto manifest =
        checkpoint::ParseManifest(ReadFile(Round("a") + "/MANIFEST.json").value_or(""));
    if (manifest.ok()) order.set_replicated_root(checkpoint::RootOf(*manifest, true));
    order.add_sources("a");
    order.add_sources("c");
    return order;
  }
  static pb::CheckpointTended Await(Mending& mending) {
    mending.Wait();
    const auto tended = mending.TakeTended();
    EXPECT_EQ(tended.size(), 1u);
    return tended.empty() ? pb::CheckpointTended() : tended.front();
  }

  std::vector<std::string> prefixes_ = {"model", "optim/exp_avg"};
  TemporaryDirectory directory_;
  std::vector<std::unique_ptr<wan::Engine>> engines_;
  pb::View view_;
};

TEST_F(MendingTest, OneChunkComesFromTheOthersAndTheInnerStateStays) {
  Mending a("a"), b("b");
  a.Give(engines_[0].get(), view_, kRound, Round("a"));
  b.Mend(engines_[1].get(), view_, Order());
  const pb::CheckpointTended tended = Await(b);
  EXPECT_EQ(tended.failure(), "");
  EXPECT_EQ(tended.chunks(), 1);
  EXPECT_EQ(tended.bytes(), 4 << 20);
  EXPECT_EQ(tended.place(), "");
  EXPECT_TRUE(Contents(Round("b")) == Contents(Round("right")));
}

TEST_F(MendingTest, AReplicaIsRightIfItsStateHasTheRoundsDigest) {
  EXPECT_EQ(Proof(Round("a")), "");
  EXPECT_THAT(Proof(Round("b")), HasSubstr("its state has the digest "));
  EXPECT_THAT(Proof(Round("b")), HasSubstr("the regions agreed on " + DigestOfState()));
  EXPECT_THAT(Proof(Round("nowhere")), HasSubstr("nowhere"));
}

TEST_F(MendingTest, ADigestSaysNothingOfWhatItWasNotTakenFrom) {
  prefixes_ = {"model", "outer/elsewhere"};
  Save("a", directory_.path() + "/more", -1);
  EXPECT_EQ(Proof(Round("more")), "the round's digest says nothing of outer/elsewhere");
}

TEST_F(MendingTest, WhoGivesSomethingElseIsPassedOver) {
  Mending a("a"), b("b"), c("c");
  std::filesystem::remove_all(Round("a"));
  const pb::MendCheckpoint order = [&] {
    pb::MendCheckpoint changed = Order();
    const auto manifest =
        checkpoint::ParseManifest(ReadFile(Round("c") + "/MANIFEST.json").value_or(""));
    if (manifest.ok()) changed.set_replicated_root(checkpoint::RootOf(*manifest, true));
    return changed;
  }();
  Save("a", directory_.path() + "/a", 5);
  a.Give(engines_[0].get(), view_, kRound, Round("a"));
  c.Give(engines_[2].get(), view_, kRound, Round("c"));
  b.Mend(engines_[1].get(), view_, order);
  EXPECT_EQ(Await(b).failure(), "");
  EXPECT_TRUE(Contents(Round("b")) == Contents(Round("right")));
}

TEST_F(MendingTest, WhatIsDamagedAtTheSourceIsNotTaken) {
  Mending a("a"), b("b");
  std::filesystem::resize_file(Round("a") + "/model-00001-of-00001.safetensors", 5'000'000);
  const auto before = Contents(Round("b"));
  pb::MendCheckpoint order = Order();
  order.mutable_sources()->RemoveLast();
  a.Give(engines_[0].get(), view_, kRound, Round("a"));
  b.Mend(engines_[1].get(), view_, order);
  EXPECT_THAT(Await(b).failure(), HasSubstr("no region gave model-00001-of-00001.safetensors"));
  EXPECT_TRUE(Contents(Round("b")) == before);
}

TEST_F(MendingTest, WhoEndsWhileNobodyGivesLeavesEverythingAsItWas) {
  const auto before = Contents(Round("b"));
  {
    Mending b("b");
    b.Mend(engines_[1].get(), view_, Order());
  }
  EXPECT_TRUE(Contents(Round("b")) == before);
  EXPECT_EQ(checkpoint::NamesIn(directory_.path() + "/b").size(), 2u);
}

TEST_F(MendingTest, AViewThatEndsEndsItAndNothingHasChanged) {
  const auto before = Contents(Round("b"));
  Mending b("b");
  b.Mend(engines_[1].get(), view_, Order());
  engines_[1]->Leave(ViewId{1});
  EXPECT_NE(Await(b).failure(), "");
  EXPECT_TRUE(Contents(Round("b")) == before);
}

}  // namespace
}  // namespace atl
