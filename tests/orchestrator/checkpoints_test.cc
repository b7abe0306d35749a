// From which checkpoint a job resumes.
#include "orchestrator/core/checkpoints.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace atl {
namespace {

using ::testing::HasSubstr;

pb::CheckpointOnDisk At(int64_t round, const std::string& digest, bool own = true,
                        const std::string& path = "") {
  pb::CheckpointOnDisk checkpoint;
  checkpoint.set_round(round);
  checkpoint.set_digest(digest);
  checkpoint.set_own(own);
  checkpoint.set_next_sample(round * 10);
  checkpoint.set_inner_steps(round * 5);
  checkpoint.set_path(path.empty() ? absl::StrCat("/", own ? "own" : "copy", "/", round) : path);
  return checkpoint;
}

struct Row {
  std::string what;
  std::vector<pb::CheckpointOnDisk> a, b;
  int64_t round;  // -1: none
};

TEST(Checkpoints, TheNewestThatEveryRegionHasIsChosen) {
  const std::vector<Row> table = {
      {"none at all", {}, {}, -1},
      {"only one region has any", {At(5, "x")}, {}, -1},
      {"both have one", {At(5, "x")}, {At(5, "x")}, 5},
      {"the newest of several", {At(5, "x"), At(10, "y")}, {At(10, "y"), At(5, "x")}, 10},
      {"one region lacks the newest", {At(5, "x"), At(10, "y")}, {At(5, "x")}, 5},
      {"the newest differs in its digest", {At(5, "x"), At(10, "y")}, {At(5, "x"), At(10, "z")}, 5},
      {"no digest is equal", {At(5, "x")}, {At(5, "z")}, -1},
      {"a copy of a sibling serves", {At(5, "x")}, {At(5, "x", false)}, 5},
      {"an empty digest never does", {At(5, "")}, {At(5, "")}, -1},
      {"round 0 is a start", {At(0, "x")}, {At(0, "x")}, 0},
      {"there is no round before it", {At(-1, "x")}, {At(-1, "x")}, -1},
  };
  for (const Row& row : table) {
    const auto chosen = ChooseResumePoint({{"a", {row.a, {}}}, {"b", {row.b, {}}}});
    EXPECT_EQ(chosen ? chosen->round : -1, row.round) << row.what;
  }
}

TEST(Checkpoints, CarryTheLedgersCursorAlong) {
  const auto chosen = ChooseResumePoint({{"a", {{At(5, "x")}, {}}}, {"b", {{At(5, "x")}, {}}}});
  ASSERT_TRUE(chosen);
  EXPECT_EQ(chosen->next_sample, 50);
  EXPECT_EQ(chosen->inner_steps, 25);
  EXPECT_EQ(chosen->digest, "x");
}

TEST(Checkpoints, ARegionPrefersItsOwn) {
  const auto chosen =
      ChooseResumePoint({{"a", {{At(5, "x", false, "/a"), At(5, "x", true, "/z")}, {}}}});
  ASSERT_TRUE(chosen);
  EXPECT_EQ(chosen->checkpoints.at("a").path(), "/z");
}

TEST(Checkpoints, WhatCouldNotBeLoadedIsPassedOver) {
  const std::map<std::string, RegionCheckpoints> regions = {
      {"a", {{At(5, "x"), At(10, "y")}, {"/own/10"}}}, {"b", {{At(5, "x"), At(10, "y")}, {}}}};
  const auto chosen = ChooseResumePoint(regions);
  ASSERT_TRUE(chosen);
  EXPECT_EQ(chosen->round, 5);
  EXPECT_THAT(ExplainNoCommonCheckpoint(regions), HasSubstr("could not load /own/10"));
}

TEST(Checkpoints, OfTwoHistoriesTheOneWithMoreOwnCopiesWins) {
  const auto chosen = ChooseResumePoint({{"a", {{At(5, "x", false), At(5, "y", true)}, {}}},
                                         {"b", {{At(5, "x", true), At(5, "y", true)}, {}}}});
  ASSERT_TRUE(chosen);
  EXPECT_EQ(chosen->digest, "y");
}

}  // namespace
}  // namespace atl
