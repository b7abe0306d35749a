// Plans of trees: what a good one is, that bad ones are refused with the reason, what they load.
#include "collectives/wan/plan/tree_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "collectives/wan/plan/link_matrix.h"
#include "tests/wan_plan/draws.h"

namespace atl::wan {
namespace {

using ::testing::HasSubstr;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// 2 -> 1 -> 0, and back.
Tree Path() { return {1.0, 0, {-1, 0, 1}, {-1, 0, 1}}; }

TreePlan PlanOf(const Tree& tree) {
  TreePlan plan;
  plan.kind = ScheduleKind::kTrees;
  plan.trees = {tree};
  return plan;
}

std::string WhyNot(const TreePlan& plan, int members = 3) {
  const Status status = CheckPlan(plan, members);
  EXPECT_TRUE(status.ok() || absl::IsInvalidArgument(status)) << status;
  return std::string(status.message());
}

TEST(TreePlan, EqualPlansAreGoodForAnyNumberOfMembers) {
  for (const int members : {1, 2, 3, 7, 64, 256, 300}) {
    const TreePlan plan = EqualPlan(members);
    EXPECT_EQ(CheckPlan(plan, members), OkStatus()) << members;
    EXPECT_EQ(plan.members(), members);
    EXPECT_TRUE(IsOrderStable(plan));
    EXPECT_EQ(plan.throughput, 0) << "nothing is known";
  }
  EXPECT_EQ(TreePlan().members(), 0);
}

TEST(TreePlan, AnEqualPlanLoadsEveryLinkAlike) {
  const std::vector<double> loads = EdgeLoads(EqualPlan(4));
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < 4; ++j) {
      EXPECT_DOUBLE_EQ(loads[i * 4 + j], i == j ? 0 : 0.5) << i << " -> " << j;
    }
  }
}

TEST(TreePlan, LoadsCountReduceEdgesUpAndBroadcastEdgesDown) {
  Tree tree = Path();
  tree.broadcast_parent = {-1, 0, 0};  // down the star, up the path
  const std::vector<double> loads = EdgeLoads(PlanOf(tree));
  const std::vector<double> expected = {0, 1, 1,  //
                                        1, 0, 0,  //
                                        0, 1, 0};
  EXPECT_EQ(loads, expected);
}

TEST(TreePlan, APathIsAGoodPlanButNoStar) {
  const TreePlan plan = PlanOf(Path());
  EXPECT_EQ(CheckPlan(plan, 3), OkStatus());
  EXPECT_FALSE(IsStar(plan.trees[0]));
  EXPECT_FALSE(IsOrderStable(plan));
}

TEST(TreePlan, AStarIsOneInBothDirections) {
  Tree tree = EqualPlan(3).trees[1];
  EXPECT_TRUE(IsStar(tree));
  tree.broadcast_parent = {1, -1, 0};
  EXPECT_FALSE(IsStar(tree));
}

TEST(TreePlan, SaysWhatIsWrongWithParents) {
  Tree tree = Path();
  tree.reduce_parent = {-1, 2, 1};
  EXPECT_THAT(WhyNot(PlanOf(tree)), HasSubstr("tree 0, reduce parents: member 1 is its own"));
  tree = Path();
  tree.broadcast_parent = {-1, 1, 0};
  EXPECT_THAT(WhyNot(PlanOf(tree)), HasSubstr("broadcast parents: member 1 has the parent 1"));
  tree = Path();
  tree.reduce_parent[2] = 3;
  EXPECT_THAT(WhyNot(PlanOf(tree)), HasSubstr("member 2 has the parent 3"));
  tree.reduce_parent[2] = -1;
  EXPECT_THAT(WhyNot(PlanOf(tree)), HasSubstr("member 2 has the parent -1"));
  tree = Path();
  tree.reduce_parent[0] = 1;
  EXPECT_THAT(WhyNot(PlanOf(tree)), HasSubstr("the root 0 has the parent 1"));
  tree = Path();
  tree.root = 3;
  EXPECT_THAT(WhyNot(PlanOf(tree)), HasSubstr("root 3 of 3"));
  tree.root = -1;
  EXPECT_THAT(WhyNot(PlanOf(tree)), HasSubstr("root -1"));
  tree = Path();
  tree.reduce_parent.pop_back();
  EXPECT_THAT(WhyNot(PlanOf(tree)), HasSubstr("2 reduce and 3 broadcast parents, expected 3"));
}

