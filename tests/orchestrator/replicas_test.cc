// Replicas that should be the same: who differs, and where. Starts that end where they began.
#include "orchestrator/core/replicas.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>

#include "absl/strings/str_cat.h"
#include "tests/orchestrator/core_driver.h"

namespace atl {
namespace {

using testing::HasSubstr;
using testing::Not;

pb::CheckpointReport Report(const std::string& root, const std::string& model,
                            const std::string& momentum) {
  pb::CheckpointReport report;
  report.set_replicated_root(root);
  report.add_replicated()->set_name("model-00001-of-00001.safetensors");
  report.mutable_replicated(0)->set_chunks(model);
  report.add_replicated()->set_name("outer/momentum-00001-of-00001.safetensors");
  report.mutable_replicated(1)->set_chunks(momentum);
  return report;
}

TEST(CompareReplicas, FindsNothingWhereAllAreTheSame) {
  const auto same = Report("aa",
                           "11111111"
                           "22222222",
                           "33333333");
  EXPECT_TRUE(CompareReplicas({{"a", same}, {"b", same}, {"c", same}}).empty());
  EXPECT_TRUE(CompareReplicas({{"a", same}}).empty());
  EXPECT_TRUE(CompareReplicas({{"a", same}, {"b", pb::CheckpointReport()}}).empty());
}

TEST(CompareReplicas, NamesTheMinoritysFirstChunkAndCountsThem) {
  const auto good = Report("aa",
                           "11111111"
                           "22222222"
                           "33333333",
                           "44444444");
  const auto bad = Report("bb",
                          "11111111"
                          "2222222x"
                          "33333333",
                          "4444444x");
  const auto found = CompareReplicas({{"a", good}, {"b", bad}, {"c", good}});
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].region, "b");
  EXPECT_EQ(found[0].file, "model-00001-of-00001.safetensors");
  EXPECT_EQ(found[0].chunk, 1);
  EXPECT_EQ(found[0].chunks, 2);
}

TEST(CompareReplicas, NamesBothWhereTwoDiffer) {
  const auto one = Report("aa", "11111111", "44444444");
  const auto other = Report("bb", "11111111", "4444444x");
  const auto found = CompareReplicas({{"a", one}, {"b", other}});
  ASSERT_EQ(found.size(), 2u);
  for (const ReplicaDifference& each : found) {
    EXPECT_EQ(each.file, "outer/momentum-00001-of-00001.safetensors");
    EXPECT_EQ(each.chunk, 0);
  }
}

TEST(CompareReplicas, NamesTheRegionWhereChunksWereNotTold) {
  pb::CheckpointReport good, bad;
  good.set_replicated_root("aa");
  bad.set_replicated_root("bb");
  const auto found = CompareReplicas({{"a", good}, {"b", good}, {"c", bad}});
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].region, "c");
  EXPECT_EQ(found[0].file, "");
  EXPECT_EQ(found[0].chunk, -1);
}

TEST(CompareReplicas, TakesAFileOfAnotherLengthOrNameForADifference) {
  const auto good = Report("aa",
                           "11111111"
                           "22222222",
                           "44444444");
  const auto shorter = Report("bb", "11111111", "44444444");
  auto found = CompareReplicas({{"a", good}, {"b", good}, {"c", shorter}});
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].chunk, 1);
  auto renamed = good;
  renamed.set_replicated_root("cc");
  renamed.mutable_replicated(1)->set_name("outer/other");
  found = CompareReplicas({{"a", good}, {"b", good}, {"c", renamed}});
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].file, "outer/other");
}

// The regions of a job report the checkpoint of `round`.
std::string ReportAll(CoreDriver& core, const std::map<std::string, pb::CheckpointReport>& reports,
                      int64_t round = 1) {
  std::string transcript;
  for (const auto& [region, report] : reports) {
    pb::LeaderMessage message;
    *message.mutable_checkpoint() = report;
    message.mutable_checkpoint()->set_view(core.view(region).id());
    message.mutable_checkpoint()->mutable_checkpoint()->set_round(round);
    message.mutable_checkpoint()->mutable_checkpoint()->set_digest(absl::StrCat("d", round));
    message.mutable_checkpoint()->mutable_checkpoint()->set_path("/" + region);
    message.set_sequence(static_cast<uint64_t>(2 + round));
    transcript += core.Message(region, message);
  }
  return transcript;
}

