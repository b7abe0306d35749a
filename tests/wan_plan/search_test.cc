// The parts of the planner against brute force: arborescences, bounded trees, cuts, partitions,
// cycles, linear programs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <thread>

#include "collectives/wan/plan/arborescence.h"
#include "collectives/wan/plan/bounded_tree.h"
#include "collectives/wan/plan/linear_program.h"
#include "collectives/wan/plan/min_cut.h"
#include "collectives/wan/plan/packing.h"
#include "collectives/wan/plan/ring.h"
#include "collectives/wan/plan/tree_search.h"
#include "tests/wan_plan/draws.h"
#include "tests/wan_plan/random_links.h"

namespace atl::wan {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Calls `use` with the parents of every arborescence of n nodes.
void ForEachArborescence(int n, int root, const std::function<void(const std::vector<int>&)>& use) {
  std::vector<int> parent(n, 0);
  parent[root] = -1;
  const std::function<void(int)> choose = [&](int v) {
    if (v == root) return choose(v + 1);
    if (v >= n) {
      for (int i = 0; i < n; ++i) {
        int at = i;
        for (int steps = 0; at != root; ++steps) {
          if (steps >= n) return;
          at = parent[at];
        }
      }
      return use(parent);
    }
    for (int u = 0; u < n; ++u) {
      if (u == v) continue;
      parent[v] = u;
      choose(v + 1);
    }
  };
  choose(0);
}

double CostOf(const std::vector<double>& cost, const std::vector<int>& parent) {
  const int n = static_cast<int>(parent.size());
  double sum = 0;
  for (int v = 0; v < n; ++v) sum += parent[v] >= 0 ? cost[parent[v] * n + v] : 0;
  return sum;
}

double LongestWay(const std::vector<double>& length, const std::vector<int>& parent) {
  const int n = static_cast<int>(parent.size());
  double longest = 0;
  for (int v = 0; v < n; ++v) {
    double way = 0;
    for (int at = v; parent[at] >= 0; at = parent[at]) way += length[parent[at] * n + at];
    longest = std::max(longest, way);
  }
  return longest;
}

std::vector<double> RandomCosts(Draws& draws, int n, double missing) {
  std::vector<double> cost(n * n);
  for (double& c : cost) {
    // Whole numbers, so that many trees cost the same.
    c = draws.Chance(missing) ? kInfinity : draws.Below(8);
  }
  return cost;
}

TEST(Arborescence, CostsTheLeastOfAll) {
  for (uint64_t seed = 0; seed < 400; ++seed) {
    Draws draws(seed);
    const int n = 1 + draws.Below(5);
    const int root = draws.Below(n);
    const std::vector<double> cost = RandomCosts(draws, n, 0.3);
    double least = kInfinity;
    ForEachArborescence(n, root,
                        [&](const auto& parent) { least = std::min(least, CostOf(cost, parent)); });
    const std::vector<int> found = CheapestArborescence(cost, n, root);
    if (least == kInfinity) {
      EXPECT_TRUE(found.empty()) << "seed " << seed;
      continue;
    }
    ASSERT_EQ(static_cast<int>(found.size()), n) << "seed " << seed;
    TreePlan plan;
    plan.trees = {{1, root, found, found}};
    EXPECT_EQ(CheckPlan(plan, n), OkStatus()) << "seed " << seed;
    EXPECT_EQ(CostOf(cost, found), least) << "seed " << seed;
  }
}

TEST(BoundedTree, StaysWithinTheRadiusAndFindsATreeWhenThereIsOne) {
  int exact = 0;
  int trees = 0;
  for (uint64_t seed = 0; seed < 400; ++seed) {
    Draws draws(seed);
    const int n = 2 + draws.Below(4);
    const int root = draws.Below(n);
    const std::vector<double> cost = RandomCosts(draws, n, 0.2);
    std::vector<double> length(n * n);
    for (double& l : length) l = draws.Uniform(1, 10);
    const double radius = draws.Uniform(3, 15);
    double least = kInfinity;
    ForEachArborescence(n, root, [&](const auto& parent) {
      if (LongestWay(length, parent) <= radius) least = std::min(least, CostOf(cost, parent));
    });
    const std::vector<int> found = BoundedTree(cost, length, n, root, radius);
    EXPECT_EQ(found.empty(), least == kInfinity) << "seed " << seed;
    if (found.empty()) continue;
    EXPECT_LE(LongestWay(length, found), radius * (1 + 1e-9)) << "seed " << seed;
    ++trees;
    if (CostOf(cost, found) <= least) ++exact;
  }
  // It is a heuristic, but of few nodes it mostly finds the best.
  EXPECT_GT(exact, trees * 2 / 3);
}

TEST(MinCut, SeparatesForTheLeastCapacity) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    Draws draws(seed);
    const int n = 2 + draws.Below(5);
    std::vector<double> capacity(n * n);
    for (double& c : capacity) c = draws.Chance(0.3) ? 0 : draws.Uniform(0, 10);
    const Cut cut = MinCut(capacity, n, 0, n - 1);
    const auto across = [&](const std::function<bool(int)>& near) {
      double sum = 0;
      for (int u = 0; u < n; ++u) {
        for (int v = 0; v < n; ++v) sum += near(u) && !near(v) ? capacity[u * n + v] : 0;
      }
      return sum;
    };
    double least = kInfinity;
    for (int set = 0; set < 1 << n; ++set) {
      if ((set & 1) == 0 || (set >> (n - 1) & 1) == 1) continue;
      least = std::min(least, across([&](int v) { return (set >> v & 1) == 1; }));
    }
    EXPECT_NEAR(cut.capacity, least, 1e-9) << "seed " << seed;
    EXPECT_NEAR(across([&](int v) { return cut.near[v]; }), least, 1e-9) << "seed " << seed;
  }
}

