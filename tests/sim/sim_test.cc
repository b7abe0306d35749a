// The simulator itself: runs repeat, scenarios are read, and a broken promise is seen.
#include <gtest/gtest.h>

#include "tools/sim/promises.h"
#include "tools/sim/settings.h"
#include "tools/sim/world.h"

namespace atl::sim {
namespace {

TEST(Sim, ASeedRepeatsToTheLastEvent) {
  for (const uint64_t seed : {3, 17, 40}) {
    const Settings settings = DrawSettings(seed, 2, 5);
    World one(settings, false);
    World other(settings, false);
    const Outcome first = one.Run();
    const Outcome second = other.Run();
    EXPECT_EQ(first.events, second.events) << seed;
    EXPECT_EQ(first.made_up_seconds, second.made_up_seconds) << seed;
    EXPECT_EQ(first.transcript, second.transcript) << seed;
  }
}

TEST(Sim, AQuietRunCommitsAllRounds) {
  World world(QuietSettings(1, 4, 6), false);
  const Outcome outcome = world.Run();
  EXPECT_EQ(outcome.broken, "");
  EXPECT_EQ(outcome.rounds, 6);
}

std::map<std::string, int64_t> CountsOf(const std::string& scenario, uint64_t seeds) {
  std::map<std::string, int64_t> counts;
  for (uint64_t seed = 1; seed <= seeds; ++seed) {
    auto settings = ParseScenario(scenario);
    EXPECT_TRUE(settings.ok()) << settings.status();
    settings->seed = seed;
    const Outcome outcome = World(*settings, false).Run();
    EXPECT_EQ(outcome.broken, "") << seed;
    for (const auto& [what, count] : outcome.counts) counts[what] += count;
  }
  return counts;
}

constexpr char kLeases[] =
    "regions 4\nrounds 60\nstep_seconds 0.3\nclock_skew 5\n"
    "at 5 lease 1 for 30\nat 20 lease 2 for 45\nat 70 lease 3 for 25\n";

TEST(Sim, NoLeaseEndsInsideARound) {
  auto counts = CountsOf(kLeases, 60);
  EXPECT_GT(counts["core:lease_ends"], 100);
  EXPECT_EQ(counts["a lease ended inside a round"], 0);
}

TEST(Sim, NoLeaseEndsInsideARoundWhileTheOrchestratorIsAway) {
  auto counts = CountsOf(
      "regions 4\nrounds 60\nstep_seconds 0.3\nclock_skew 5\nat 5 lease 1 for 30\n"
      "at 20 orchestrator for 40\n",
      60);
  EXPECT_EQ(counts["exit 75"], 60);
  EXPECT_EQ(counts["a lease ended inside a round"], 0);
}

// What each broke is told by a test of the core or the agent (core_membership_test.cc,
// agent_membership_test.cc).
TEST(Sim, SeedsThatOnceBrokeAPromiseKeepIt) {
  const auto run = [](uint64_t seed, int least, int most) {
    World world(DrawSettings(seed, least, most), false);
    EXPECT_EQ(world.Run().broken, "") << seed << " with " << least << " to " << most << " regions";
  };
  for (const uint64_t seed : {2461, 3574, 5256, 5353, 5526, 6420, 6933, 7921, 8739}) {
    run(seed, 2, 6);
  }
  for (const uint64_t seed : {237, 1402, 1489, 2044, 2298, 4367, 5830, 7584, 4890, 5876})
    run(seed, 4, 4);
  for (const uint64_t seed : {12, 338}) run(seed, 7, 20);
  const auto run_slow = [](uint64_t seed, int least, int most) {
    Settings settings = DrawSettings(seed, least, most);
    DrawSlowness(&settings);
    World world(settings, false);
    EXPECT_EQ(world.Run().broken, "") << seed << " with slow regions";
  };
  for (const uint64_t seed : {5786, 7920, 8045}) run_slow(seed, 2, 6);
  run_slow(2594, 4, 4);
}

TEST(Sim, AScenarioIsReadLineByLine) {
  const auto settings = ParseScenario(
      "# two regions\nregions 2\nrounds 5\nloss 0.1\nat 3 crash 1 for 4\nat 7.5 cut 0 1 for 2\n");
  ASSERT_TRUE(settings.ok()) << settings.status();
  EXPECT_EQ(settings->regions, 2);
  EXPECT_EQ(settings->rounds, 5);
  ASSERT_EQ(settings->script.size(), 2);
  EXPECT_EQ(settings->script[0].kind, "crash");
  EXPECT_EQ(settings->script[0].seconds, 4);
  EXPECT_EQ(settings->script[1].b, 1);
}

TEST(Sim, AScenarioThatIsNoneIsRefused) {
  for (const char* text :
       {"regions", "regions x", "colour 3", "at crash", "at 3 cut 0 9\nregions 2", "regions 0",
        "at 3 crash 0 for", "rounds 0"}) {
    EXPECT_FALSE(ParseScenario(text).ok()) << text;
  }
}

RoundRecord Round(int64_t round, const std::string& digest) {
  RoundRecord record;
  record.round = round;
  record.digest = digest;
  return record;
}

SampleRecord Committed(int64_t round, std::vector<Range> samples) {
  SampleRecord record;
  record.round = round;
  record.samples = std::move(samples);
  record.state = SampleState::kCommitted;
  return record;
}

class PromisesTest : public testing::Test {
 protected:
  PromisesTest() : promises_("seed") {
    promises_.NoteState("one", {"seed", 1, {{0, 4}, {4, 8}}});
    promises_.NoteState("two", {"one", 2, {{8, 12}}});
    promises_.NoteState("other two", {"one", 2, {{0, 4}}});
    promises_.NoteState("stray", {"nobody", 2, {{8, 12}}});
  }
  Promises promises_;
};

TEST_F(PromisesTest, HoldWhereTheLedgerSaysTheTruth) {
  promises_.OnRecords({Committed(1, {{0, 4}}), Committed(1, {{4, 8}}), Round(1, "one")});
  promises_.OnRecords({Committed(2, {{8, 12}}), Round(2, "two")});
  promises_.CheckMember("a", "two", 2);
  EXPECT_EQ(promises_.broken(), "");
  EXPECT_EQ(promises_.Ancestor("two", 1), "one");
}

TEST_F(PromisesTest, BreakWhereSamplesAreNotThoseOfTheState) {
  promises_.OnRecords({Committed(1, {{0, 4}}), Round(1, "one")});
  EXPECT_EQ(promises_.broken().substr(0, 2), "P3");
}

TEST_F(PromisesTest, BreakWhereASampleIsCommittedTwice) {
  promises_.OnRecords({Committed(1, {{0, 8}}), Round(1, "one")});
  promises_.OnRecords({Committed(2, {{0, 4}}), Round(2, "other two")});
  EXPECT_EQ(promises_.broken().substr(0, 2), "P3");
}

TEST_F(PromisesTest, BreakWhereAStateHasAnotherPast) {
  promises_.OnRecords({Committed(1, {{0, 8}}), Round(1, "one")});
  promises_.OnRecords({Committed(2, {{8, 12}}), Round(2, "stray")});
  EXPECT_EQ(promises_.broken().substr(0, 2), "P2");
}

TEST_F(PromisesTest, BreakWhereAMemberHoldsSomethingElse) {
  promises_.OnRecords({Committed(1, {{0, 8}}), Round(1, "one")});
  promises_.OnRecords({Committed(2, {{8, 12}}), Round(2, "two")});
  promises_.CheckMember("a", "other two", 2);
  EXPECT_EQ(promises_.broken().substr(0, 2), "P1");
}

}  // namespace
}  // namespace atl::sim