TEST(CoreReplicas, ADifferenceIsToldWithTheChunkAndTheJobGoesOn) {
  CoreDriver core(CoreDriver::TestJob(2));
  core.AllReady();
  core.AllRound(1);
  const std::string told = ReportAll(core, {{"a", Report("aa", "11111111", "44444444")},
                                            {"b", Report("bb", "1111111x", "44444444")}});
  EXPECT_THAT(told, HasSubstr("event checkpoint_complete"));
  EXPECT_THAT(told, HasSubstr("event checkpoint_differs: region b's checkpoint of round 1 differs "
                              "from the others' in model-00001-of-00001.safetensors, chunk 0"));
  EXPECT_THAT(told, HasSubstr("there is no majority that says which is right"));
  EXPECT_THAT(told, Not(HasSubstr(" mend /")));
  EXPECT_FALSE(core.ended());
}

class Mending : public testing::Test {
 public:
  std::string Differ(CoreDriver& core, int64_t round) {
    const auto good = Report("aa", "11111111", "44444444");
    return ReportAll(core, {{"a", good}, {"b", Report("bb", "1111111x", "44444444")}, {"c", good}},
                     round);
  }
  pb::LeaderMessage Tended(CoreDriver& core, const std::string& failure) {
    pb::LeaderMessage message;
    message.mutable_tended()->set_view(core.view("b").id());
    message.mutable_tended()->set_round(1);
    message.mutable_tended()->set_path("/b");
    message.mutable_tended()->set_chunks(1);
    message.mutable_tended()->set_failure(failure);
    message.set_sequence(4);
    return message;
  }
};

TEST_F(Mending, TheMajorityGivesAndTheOtherMends) {
  CoreDriver core(CoreDriver::TestJob(3, 4));
  core.survives = true;
  core.AllReady();
  core.AllRound(1);
  const std::string told = Differ(core, 1);
  EXPECT_THAT(told, HasSubstr("1 chunks in all): it is mended from a, c"));
  EXPECT_THAT(told, HasSubstr("-> a give /a"));
  EXPECT_THAT(told, HasSubstr("-> c give /c"));
  EXPECT_THAT(told, HasSubstr("-> b mend /b to aa from a, c"));
  EXPECT_THAT(core.Message("b", Tended(core, "")),
              HasSubstr("event checkpoint_mended: region b's checkpoint of round 1 is the same as "
                        "the others' again: 1 chunks came from them"));
}

TEST_F(Mending, WhatCouldNotBeMendedIsToldWithWhatToDo) {
  CoreDriver core(CoreDriver::TestJob(3, 4));
  core.survives = true;
  core.AllReady();
  core.AllRound(1);
  Differ(core, 1);
  EXPECT_THAT(core.Message("b", Tended(core, "no region gave it")),
              HasSubstr("event checkpoint_not_mended: region b's checkpoint of round 1 is not "
                        "mended: no region gave it; `atoll checkpoint repair /b"));
}

TEST_F(Mending, NobodyIsAskedWhoIsAboutToLeave) {
  CoreDriver core(CoreDriver::TestJob(3, 1));
  core.survives = true;
  core.AllReady();
  core.AllRound(1);
  const std::string told = Differ(core, 1);
  EXPECT_THAT(told, HasSubstr("mend it with `atoll checkpoint repair /b --replicated_root=aa "
                              "--from=...` from a, c"));
  EXPECT_THAT(told, Not(HasSubstr("-> b mend")));
}

// Two regions, without a majority.
class Proving : public testing::Test {
 public:
  Proving() : core_(CoreDriver::TestJob(2, 4)) {
    core_.survives = true;
    core_.AllReady();
    core_.AllRound(1);
  }
  std::string Differ() {
    return ReportAll(core_, {{"a", Report("aa", "11111111", "44444444")},
                             {"b", Report("bb", "1111111x", "44444444")}});
  }
  std::string Answer(const std::string& region, const std::string& failure) {
    pb::LeaderMessage message;
    message.mutable_tended()->set_view(core_.view(region).id());
    message.mutable_tended()->set_round(1);
    message.mutable_tended()->set_path("/" + region);
    message.mutable_tended()->set_failure(failure);
    message.set_sequence(sequence_.emplace(region, 4).first->second++);
    return core_.Message(region, message);
  }
  CoreDriver core_;
  std::map<std::string, uint64_t> sequence_;
};

TEST_F(Proving, TheOneWithTheRoundsStateIsRightAndTheOtherIsMended) {
  const std::string told = Differ();
  EXPECT_THAT(told, HasSubstr("each region looks whether its own has the round's state"));
  EXPECT_THAT(told, HasSubstr("-> a prove /a"));
  EXPECT_THAT(told, HasSubstr("-> b prove /b"));
  EXPECT_THAT(Answer("b", "it has another"), Not(HasSubstr("event")));
  const std::string decided = Answer("a", "");
  EXPECT_THAT(decided,
              HasSubstr("event checkpoint_decided: region b's checkpoint of round 1 is the wrong "
                        "one: it has another; it is mended from a"));
  EXPECT_THAT(decided, HasSubstr("-> a give /a"));
  EXPECT_THAT(decided, HasSubstr("-> b mend /b to aa from a"));
  EXPECT_THAT(decided, Not(HasSubstr("region a's")));
  EXPECT_THAT(Answer("b", ""), HasSubstr("event checkpoint_mended"));
}

