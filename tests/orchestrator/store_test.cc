// Records survive in SQLite.
#include "orchestrator/store/store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "absl/strings/str_cat.h"

namespace atl {
namespace {

using ::testing::ElementsAre;

class StoreTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = testing::TempDir() + "/store_test." + std::to_string(getpid());
    std::filesystem::create_directories(directory_);
    Reopen();
  }
  void TearDown() override {
    store_.reset();
    std::filesystem::remove_all(directory_);
  }
  void Reopen() {
    store_.reset();
    auto store = Store::Open(directory_ + "/atoll.db");
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  void Apply(const std::vector<Record>& records) {
    const Status status = store_->Apply(records);
    ASSERT_TRUE(status.ok()) << status;
  }

  std::string directory_;
  std::unique_ptr<Store> store_;
};

ViewRecord View(int64_t id) {
  ViewRecord record;
  record.view.set_id(id);
  record.view.set_key(std::string(32, '\0'));
  record.checkpoints["a"] = "/x/\"y\"";
  return record;
}

RoundRecord Round(int64_t view, int64_t round, const std::string& digest = "") {
  RoundRecord record;
  record.view = view;
  record.round = round;
  record.digest = digest.empty() ? absl::StrCat("d", round) : digest;
  record.train_loss = 2.5;
  record.tokens_total = round * 10;
  return record;
}

SampleRecord Sample(int64_t view, int64_t round, SampleState state) {
  SampleRecord record{view, round, "a", {{round * 10, round * 10 + 10}}, state, {}};
  if (state == SampleState::kDone) {
    record.report.emplace().set_tokens(160);
    record.report->set_wan_bytes_sent(7);
  }
  return record;
}

std::vector<int64_t> Rounds(Store& store) {
  std::vector<int64_t> rounds;
  EXPECT_TRUE(store.ForEachRound([&](const RoundRecord& r) { rounds.push_back(r.round); }).ok());
  return rounds;
}

TEST_F(StoreTest, KeepsItsFilesPrivate) {
  Apply({View(1)});
  for (const char* name : {"atoll.db", "atoll.db-wal", "atoll.db-shm"}) {
    struct stat info;
    ASSERT_EQ(stat(absl::StrCat(directory_, "/", name).c_str(), &info), 0) << name;
    EXPECT_EQ(info.st_mode & 0777, 0600) << name;
  }
}

TEST_F(StoreTest, ReturnsWhatWasApplied) {
  JobRecord job;
  job.run = 3;
  job.state = "training";
  job.dataset_fingerprint = ~uint64_t{0};
  job.resumed_sample = 77;
  job.job.set_name("n");
  RegionRecord region;
  region.name = "a";
  region.state = "training";
  region.attempt = "x";
  region.next_sequence = 9;
  region.phases.set_wan(1.5);
  region.ready.emplace().add_gateways("h:1");
  EventRecord event{
      5, 1.5, "kind", "a", 4, "text \"quoted\" \xff", {{"n", int64_t{1}}, {"x", 0.5}, {"s", "t"}}};
  Apply({job, region, View(2), Round(2, 1), Sample(2, 1, SampleState::kDone), event});
  region.ready.reset();
  region.state = "left";
  Apply({region});
  Reopen();

  const auto loaded = store_->Job();
  ASSERT_TRUE(loaded.ok() && loaded->has_value());
  EXPECT_EQ((*loaded)->run, 3);
  EXPECT_EQ((*loaded)->dataset_fingerprint, ~uint64_t{0});
  EXPECT_EQ((*loaded)->resumed_sample, 77);
  EXPECT_EQ((*loaded)->job.name(), "n");
  const auto regions = store_->Regions();
  ASSERT_TRUE(regions.ok());
  ASSERT_EQ(regions->size(), 1);
  EXPECT_EQ((*regions)[0].state, "left");
  EXPECT_EQ((*regions)[0].next_sequence, 9);
  EXPECT_EQ((*regions)[0].phases.wan(), 1.5);
  ASSERT_TRUE((*regions)[0].ready) << "an update without it keeps it";
  EXPECT_EQ((*regions)[0].ready->gateways(0), "h:1");
  const auto view = store_->LastView();
  ASSERT_TRUE(view.ok() && view->has_value());
  EXPECT_EQ((*view)->view.key(), std::string(32, '\0'));
  EXPECT_EQ((*view)->checkpoints.at("a"), "/x/\"y\"");
  const auto samples = store_->Samples(2);
  ASSERT_TRUE(samples.ok());
  ASSERT_EQ(samples->size(), 1);
  EXPECT_EQ((*samples)[0].report->tokens(), 160);
  int events = 0;
  ASSERT_TRUE(store_
                  ->ForEachEvent([&](const EventRecord& e) {
                    ++events;
                    EXPECT_EQ(e.number, 5);
                    EXPECT_EQ(e.details, event.details);
                    EXPECT_EQ(e.text, event.text);
                  })
                  .ok());
  EXPECT_EQ(events, 1);
  const auto history = store_->LoadHistory();
  ASSERT_TRUE(history.ok());
  EXPECT_EQ(history->run, 3);
  EXPECT_EQ(history->last_event, 5);
  EXPECT_EQ(history->last_view, 2);
  EXPECT_EQ(history->last_round, 1);
}

TEST_F(StoreTest, AnEmptyOneHasNoHistory) {
  const auto history = store_->LoadHistory();
  ASSERT_TRUE(history.ok());
  EXPECT_EQ(history->run, 0);
  EXPECT_EQ(history->last_round, 0);
  EXPECT_FALSE(store_->Job()->has_value());
}

TEST_F(StoreTest, ApplyingAStepTwiceChangesNothing) {
  const std::vector<Record> step = {View(1), Sample(1, 1, SampleState::kDone), Round(1, 1)};
  Apply(step);
  Apply(step);
  EXPECT_THAT(Rounds(*store_), ElementsAre(1));
}

TEST_F(StoreTest, AStepThatFailsLeavesNothing) {
  // A round of a view that is not there breaks a foreign key.
  EXPECT_FALSE(store_->Apply({View(1), Round(1, 1), Round(9, 1)}).ok());
  EXPECT_TRUE(Rounds(*store_).empty());
  Apply({View(1), Round(1, 1)});
  EXPECT_THAT(Rounds(*store_), ElementsAre(1));
}

TEST_F(StoreTest, TotalsCountCommittedSamplesOnce) {
  Apply({View(1), Sample(1, 1, SampleState::kDone), Sample(1, 2, SampleState::kDone),
         Sample(1, 1, SampleState::kCommitted), Sample(1, 2, SampleState::kReturned)});
  EXPECT_EQ((*store_->Totals())["a"].tokens, 160);
  EXPECT_EQ((*store_->Totals())["a"].wan_bytes_sent, 7);
}

TEST_F(StoreTest, RoundsAfterTheResumePointAreSuperseded) {
  std::vector<Record> records = {View(1)};
  for (int64_t round = 1; round <= 5; ++round) {
    records.push_back(Sample(1, round, SampleState::kDone));
    records.push_back(Sample(1, round, SampleState::kCommitted));
    records.push_back(Round(1, round));
    records.push_back(EvaluationRecord{1, round, "", 1.0 * round, 1});
  }
  Apply(records);
  Apply({SupersedeRecord{3, "d3"}, View(2), Round(2, 4)});
  EXPECT_THAT(Rounds(*store_), ElementsAre(1, 2, 3, 4));
  EXPECT_EQ((*store_->Totals())["a"].tokens, 3 * 160);
  EXPECT_EQ(store_->Evaluations()->back().round, 3);
  EXPECT_EQ(store_->LoadHistory()->last_round, 4);
}

TEST_F(StoreTest, AHistoryThatDoesNotLeadToTheResumePointIsSupersededAsAWhole) {
  Apply({View(1), Round(1, 1), Round(1, 2)});
  Apply({SupersedeRecord{2, "of another job"}});
  EXPECT_TRUE(Rounds(*store_).empty());
}

TEST_F(StoreTest, AFreshStartSupersedesEverything) {
  Apply({View(1), Round(1, 1), EvaluationRecord{1, 0, "", 5, 1}});
  Apply({SupersedeRecord{0, ""}});
  EXPECT_TRUE(Rounds(*store_).empty());
  EXPECT_TRUE(store_->Evaluations()->empty());
}

TEST_F(StoreTest, ALossThatIsNoNumberIsKeptAsSuch) {
  RoundRecord round = Round(1, 1);
  round.train_loss = std::numeric_limits<double>::quiet_NaN();
  Apply({View(1), round});
  ASSERT_TRUE(
      store_->ForEachRound([](const RoundRecord& r) { EXPECT_TRUE(std::isnan(r.train_loss)); })
          .ok());
}

TEST_F(StoreTest, AMembershipComesBackWithWhatIsOpen) {
  MembershipRecord membership;
  membership.membership.mutable_view()->set_id(3);
  membership.membership.set_fence(5);
  membership.membership.add_left_out("b");
  LedgerRecord ledger;
  ledger.ledger.set_next_round(7);
  ledger.ledger.add_returned()->set_end(4);
  pb::View view;
  view.set_id(3);
  SampleRecord sample{3, 7, "a", {{10, 20}, {25, 30}}, SampleState::kAssigned, {}, 5};
  RegionRecord region;
  region.name = "a";
  region.caught_up = true;
  region.lease_end = 12.5;
  region.left.emplace().set_round(6);
  JobRecord job;
  job.run = 1;
  ASSERT_TRUE(
      store_->Apply({job, ViewRecord{view, {}, 1}, membership, ledger, sample, region}).ok());
  // b only heard the round. Round 5 is evaluated by all, round 6 by a alone.
  SampleRecord heard{3, 7, "b", {}, SampleState::kDone, pb::RoundReport(), 1};
  heard.report->set_heard(true);
  ASSERT_TRUE(store_
                  ->Apply({heard, EvaluationRecord{3, 5, "a", 2, 1},
                           EvaluationRecord{3, 5, "", 2, 1}, EvaluationRecord{3, 6, "a", 4, 2}})
                  .ok());
  const auto history = store_->LoadHistory();
  ASSERT_TRUE(history.ok()) << history.status();
  ASSERT_TRUE(history->membership && history->ledger && history->job);
  EXPECT_EQ(history->membership->fence(), 5);
  EXPECT_EQ(history->ledger->next_round(), 7);
  ASSERT_EQ(history->open_samples.size(), 2);
  EXPECT_TRUE(history->open_samples[0].samples.empty());
  EXPECT_TRUE(history->open_samples[0].report->heard());
  EXPECT_EQ(history->open_samples[1].samples, (std::vector<Range>{{10, 20}, {25, 30}}));
  EXPECT_EQ(history->open_samples[1].samples_per_step, 5);
  ASSERT_EQ(history->open_evaluations.size(), 1);
  EXPECT_EQ(history->open_evaluations[0].round, 6);
  EXPECT_EQ(history->open_evaluations[0].tokens, 2);
  ASSERT_EQ(history->regions.size(), 1);
  EXPECT_TRUE(history->regions[0].caught_up);
  EXPECT_EQ(history->regions[0].lease_end, 12.5);
  EXPECT_EQ(history->regions[0].left->round(), 6);
}

}  // namespace
}  // namespace atl
