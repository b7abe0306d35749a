// Samples are committed in order, each once.
#include "orchestrator/core/ledger.h"

#include <gtest/gtest.h>

namespace atl {
namespace {

Ledger::Entry Of(const std::string& region, int64_t begin, int64_t end) {
  Ledger::Entry entry;
  entry.region = region;
  entry.samples = {{begin, end}};
  return entry;
}

TEST(Ledger, CommitsARoundWhenAllOfItIsDone) {
  Ledger ledger(SamplePool({}, 100), 6);
  ledger.Assign({Of("a", 100, 110), Of("b", 110, 120)});
  EXPECT_TRUE(*ledger.MarkDone(6, "b", {Range{110, 120}}));
  EXPECT_FALSE(*ledger.MarkDone(6, "b", {Range{110, 120}})) << "a repeated report is not new";
  EXPECT_FALSE(ledger.AllDone(6));
  EXPECT_TRUE(*ledger.MarkDone(6, "a", {Range{100, 110}}));
  ASSERT_TRUE(ledger.AllDone(6));
  EXPECT_EQ(ledger.Commit().size(), 2);
  EXPECT_EQ(ledger.pool().next(), 120);
  EXPECT_EQ(ledger.next_round(), 7);
}

TEST(Ledger, LetsARegionRunAhead) {
  Ledger ledger(SamplePool(), 1);
  ledger.Assign({Of("a", 0, 5), Of("b", 5, 10)});
  ledger.Assign({Of("a", 10, 15), Of("b", 15, 20)});
  EXPECT_TRUE(*ledger.MarkDone(1, "a", {Range{0, 5}}));
  EXPECT_TRUE(*ledger.MarkDone(2, "a", {Range{10, 15}}));
  EXPECT_TRUE(*ledger.MarkDone(2, "b", {Range{15, 20}}));
  EXPECT_FALSE(ledger.AllDone(ledger.next_round()));
  EXPECT_TRUE(*ledger.MarkDone(1, "b", {Range{5, 10}}));
  ledger.Commit();
  ledger.Commit();
  EXPECT_EQ(ledger.pool().next(), 20);
}

TEST(Ledger, RefusesSamplesThatWereNotAssigned) {
  Ledger ledger(SamplePool(), 1);
  ledger.Assign({Of("a", 0, 5)});
  EXPECT_FALSE(ledger.MarkDone(1, "a", {Range{0, 6}}).ok());
  EXPECT_FALSE(ledger.MarkDone(1, "b", {Range{0, 5}}).ok());
  EXPECT_FALSE(ledger.MarkDone(2, "a", {Range{5, 10}}).ok());
  EXPECT_TRUE(ledger.MarkDone(1, "a", {Range{0, 5}}).ok());
}

TEST(Ledger, TakesBackWhatIsNotCommitted) {
  Ledger ledger(SamplePool(), 1);
  ledger.Assign({Of("a", 0, 5)});
  ledger.Assign({Of("a", 5, 10)});
  EXPECT_TRUE(ledger.MarkDone(1, "a", {Range{0, 5}}).ok());
  ledger.Commit();
  const auto returned = ledger.ReturnFrom(2);
  ASSERT_EQ(returned.size(), 1);
  EXPECT_EQ(returned[0].first, 2);
  EXPECT_EQ(returned[0].second.samples, (std::vector<Range>{{5, 10}}));
  EXPECT_EQ(returned[0].second.state, SampleState::kReturned);
  EXPECT_EQ(ledger.pool().next(), 5);
}

TEST(Ledger, TakesOutOfTurnWhatTheViewGives) {
  Ledger ledger(SamplePool(), 1);
  ledger.Assign({Of("a", 5, 10)});
  EXPECT_EQ(ledger.pool(), SamplePool({{0, 5}}, 10));
  ledger.Assign({Of("b", 1, 3)});
  EXPECT_EQ(ledger.pool(), SamplePool({{0, 1}, {3, 5}}, 10));
}

TEST(Ledger, AShortContributionGivesTheRestBack) {
  Ledger ledger(SamplePool(), 1);
  ledger.Assign({Of("a", 0, 6), Of("b", 6, 12)});
  EXPECT_TRUE(ledger.Shorten(1, "a", 2));
  EXPECT_FALSE(ledger.Shorten(1, "a", 2)) << "said again";
  EXPECT_EQ(ledger.pool(), SamplePool({{2, 6}}, 12));
  EXPECT_TRUE(ledger.MarkDone(1, "a", {Range{0, 2}}).ok());
}

TEST(Ledger, WhatIsPostponedIsTheNextRoundsAndWhatThatGaveGoesBack) {
  Ledger ledger(SamplePool(), 1);
  ledger.Assign({Of("a", 0, 6), Of("b", 6, 12)});
  ledger.Assign({Of("a", 12, 18), Of("b", 18, 24)});
  EXPECT_TRUE(ledger.Postpone(1, "b"));
  EXPECT_FALSE(ledger.Postpone(1, "b")) << "said again";
  EXPECT_EQ(ledger.pool(), SamplePool({}, 18)) << "[18, 24) is what comes next";
  EXPECT_TRUE(*ledger.MarkDone(1, "a", {Range{0, 6}}));
  EXPECT_FALSE(ledger.AllDone(1)) << "b holds the result too";
  EXPECT_TRUE(*ledger.MarkDone(1, "b", {}));
  ASSERT_TRUE(ledger.AllDone(1));
  ledger.Commit();
  EXPECT_TRUE(*ledger.MarkDone(2, "b", {Range{6, 12}}));
}

TEST(Ledger, WhoIsExcusedIsNotAwaited) {
  Ledger ledger(SamplePool(), 1);
  ledger.Assign({Of("a", 0, 6), Of("b", 6, 12)});
  EXPECT_TRUE(*ledger.MarkDone(1, "a", {Range{0, 6}}));
  ledger.Excuse("b");
  ASSERT_TRUE(ledger.AllDone(1));
  EXPECT_EQ(ledger.Commit().size(), 2) << "its samples are in the result all the same";
}

TEST(LedgerDeathTest, TheSameSamplesTwiceAreAProgrammerError) {
  Ledger ledger(SamplePool(), 1);
  ledger.Assign({Of("a", 0, 5)});
  EXPECT_DEATH(ledger.Assign({Of("a", 1, 5)}), "");
}

}  // namespace
}  // namespace atl
