// Samples are committed in order, each once.
#include "orchestrator/core/ledger.h"

#include <gtest/gtest.h>

namespace atl {
namespace {

Ledger::Entry Of(const std::string& region, int64_t begin, int64_t end) {
  return {region, {begin, end}, SampleState::kAssigned};
}

TEST(Ledger, CommitsARoundWhenAllOfItIsDone) {
  Ledger ledger(100, 6);
  ledger.Assign({Of("a", 100, 110), Of("b", 110, 120)});
  EXPECT_TRUE(*ledger.MarkDone(6, "b", {110, 120}));
  EXPECT_FALSE(*ledger.MarkDone(6, "b", {110, 120})) << "a repeated report is not new";
  EXPECT_FALSE(ledger.AllDone(6));
  EXPECT_TRUE(*ledger.MarkDone(6, "a", {100, 110}));
  ASSERT_TRUE(ledger.AllDone(6));
  EXPECT_EQ(ledger.Commit().size(), 2);
  EXPECT_EQ(ledger.cursor(), 120);
  EXPECT_EQ(ledger.next_round(), 7);
}

TEST(Ledger, LetsARegionRunAhead) {
  Ledger ledger(0, 1);
  ledger.Assign({Of("a", 0, 5), Of("b", 5, 10)});
  ledger.Assign({Of("a", 10, 15), Of("b", 15, 20)});
  EXPECT_TRUE(*ledger.MarkDone(1, "a", {0, 5}));
  EXPECT_TRUE(*ledger.MarkDone(2, "a", {10, 15}));
  EXPECT_TRUE(*ledger.MarkDone(2, "b", {15, 20}));
  EXPECT_FALSE(ledger.AllDone(ledger.next_round()));
  EXPECT_TRUE(*ledger.MarkDone(1, "b", {5, 10}));
  ledger.Commit();
  ledger.Commit();
  EXPECT_EQ(ledger.cursor(), 20);
}

TEST(Ledger, RefusesSamplesThatWereNotAssigned) {
  Ledger ledger(0, 1);
  ledger.Assign({Of("a", 0, 5)});
  EXPECT_FALSE(ledger.MarkDone(1, "a", {0, 6}).ok());
  EXPECT_FALSE(ledger.MarkDone(1, "b", {0, 5}).ok());
  EXPECT_FALSE(ledger.MarkDone(2, "a", {5, 10}).ok());
  EXPECT_TRUE(ledger.MarkDone(1, "a", {0, 5}).ok());
}

TEST(Ledger, TakesBackWhatIsNotCommitted) {
  Ledger ledger(0, 1);
  ledger.Assign({Of("a", 0, 5)});
  ledger.Assign({Of("a", 5, 10)});
  EXPECT_TRUE(ledger.MarkDone(1, "a", {0, 5}).ok());
  ledger.Commit();
  const auto returned = ledger.ReturnRest();
  ASSERT_EQ(returned.size(), 1);
  EXPECT_EQ(returned[0].first, 2);
  EXPECT_EQ(returned[0].second.samples, (Range{5, 10}));
  EXPECT_EQ(returned[0].second.state, SampleState::kReturned);
  EXPECT_EQ(ledger.cursor(), 5);
}

TEST(LedgerDeathTest, AGapIsAProgrammerError) {
  Ledger ledger(0, 1);
  EXPECT_DEATH(ledger.Assign({Of("a", 1, 5)}), "gap");
}

}  // namespace
}  // namespace atl