TEST_F(Proving, WhereNoneHasItNothingIsMended) {
  Differ();
  Answer("a", "this");
  const std::string told = Answer("b", "that");
  EXPECT_THAT(told, HasSubstr("event checkpoint_undecided: no region's checkpoint of round 1 is "
                              "known to have the round's state (a: this; b: that)"));
  EXPECT_THAT(told, Not(HasSubstr("mend /")));
}

TEST_F(Proving, WhereAllHaveItTheirFilesAloneDiffer) {
  Differ();
  Answer("a", "");
  const std::string told = Answer("b", "");
  EXPECT_THAT(told, HasSubstr("event checkpoint_undecided: the checkpoint of round 1 has the "
                              "round's state in a, b, and other files there: they are encrypted "
                              "with different keys"));
  EXPECT_THAT(told, Not(HasSubstr("mend /")));
}

TEST(CoreReplicas, WithOneReplicaTheCheckpointIsCompleteWhenItsWriterHasReported) {
  pb::Job job = CoreDriver::TestJob(2);
  job.mutable_checkpoint()->set_replicas(1);
  CoreDriver core(job);
  core.AllReady();
  core.AllRound(1);
  EXPECT_THAT(
      core.Checkpoint("a", 1),
      HasSubstr("event checkpoint_complete: checkpoint of round 1 is complete in 1 regions"));
}

// Runs of one job, each a start of orchestrator and regions.
class CrashLoop : public testing::Test {
 public:
  // Both regions come with the checkpoints of rounds 2 and 1. Returns the start as text.
  std::string Start(int64_t rounds = 9) {
    core_.emplace(CoreDriver::TestJob(2, rounds), history_);
    core_->survives = true;
    const std::string told = core_->AllReady({CheckpointAt(1), CheckpointAt(2)});
    return told;
  }
  void Keep() {
    for (const Record& record : core_->records()) {
      if (const auto* kept = std::get_if<MembershipRecord>(&record)) {
        history_.membership = kept->membership;
      }
    }
    history_.job.emplace();
    history_.job->ended = 1;
    ++history_.run;
    history_.last_view += 10;
  }
  std::string Crash() {
    const std::string told = Start();
    Keep();
    return told;
  }

  History history_;
  std::optional<CoreDriver> core_;
};

TEST_F(CrashLoop, AfterThreeStartsWithoutARoundTheJobGoesOneBackAndSaysSo) {
  for (int start = 0; start < 3; ++start) {
    const std::string told = Crash();
    EXPECT_THAT(told, Not(HasSubstr("crash_loop")));
    EXPECT_EQ(core_->view("a").first_round(), 3);
  }
  const std::string told = Crash();
  EXPECT_THAT(told, HasSubstr("event crash_loop: 3 starts from the checkpoint of round 2 ended "
                              "before a round was committed: the job goes one back, to round 1"));
  EXPECT_EQ(core_->view("a").first_round(), 2);
}

TEST_F(CrashLoop, WhatWasLeftStaysLeftAndWithNothingOlderTheNewestIsTakenAgain) {
  for (int start = 0; start < 3; ++start) Crash();
  for (int start = 0; start < 3; ++start) {
    EXPECT_THAT(Crash(), HasSubstr("rounds 2 to 2 are trained again"));
    EXPECT_EQ(core_->view("a").first_round(), 2);
  }
  EXPECT_THAT(Crash(), HasSubstr("there is no older one to try: it is taken again"));
  EXPECT_EQ(core_->view("a").first_round(), 3);
}

TEST_F(CrashLoop, ARoundThatIsCommittedEndsTheCount) {
  Crash();
  Crash();
  Start();
  core_->AllRound(3);
  Keep();
  for (int start = 0; start < 3; ++start) EXPECT_THAT(Crash(), Not(HasSubstr("crash_loop")));
  EXPECT_THAT(Crash(), HasSubstr("crash_loop"));
}

TEST_F(CrashLoop, WhoeverStopsAJobHasNoCrash) {
  for (int start = 0; start < 5; ++start) {
    EXPECT_THAT(Start(), Not(HasSubstr("crash_loop")));
    core_->Stop();
    core_->Left("a", 2, 75);
    core_->Left("b", 2, 75);
    ASSERT_TRUE(core_->ended());
    Keep();
  }
}

}  // namespace
}  // namespace atl