// Calls `use` with every way to part n nodes (part by node, number of parts).
void ForEachPartition(int n, const std::function<void(const std::vector<int>&, int)>& use) {
  std::vector<int> part(n, 0);
  const std::function<void(int, int)> choose = [&](int v, int parts) {
    if (v == n) return use(part, parts);
    for (int p = 0; p <= parts; ++p) {
      part[v] = p;
      choose(v + 1, std::max(parts, p + 1));
    }
  };
  choose(0, 0);
}

TEST(WeakestPartition, IsTheWeakestOfAll) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    Draws draws(seed);
    const int n = 1 + draws.Below(8);
    std::vector<double> capacity(n * n, 0.0);
    for (int u = 0; u < n; ++u) {
      for (int v = 0; v < u; ++v) {
        const double kind = draws.Uniform(0, 1);
        const double c = kind < 0.1   ? kInfinity
                         : kind < 0.3 ? 0
                         : kind < 0.6 ? draws.Below(4)
                                      : draws.LogUniform(0.1, 10);
        capacity[u * n + v] = capacity[v * n + u] = c;
      }
    }
    const auto strength = [&](const std::vector<int>& part, int parts) {
      double between = 0;
      for (int u = 0; u < n; ++u) {
        for (int v = 0; v < u; ++v) between += part[u] != part[v] ? capacity[u * n + v] : 0;
      }
      return between / (parts - 1);
    };
    double least = kInfinity;
    ForEachPartition(n, [&](const auto& part, int parts) {
      if (parts > 1) least = std::min(least, strength(part, parts));
    });
    const Partition found = WeakestPartition(capacity, n);
    if (least == kInfinity) {
      EXPECT_EQ(found.strength, kInfinity) << "seed " << seed;
      EXPECT_EQ(found.parts, 1);
      continue;
    }
    EXPECT_NEAR(found.strength, least, 1e-9 * (1 + least)) << "seed " << seed;
    EXPECT_NEAR(strength(found.part, found.parts), least, 1e-9 * (1 + least)) << "seed " << seed;
  }
}

TEST(Ring, BeyondExactSizesTheCycleIsNearlyTheBest) {
  int best_found = 0;
  constexpr int kSeeds = 6;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const LinkMatrix links = RandomLinks(LinksKind::kUnevenPairs, 9, seed);
    const auto slowest = [&](const std::vector<int>& cycle) {
      double rate = kInfinity;
      for (size_t i = 0; i < cycle.size(); ++i) {
        rate = std::min(rate, links.rate(cycle[i], cycle[(i + 1) % cycle.size()]));
      }
      return rate;
    };
    std::vector<int> cycle = {0, 1, 2, 3, 4, 5, 6, 7, 8};
    double best = 0;
    do {
      best = std::max(best, slowest(cycle));
    } while (std::next_permutation(cycle.begin() + 1, cycle.end()));
    const std::vector<int> found = BestCycle(links);
    std::vector<int> sorted = found;
    std::sort(sorted.begin(), sorted.end());
    EXPECT_EQ(sorted, (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7, 8}));
    EXPECT_GE(slowest(found), best / 2) << "seed " << seed;
    if (slowest(found) == best) ++best_found;
  }
  EXPECT_GE(best_found, kSeeds / 2);
}

