// Plans against the bound and by hand; predictions by hand; what cannot be planned.
#include "collectives/wan/plan/planner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "collectives/wan/plan/bound.h"
#include "tests/wan_plan/draws.h"
#include "tests/wan_plan/random_links.h"

namespace atl::wan {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kMiB = 1 << 20;
// So much that latency does not count.
constexpr double kHuge = 1e13;

TreePlan Plan(const LinkMatrix& links, double bytes, ScheduleKind kind = ScheduleKind::kAuto,
              bool order_stable = false) {
  const StatusOr<TreePlan> plan = MakePlan(links, {bytes, kind, order_stable});
  EXPECT_TRUE(plan.ok()) << plan.status();
  if (!plan.ok()) return TreePlan();
  EXPECT_EQ(CheckPlan(*plan, links.members()), OkStatus());
  return *plan;
}

LinkMatrix Lines(const std::vector<double>& mbit, double delay) {
  LinkMatrix links(static_cast<int>(mbit.size()));
  for (size_t i = 0; i < mbit.size(); ++i) links.up[i] = links.down[i] = mbit[i] * kMbit;
  links.delays.assign(links.delays.size(), delay);
  return links;
}

void SetPair(LinkMatrix& links, int a, int b, double mbit) {
  links.rate(a, b) = links.rate(b, a) = mbit * kMbit;
}

TEST(Planner, StarsReachTheBoundWhereOnlyLinesLimit) {
  for (int members = 2; members <= 9; ++members) {
    for (uint64_t seed = 0; seed < 20; ++seed) {
      const LinkMatrix links = RandomLinks(LinksKind::kLines, members, seed);
      const TreePlan plan = Plan(links, kHuge, ScheduleKind::kDirect);
      EXPECT_TRUE(IsOrderStable(plan));
      EXPECT_GE(plan.throughput, BoundThroughput(links).rate * 0.989)
          << members << " members, seed " << seed;
    }
  }
}

TEST(Planner, TreesReachTheBoundWhereLinesOrPairsLimit) {
  for (const LinksKind kind : {LinksKind::kUnevenLines, LinksKind::kPairs}) {
    for (int members = 2; members <= 9; ++members) {
      for (uint64_t seed = 0; seed < 5; ++seed) {
        const LinkMatrix links = RandomLinks(kind, members, seed);
        const TreePlan plan = Plan(links, kHuge);
        EXPECT_GE(plan.throughput, BoundThroughput(links).rate * 0.97)
            << KindName(kind) << ", " << members << " members, seed " << seed;
      }
    }
  }
}

TEST(Planner, NoPlanBeatsTheBound) {
  for (const LinksKind kind : kAllLinksKinds) {
    for (uint64_t seed = 0; seed < 10; ++seed) {
      Draws draws(seed);
      const int members = 2 + draws.Below(8);
      LinkMatrix links = RandomLinks(kind, members, seed);
      // Where all links are as long, no way through a third member is shorter.
      links.delays.assign(links.delays.size(), 0.05);
      const double bytes = draws.LogUniform(1e3, 1e9);
      const double bound = LowerBound(links, bytes).seconds;
      for (const ScheduleKind schedule :
           {ScheduleKind::kAuto, ScheduleKind::kEqual, ScheduleKind::kDirect, ScheduleKind::kRing,
            ScheduleKind::kTrees}) {
        const TreePlan plan = Plan(links, bytes, schedule);
        EXPECT_LE(plan.throughput, BoundThroughput(links).rate * (1 + 1e-9));
        EXPECT_GE(Predict(plan, links, bytes).seconds, bound * (1 - 1e-9))
            << KindName(kind) << ", seed " << seed << ", " << ScheduleName(schedule);
        if (schedule != ScheduleKind::kAuto) {
          EXPECT_EQ(plan.kind, schedule);
        }
      }
    }
  }
}

TEST(Planner, AutoIsNoSlowerThanAnySchedule) {
  for (const LinksKind kind : kAllLinksKinds) {
    for (uint64_t seed = 0; seed < 4; ++seed) {
      Draws draws(seed);
      const LinkMatrix links = RandomLinks(kind, 2 + draws.Below(6), seed);
      const double bytes = draws.LogUniform(1e3, 1e9);
      const double chosen = Predict(Plan(links, bytes), links, bytes).seconds;
      for (const ScheduleKind schedule :
           {ScheduleKind::kEqual, ScheduleKind::kDirect, ScheduleKind::kRing}) {
        const double other = Predict(Plan(links, bytes, schedule), links, bytes).seconds;
        EXPECT_LE(chosen, other * 1.0101)
            << KindName(kind) << ", seed " << seed << ", " << ScheduleName(schedule);
      }
    }
  }
}

TEST(Planner, SlowRegionsOwnNothing) {
  const LinkMatrix links = Lines({1000, 500, 200, 100}, 0.04);
  const TreePlan plan = Plan(links, 64 * kMiB);
  EXPECT_NEAR(plan.throughput, 100 * kMbit, 0.01 * kMbit);
  for (const Tree& tree : plan.trees) EXPECT_NE(tree.root, 3);
  const Bound bound = LowerBound(links, 64 * kMiB);
  EXPECT_NEAR(bound.seconds, 64 * kMiB / (100 * kMbit) + 0.04, 1e-9);
  EXPECT_EQ(bound.reason, "up of 'member 3'");
  EXPECT_GT(bound.seconds / Predict(plan, links, 64 * kMiB).seconds, 0.98);
}

TEST(Planner, EqualRegionsShareAlike) {
  const TreePlan plan = Plan(Lines({300, 300, 300, 300}, 0.075), 64 * kMiB);
  ASSERT_EQ(plan.trees.size(), 4);
  for (const Tree& tree : plan.trees) EXPECT_NEAR(tree.weight, 0.25, 1e-6);
  EXPECT_NEAR(plan.throughput, 200 * kMbit, 0.1 * kMbit);
  EXPECT_TRUE(IsOrderStable(plan));
}

TEST(Planner, RoutesAroundASlowPair) {
  LinkMatrix links = Lines({kInfinity, kInfinity, kInfinity}, 0.04);
  SetPair(links, 0, 1, 300);
  SetPair(links, 1, 2, 300);
  SetPair(links, 0, 2, 30);
  const Bound bound = LowerBound(links, kHuge);
  EXPECT_EQ(bound.reason, "the sum of the rates of all pairs");
  EXPECT_NEAR(BoundThroughput(links).rate, 315 * kMbit, 1e-3);
  EXPECT_GE(Plan(links, kHuge).throughput, 314 * kMbit);
  EXPECT_LE(Plan(links, kHuge, ScheduleKind::kEqual).throughput, 46 * kMbit);
}

TEST(Planner, GoesThroughAThirdMemberWhereTwoHaveNoLink) {
  LinkMatrix links = Lines({100, 100, 100, 100}, 0.01);
  SetPair(links, 0, 1, 0);
  SetPair(links, 2, 3, 0);
  for (const ScheduleKind kind : {ScheduleKind::kAuto, ScheduleKind::kTrees}) {
    const TreePlan plan = Plan(links, 64 * kMiB, kind);
    const std::vector<double> loads = EdgeLoads(plan);
    EXPECT_EQ(loads[0 * 4 + 1] + loads[1 * 4 + 0] + loads[2 * 4 + 3] + loads[3 * 4 + 2], 0);
    EXPECT_GE(plan.throughput, 0.98 * BoundThroughput(links).rate);
  }
  const Status direct = MakePlan(links, {1e6, ScheduleKind::kDirect}).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(direct)) << direct;
  EXPECT_THAT(direct.message(), HasSubstr("no member has links to and from all others"));
  const Status equal = MakePlan(links, {1e6, ScheduleKind::kEqual}).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(equal)) << equal;
  EXPECT_THAT(equal.message(), HasSubstr("no link from 'member 0' to 'member 1'"));
  EXPECT_TRUE(absl::IsFailedPrecondition(
      MakePlan(links, {1e6, ScheduleKind::kAuto, /*order_stable=*/true}).status()));
}