TEST(TreePlan, SaysWhatIsWrongWithNumbers) {
  for (const double weight : {0.0, -1.0, 2.0, kInfinity, std::nan("")}) {
    Tree tree = Path();
    tree.weight = weight;
    EXPECT_THAT(WhyNot(PlanOf(tree)), HasSubstr("tree 0 has the weight")) << weight;
  }
  TreePlan plan = EqualPlan(3);
  plan.trees[2].weight = 0.25;
  EXPECT_THAT(WhyNot(plan), HasSubstr("the weights sum to"));
  for (const double bad : {-1.0, kInfinity, std::nan("")}) {
    plan = EqualPlan(3);
    plan.throughput = bad;
    EXPECT_THAT(WhyNot(plan), HasSubstr("throughput")) << bad;
    plan = EqualPlan(3);
    plan.latency = bad;
    EXPECT_THAT(WhyNot(plan), HasSubstr("latency")) << bad;
  }
  for (const int64_t bad : {int64_t{0}, int64_t{-5}, kMaxChunkBytes + 1}) {
    plan = EqualPlan(3);
    plan.chunk_bytes = bad;
    EXPECT_THAT(WhyNot(plan), HasSubstr("chunks of")) << bad;
  }
  for (const int bad : {0, 5, 200}) {
    plan = EqualPlan(3);
    plan.kind = static_cast<ScheduleKind>(bad);
    EXPECT_THAT(WhyNot(plan), HasSubstr("unknown kind")) << bad;
  }
}

TEST(TreePlan, RefusesNoTreesTooManyTreesAndTheWrongNumberOfMembers) {
  EXPECT_THAT(WhyNot(TreePlan()), HasSubstr("0 trees"));
  TreePlan plan = EqualPlan(3);
  plan.trees.assign(kMaxTrees + 1, plan.trees[0]);
  EXPECT_THAT(WhyNot(plan), HasSubstr("257 trees"));
  EXPECT_THAT(WhyNot(EqualPlan(3), 4), HasSubstr("expected 4"));
  EXPECT_THAT(WhyNot(EqualPlan(3), 0), HasSubstr("for 0 members"));
}

// Whatever parents come, the check ends, and what it lets pass is a tree: every member's way leads
// to the root.
TEST(TreePlan, WhatPassesLeadsToTheRoot) {
  constexpr int kMembers = 5;
  int passed = 0;
  for (uint64_t seed = 0; seed < 20000; ++seed) {
    Draws draws(seed);
    const auto draw = [&] { return draws.Below(kMembers + 2) - 1; };
    Tree tree = {1.0, draws.Below(kMembers), {}, {}};
    for (int i = 0; i < kMembers; ++i) tree.reduce_parent.push_back(i == tree.root ? -1 : draw());
    for (int i = 0; i < kMembers; ++i) {
      tree.broadcast_parent.push_back(i == tree.root ? -1 : draw());
    }
    if (!CheckPlan(PlanOf(tree), kMembers).ok()) continue;
    ++passed;
    for (const auto& parents : {tree.reduce_parent, tree.broadcast_parent}) {
      for (int i = 0; i < kMembers; ++i) {
        int at = i;
        for (int steps = 0; at != tree.root; ++steps) {
          ASSERT_LT(steps, kMembers) << "seed " << seed;
          at = parents[at];
        }
      }
    }
  }
  EXPECT_GT(passed, 50);
}

TEST(TreePlan, NamesOfSchedulesComeBack) {
  for (const char* name : {"auto", "equal", "direct", "ring", "trees"}) {
    ASSERT_TRUE(ParseSchedule(name).ok()) << name;
    EXPECT_STREQ(ScheduleName(*ParseSchedule(name)), name);
  }
  EXPECT_THAT(std::string(ParseSchedule("star").status().message()), HasSubstr("there are: auto"));
}

TEST(LinkMatrix, ANewOneHasNoLimitsAndNames) {
  LinkMatrix links(3);
  EXPECT_EQ(links.members(), 3);
  EXPECT_EQ(links.names, (std::vector<std::string>{"member 0", "member 1", "member 2"}));
  EXPECT_EQ(links.rate(0, 2), kInfinity);
  EXPECT_EQ(links.delay(2, 1), 0);
  links.rate(0, 2) = 5;
  EXPECT_EQ(links.rates[2], 5);
  EXPECT_EQ(LinkMatrix().members(), 0);
}

}  // namespace
}  // namespace atl::wan