TEST(Ring, APathFromEachMemberLoadsEveryHopAlike) {
  TreePlan plan;
  plan.kind = ScheduleKind::kRing;
  plan.trees = RingTrees({0, 2, 1, 3});
  EXPECT_EQ(CheckPlan(plan, 4), OkStatus());
  const std::vector<double> loads = EdgeLoads(plan);
  for (const auto& [from, to] : {std::pair(0, 2), {2, 1}, {1, 3}, {3, 0}}) {
    EXPECT_DOUBLE_EQ(loads[from * 4 + to], 1.5) << "2 (N-1)/N";
  }
  EXPECT_DOUBLE_EQ(loads[2 * 4 + 0], 0);
}

TEST(LinearProgram, GrowsByColumnsAndByRows) {
  LinearProgram program;
  const int a = program.AddColumn(3);
  const int b = program.AddColumn(2);
  program.AddRow(4, {{a, 1}, {b, 1}});
  program.AddRow(2, {{a, 1}});
  ASSERT_EQ(program.Solve(), OkStatus());
  EXPECT_DOUBLE_EQ(program.value(), 10);
  EXPECT_DOUBLE_EQ(program.price(0), 2);
  EXPECT_DOUBLE_EQ(program.price(1), 1);
  const int c = program.AddColumn(5, {{0, 1}});
  ASSERT_EQ(program.Solve(), OkStatus());
  EXPECT_DOUBLE_EQ(program.value(), 20);
  EXPECT_DOUBLE_EQ(program.x(c), 4);
  program.AddRow(1, {{c, 2}});
  ASSERT_EQ(program.Solve(), OkStatus());
  EXPECT_DOUBLE_EQ(program.value(), 2.5 + 2 * 3 + 1.5 * 2);
  program.Allow(a, false);
  ASSERT_EQ(program.Solve(), OkStatus());
  EXPECT_DOUBLE_EQ(program.value(), 2.5 + 3.5 * 2);
}

TEST(LinearProgram, ThreadsDoNotMeetAndLeaveNothing) {
  std::vector<std::thread> threads;
  std::vector<double> values(4, 0.0);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&values, t] {
      for (int turn = 0; turn < 50; ++turn) {
        LinearProgram program;
        program.AddColumn(1);
        program.AddRow(t + 1, {{0, 1}});
        if (program.Solve().ok()) values[t] += program.value();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int t = 0; t < 4; ++t) EXPECT_DOUBLE_EQ(values[t], 50.0 * (t + 1));
}

TEST(LinearProgram, SaysThatNothingLimitsAColumn) {
  LinearProgram program;
  program.AddColumn(1);
  program.AddRow(1, {});
  EXPECT_TRUE(absl::IsInternal(program.Solve()));
}

// The value of the best weights over all trees there are (every pair of arborescences of a root) is
// what the search finds and proves without having seen them all.
TEST(TreeSearch, FindsWhatAllTreesTogetherCarry) {
  for (const LinksKind kind : kAllLinksKinds) {
    for (uint64_t seed = 0; seed < 6; ++seed) {
      const int n = seed < 2 ? 3 : 4;
      const LinkMatrix links = RandomLinks(kind, n, seed);
      const double most = 10000 * kMbit;
      Packing all(links, most);
      for (int root = 0; root < n; ++root) {
        ForEachArborescence(n, root, [&](const auto& reduce) {
          ForEachArborescence(n, root, [&](const auto& broadcast) {
            all.Add({1, root, reduce, broadcast});
          });
        });
      }
      EXPECT_EQ(all.columns().size(), n == 3 ? 27 : 1024);
      const StatusOr<Proof> expected = Generate(all, 0, 1);
      ASSERT_TRUE(expected.ok()) << expected.status();

      Packing some(links, most);
      Explore(some, kInfinity, 20);
      const StatusOr<Proof> found = Generate(some, 1e-6, 1000);
      ASSERT_TRUE(found.ok()) << found.status();
      EXPECT_NEAR(found->value, expected->value, 1e-5 * expected->value)
          << KindName(kind) << ", seed " << seed;
      EXPECT_GE(found->bound, expected->value * (1 - 1e-9));
      EXPECT_LT(some.columns().size(), 200);
    }
  }
}

}  // namespace
}  // namespace atl::wan