TEST(Planner, OrderStablePlansAreMadeOfStars) {
  for (uint64_t seed = 0; seed < 10; ++seed) {
    const LinkMatrix links = RandomLinks(LinksKind::kUnevenPairs, 5, seed);
    EXPECT_TRUE(IsOrderStable(Plan(links, kHuge, ScheduleKind::kAuto, true))) << seed;
  }
}

TEST(Planner, SmallVectorsGoByTheStarOfTheLeastLatency) {
  LinkMatrix links = Lines({100, 100, 100, 100, 100}, 0.08);
  for (int i = 0; i < 5; ++i) links.delay(i, 3) = links.delay(3, i) = 0.02;
  const TreePlan plan = Plan(links, 1000);
  ASSERT_EQ(plan.trees.size(), 1);
  EXPECT_EQ(plan.trees[0].root, 3);
  EXPECT_TRUE(IsStar(plan.trees[0]));
  EXPECT_NEAR(plan.latency, 0.04, 1e-12);
  EXPECT_NEAR(Predict(plan, links, 1000).seconds, 0.04, 0.002);
  EXPECT_EQ(Predict(plan, links, 1000).bottleneck, "latency");
  EXPECT_GT(Plan(links, 64 * kMiB).trees.size(), 1);
}

TEST(Planner, NamesWhoCannotBeReached) {
  LinkMatrix links = Lines({100, 100, 100}, 0.01);
  links.names = {"johor", "oslo", "lagos"};
  links.down[1] = 0;
  Status status = MakePlan(links, {}).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("no way over the links to and from 'oslo':"));
  links = Lines({100, 100, 100}, 0.01);
  links.names = {"johor", "oslo", "lagos"};
  links.rate(0, 2) = links.rate(1, 2) = 0;  // lagos can send, nobody can send to it
  status = MakePlan(links, {}).status();
  EXPECT_THAT(status.message(), HasSubstr("to and from 'lagos':"));
}

