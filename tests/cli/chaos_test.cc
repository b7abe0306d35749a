// The plan of `atoll chaos`, and that its checks find what is broken.
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "cli/chaos_check.h"
#include "cli/chaos_faults.h"
#include "orchestrator/store/database.h"
#include "orchestrator/store/store.h"
#include "proto/membership.pb.h"

namespace atl {
namespace {

TEST(FaultPlan, TheSameSeedGivesTheSameFaultsAndEveryKindComesInTurn) {
  const std::vector<std::string> names = {"a", "b", "c", "d"};
  const auto text = [&](uint64_t seed) {
    std::string all;
    for (const ChaosFault& fault : PlanFaults(seed, 20, 4, 100, *FaultKindsFromText(""))) {
      EXPECT_NE(fault.region, fault.other);
      EXPECT_LT(fault.round, 100);
      absl::StrAppend(&all, fault.round, " ", fault.Text(names), "\n");
    }
    return all;
  };
  EXPECT_EQ(text(7), text(7));
  EXPECT_NE(text(7), text(8));
  std::set<FaultKind> kinds;
  for (const ChaosFault& fault : PlanFaults(7, kDrawnFaultKinds, 4, 100, *FaultKindsFromText(""))) {
    kinds.insert(fault.kind);
  }
  EXPECT_EQ(kinds.size(), static_cast<size_t>(kDrawnFaultKinds));
  EXPECT_FALSE(kinds.contains(FaultKind::kBlackHole));
}

TEST(FaultPlan, HasOnlyTheKindsThatAreNamed) {
  const auto kinds = FaultKindsFromText("kill,black hole");
  ASSERT_TRUE(kinds.ok()) << kinds.status();
  int holes = 0;
  for (const ChaosFault& fault : PlanFaults(7, 10, 4, 100, *kinds)) {
    const bool hole = fault.kind == FaultKind::kBlackHole;
    holes += hole ? 1 : 0;
    EXPECT_TRUE(hole || fault.kind == FaultKind::kKillRegion);
    EXPECT_EQ(fault.seconds > 0, hole);
  }
  EXPECT_EQ(holes, 5);
  EXPECT_FALSE(FaultKindsFromText("kill,flood").ok());
  EXPECT_FALSE(FaultKindsFromText("kill,").ok());
}

// A run directory of a job of two rounds with 12 samples each, by two regions.
class ChaosCheck : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = testing::TempDir() + "/chaos_check_" +
                 testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(directory_);
    ASSERT_TRUE(MakeDirectories(directory_).ok());
    { ASSERT_TRUE(Store::Open(directory_ + "/atoll.db").ok()); }
    ASSERT_TRUE(WriteFileAtomically(directory_ + "/summary.json",
                                    R"({"state": "done", "rounds_total": 2, "digest": "ab"})")
                    .ok());
    Do("INSERT INTO views VALUES(1, 0, x'', '{}')");
    for (int round = 1; round <= 2; ++round) {
      Do(absl::StrCat("INSERT INTO rounds(view, round, digest) VALUES(1, ", round, ", 'ab')"));
      const int first = 12 * (round - 1);
      Do(absl::StrCat("INSERT INTO samples(view, round, region, first, end, state) VALUES(1, ",
                      round, ", 'johor', ", first, ", ", first + 6, ", 2), (1, ", round,
                      ", 'oslo', ", first + 6, ", ", first + 12, ", 2)"));
    }
    pb::LedgerState ledger;
    ledger.set_next_round(3);
    ledger.set_next_sample(24);
    auto database = Database::Open(directory_ + "/atoll.db");
    ASSERT_TRUE(database.ok());
    auto statement = (*database)->Prepare("INSERT INTO ledger VALUES(1, ?)");
    ASSERT_TRUE(statement.ok());
    ASSERT_TRUE(statement->BindBlob(ledger.SerializeAsString()).Run().ok());
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  void Do(const std::string& sql) {
    auto database = Database::Open(directory_ + "/atoll.db");
    ASSERT_TRUE(database.ok());
    const Status status = (*database)->Execute(sql);
    ASSERT_TRUE(status.ok()) << status;
  }

  // What is broken beside the checkpoints, of which this job has none.
  std::vector<std::string> Broken() {
    const auto verdict = CheckChaos(directory_);
    EXPECT_TRUE(verdict.ok()) << verdict.status();
    std::vector<std::string> broken = verdict->broken;
    std::erase_if(broken, [](const std::string& text) {
      return text.find("no region has saved") != std::string::npos;
    });
    EXPECT_EQ(broken.size() + 1, verdict->broken.size());
    return broken;
  }

  std::string directory_;
};

TEST_F(ChaosCheck, AnExactLedgerIsFoundExact) { EXPECT_TRUE(Broken().empty()); }

TEST_F(ChaosCheck, ASampleThatCountsTwiceIsFound) {
  Do("UPDATE samples SET first = first - 1 WHERE round = 2 AND region = 'johor'");
  ASSERT_EQ(Broken().size(), 1u);
  EXPECT_NE(Broken()[0].find("counts twice"), std::string::npos) << Broken()[0];
}

TEST_F(ChaosCheck, ASampleThatWasSkippedIsFound) {
  Do("UPDATE samples SET end = end - 1 WHERE round = 1 AND region = 'oslo'");
  ASSERT_EQ(Broken().size(), 1u);
  EXPECT_EQ(Broken()[0], "sample 11 was skipped");
}

TEST_F(ChaosCheck, ARoundThatIsMissingIsFound) {
  Do("DELETE FROM rounds WHERE round = 1");
  EXPECT_FALSE(Broken().empty());
}

TEST_F(ChaosCheck, AJobThatIsNotDoneIsFound) {
  ASSERT_TRUE(WriteFileAtomically(directory_ + "/summary.json",
                                  R"({"state": "failed", "rounds_total": 2, "digest": "ab"})")
                  .ok());
  EXPECT_FALSE(Broken().empty());
}

}  // namespace
}  // namespace atl