TEST(Planner, RefusesNumbersThatCannotBe) {
  LinkMatrix links = Lines({100, 100}, 0.01);
  links.up[1] = -1;
  EXPECT_THAT(std::string(MakePlan(links, {}).status().message()), HasSubstr("of 'member 1'"));
  links = Lines({100, 100}, 0.01);
  links.rate(1, 0) = std::nan("");
  EXPECT_THAT(std::string(MakePlan(links, {}).status().message()),
              HasSubstr("from 'member 1' to 'member 0'"));
  links = Lines({100, 100}, 0.01);
  links.delay(0, 1) = kInfinity;
  EXPECT_TRUE(absl::IsInvalidArgument(MakePlan(links, {}).status()));
  links = Lines({100, 100}, 0.01);
  links.rates.pop_back();
  EXPECT_TRUE(absl::IsInvalidArgument(MakePlan(links, {}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(MakePlan(LinkMatrix(), {}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(MakePlan(Lines({1, 1}, 0), {std::nan("")}).status()));
}

TEST(Planner, WhereNothingIsKnownSharesAreEqualAndNobodyPaces) {
  LinkMatrix links(4);
  TreePlan plan = Plan(links, 64 * kMiB);
  EXPECT_EQ(plan.kind, ScheduleKind::kEqual);
  EXPECT_EQ(plan.throughput, 0);
  EXPECT_EQ(plan.trees.size(), 4);
  EXPECT_EQ(plan.chunk_bytes, 256 << 10);
  EXPECT_EQ(Predict(plan, links, 64 * kMiB).seconds, 0);
  EXPECT_EQ(LowerBound(links, 64 * kMiB).seconds, 0);
  // The limit of one pair leaves ways that have none.
  links.rate(0, 1) = 5;
  EXPECT_EQ(Plan(links, 64 * kMiB, ScheduleKind::kTrees).throughput, 0);
}

TEST(Planner, OneMemberNeedsNobody) {
  const LinkMatrix links = Lines({100}, 0);
  const TreePlan plan = Plan(links, 64 * kMiB);
  EXPECT_EQ(plan.trees.size(), 1);
  EXPECT_EQ(Predict(plan, links, 64 * kMiB).seconds, 0);
  EXPECT_EQ(LowerBound(links, 64 * kMiB).seconds, 0);
}

TEST(Planner, ChunksAreShortOnSlowLinksAndNeverTiny) {
  EXPECT_EQ(Plan(Lines({10000, 10000}, 0.01), kHuge).chunk_bytes, 256 << 10);
  EXPECT_EQ(Plan(Lines({1, 1}, 0.01), kHuge).chunk_bytes, 16 << 10);
  const TreePlan plan = Plan(Lines({50, 50}, 0.01), kHuge);
  EXPECT_EQ(plan.chunk_bytes % 1024, 0);
  EXPECT_NEAR(static_cast<double>(plan.chunk_bytes), 0.020 * 50 * kMbit, 1024);
}

TEST(Planner, LargeViewsArePlannedAsWell) {
  for (const LinksKind kind : {LinksKind::kLines, LinksKind::kLinesAndPairs}) {
    const LinkMatrix links = RandomLinks(kind, 40, 1);
    const TreePlan plan = Plan(links, kHuge);
    EXPECT_GE(plan.throughput, 0.95 * BoundThroughput(links).rate) << KindName(kind);
  }
  EXPECT_EQ(Plan(LinkMatrix(70), 1e6).trees.size(), 70);
  EXPECT_TRUE(
      absl::IsFailedPrecondition(MakePlan(LinkMatrix(70), {1e6, ScheduleKind::kTrees}).status()));
}

TEST(Predict, TwoMembersThatBothOwnNeedOneDelayOnly) {
  const LinkMatrix links = Lines({500, 500}, 0.04);
  TreePlan plan = Plan(links, 64 * kMiB, ScheduleKind::kEqual);
  const double line = 64 * kMiB / (500 * kMbit);
  // While contributions of the one half travel, those of the other keep the line busy.
  EXPECT_NEAR(Predict(plan, links, 64 * kMiB).seconds, line + 0.04, 1e-9);
  EXPECT_EQ(Predict(plan, links, 64 * kMiB).bottleneck, "up of 'member 0'");
  // With one owner results can only follow contributions: both delays, and a chunk's time.
  plan.trees = {plan.trees[0]};
  plan.trees[0].weight = 1;
  const double chunk = static_cast<double>(plan.chunk_bytes) / (500 * kMbit);
  EXPECT_NEAR(Predict(plan, links, 64 * kMiB).seconds, line + 0.08 + chunk, 1e-9);
}

TEST(Predict, APathPaysEveryHop) {
  const LinkMatrix links = Lines({100, 100, 100}, 0.03);
  TreePlan plan;
  plan.kind = ScheduleKind::kTrees;
  plan.trees = {{1, 0, {-1, 0, 1}, {-1, 0, 1}}};
  plan.chunk_bytes = 125000;  // 20 ms at the rate of a hop, half of the middle member's line
  const double bytes = 6.25e6;
  EXPECT_NEAR(Predict(plan, links, bytes).seconds, 1 + 4 * 0.03 + 3 * 0.020, 1e-9);
  EXPECT_EQ(Predict(plan, links, bytes).bottleneck, "up of 'member 1'");
}

TEST(Predict, OverALinkThatIsNoneItTakesForEver) {
  LinkMatrix links = Lines({100, 100}, 0.01);
  const TreePlan plan = EqualPlan(2);
  links.names = {"a", "b"};
  links.rate(0, 1) = 0;
  EXPECT_EQ(Predict(plan, links, 1).seconds, kInfinity);
  EXPECT_EQ(Predict(plan, links, 1).bottleneck, "pair 'a' -> 'b'");
}

TEST(LowerBound, IsTheLargestOfItsTerms) {
  LinkMatrix links = Lines({100, 100, 100}, 0.05);
  links.names = {"a", "b", "c"};
  EXPECT_EQ(LowerBound(links, kHuge).reason, "the sum of all ups");
  EXPECT_NEAR(BoundThroughput(links).rate, 75 * kMbit, 1e-6);
  links.down[2] = 20 * kMbit;
  EXPECT_EQ(LowerBound(links, kHuge).reason, "down of 'c'");
  EXPECT_EQ(LowerBound(links, 1).reason, "the delay from 'a' to 'b'");
  SetPair(links, 0, 1, 4);
  SetPair(links, 0, 2, 6);
  EXPECT_EQ(LowerBound(links, kHuge).reason, "the rates between the parts 'a' | 'b' 'c'");
  EXPECT_NEAR(BoundThroughput(links).rate, 10 * kMbit, 1e-6);
  links.rate(1, 0) = 1 * kMbit;
  EXPECT_EQ(LowerBound(links, kHuge).reason, "the rates between the parts 'b' 'c' | 'a', one way");
  EXPECT_NEAR(BoundThroughput(links).rate, 7 * kMbit, 1e-6);
}

// The formula in so many words, against the cuts.
TEST(LowerBound, OfPairsIsTheWorstOfAllPartitions) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    Draws draws(seed);
    const int n = 2 + draws.Below(5);
    const LinkMatrix links = RandomLinks(LinksKind::kUnevenPairs, n, seed);
    double least = kInfinity;
    std::vector<int> part(n, 0);
    const auto rate = [&](int p, int q) {
      double sum = 0;
      for (int i = 0; i < n; ++i) {
        for (int j = 0; j < n; ++j) {
          const bool counts = p < 0 ? part[i] != part[j] : part[i] == p && part[j] == q;
          sum += counts ? links.rate(i, j) : 0;
        }
      }
      return sum;
    };
    const auto choose = [&](auto&& self, int v, int parts) -> void {
      if (v < n) {
        for (int p = 0; p <= parts; ++p) {
          part[v] = p;
          self(self, v + 1, std::max(parts, p + 1));
        }
        return;
      }
      if (parts < 2) return;
      least = std::min(least, rate(-1, -1) / (2.0 * (parts - 1)));
      if (parts == 2) least = std::min({least, rate(0, 1), rate(1, 0)});
    };
    choose(choose, 0, 0);
    EXPECT_NEAR(BoundThroughput(links).rate, least, 1e-6 * least) << "seed " << seed;
  }
}

}  // namespace
}  // namespace atl::wan
