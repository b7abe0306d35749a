// The core on its good days: joining, resuming, rounds, leaving, stopping.
#include "orchestrator/core/core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/orchestrator/core_driver.h"

namespace atl {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(CoreLinks, AHeartbeatsLinksAreKeptOncePerOtherRegionAndNothingElseIs) {
  CoreDriver core(CoreDriver::TestJob(2));
  core.AllReady();
  pb::LeaderMessage message;
  message.mutable_heartbeat()->set_doing("inner step 1/2");
  for (const char* name : {"nobody", "b", "a", "b"}) {
    pb::WanLink* link = message.mutable_heartbeat()->add_links();
    link->set_region(name);
    link->set_rtt_seconds(0.08);
  }
  const auto links_of_a = [&] {
    std::vector<pb::WanLink> links;
    for (const Record& record : core.records()) {
      const auto* region = std::get_if<RegionRecord>(&record);
      if (region != nullptr && region->name == "a") links = region->links;
    }
    return links;
  };
  core.Message("a", message);
  ASSERT_EQ(links_of_a().size(), 1u);
  EXPECT_EQ(links_of_a()[0].region(), "b");
  EXPECT_EQ(links_of_a()[0].rtt_seconds(), 0.08);
  core.Heartbeat("a");
  EXPECT_EQ(links_of_a().size(), 1u) << "a heartbeat without links says nothing new";
}

TEST(Core, RunsASmallJobFromHelloToDone) {
  CoreDriver core(CoreDriver::TestJob(2, 1));
  EXPECT_EQ(core.Start(),
            "job waiting\n"
            "event job_started: job test: run 1 with regions a and b\n"
            "event waiting: since 00:16:40 UTC waiting for a and b to start; when all regions are "
            "ready, the first round begins\n");
  EXPECT_EQ(core.Hello("a"),
            "event region_hello: region a is there: 1 workers, leader on host\n"
            "event waiting: since 00:16:40 UTC waiting for b to start and for a to load the job; "
            "when all regions are ready, the first round begins\n"
            "-> a welcome\n");
  core.Hello("b");
  EXPECT_EQ(core.Ready("a"),
            "event region_ready: region a is ready: 1 x cpu, 0 checkpoints\n"
            "event waiting: since 00:16:40 UTC waiting for b to load the job; when all regions are "
            "ready, the first round begins\n"
            "-> a ack 1\n");
  EXPECT_EQ(core.Ready("b"),
            "event region_ready: region b is ready: 1 x cpu, 0 checkpoints\n"
            "event resume: no checkpoints: the job starts from its seed\n"
            "job starting\n"
            "supersede after 0\n"
            "event view: view 1: rounds 1 to 1, 1 lanes, samples a step: a 2, b 2\n"
            "event waiting: since 00:16:40 UTC waiting for a and b to initialise the model and to "
            "finish round 1\n"
            "-> a view 1 from round 1 sample 0\n"
            "-> b view 1 from round 1 sample 0\n"
            "-> b ack 1\n");
  EXPECT_EQ(core.Round("a", 1), "job training\n-> a ack 2\n");
  EXPECT_EQ(core.Round("b", 1),
            "round 1 loss 2 digest d1\n"
            "event round_committed: round 1 committed: loss 2\n"
            "event waiting: since 00:16:40 UTC waiting for a and b to evaluate, to commit the last "
            "checkpoint and to leave; then the job is done\n"
            "-> b ack 2\n");
  core.Left("a", 1, 0);
  EXPECT_EQ(core.Left("b", 1, 0),
            "event region_left: region b left after round 1\n"
            "job done\n"
            "event job_ended: job done: all 1 rounds are committed\n"
            "-> a ended done 0\n"
            "-> b ended done 0\n"
            "-> b ack 3\n"
            "end done 0\n");
  EXPECT_TRUE(core.core().EveryoneGone());
}

TEST(Core, GivesEachRegionItsShareLanesAndGateways) {
  pb::Job job = CoreDriver::TestJob(2);
  job.mutable_train()->set_global_batch(12);
  CoreDriver core(job);
  core.Start();
  core.Hello("a", "1", 1);
  core.Hello("b", "1", 3);
  core.Ready("a");
  core.Ready("b");
  const pb::View& view = core.view("a");
  EXPECT_EQ(view.lanes(), 3);
  EXPECT_EQ(view.key().size(), 32);
  EXPECT_EQ(view.members(0).samples_per_step(), 3);
  EXPECT_EQ(view.members(1).samples_per_step(), 9);
  EXPECT_THAT(view.members(0).gateways(), ElementsAre("127.0.0.1:1", "127.0.0.1:1", "127.0.0.1:1"));
  EXPECT_THAT(view.members(1).gateways(), ElementsAre("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"));
}

TEST(Core, RefusesWhoHasNoPlaceInTheJob) {
  CoreDriver core(CoreDriver::TestJob(2));
  core.Start();
  EXPECT_THAT(core.Hello("z"), HasSubstr("-> z refused 2 region z is not part of job test"));
  pb::LeaderMessage message;
  message.mutable_hello()->set_protocol(kTestProtocol + 1);
  message.mutable_hello()->set_region("a");
  EXPECT_THAT(core.Message("a", message), HasSubstr("-> a refused 4 the orchestrator speaks"));
  message.mutable_hello()->set_protocol(kTestProtocol);
  message.mutable_hello()->set_region("b");
  EXPECT_THAT(core.Message("a", message), HasSubstr("-> a refused 2 the lease is of region a"));
  message.mutable_hello()->set_region("a");
  EXPECT_THAT(core.Message("a", message), HasSubstr("-> a refused 2 a hello without attempt"));
}

TEST(Core, ANewStartOfARegionReplacesTheOneBeforeUntilTheFirstView) {
  CoreDriver core(CoreDriver::TestJob(2));
  core.Start();
  core.Hello("a", "first");
  core.Ready("a");
  EXPECT_THAT(core.Hello("a", "second"), HasSubstr("event region_replaced"));
  core.Hello("b");
  EXPECT_THAT(core.Ready("b"), Not(HasSubstr("view"))) << "the new start of a is not ready";
  // What the first start still sends counts for nothing.
  pb::LeaderMessage late;
  late.set_attempt("first");
  late.set_sequence(1);
  *late.mutable_ready() = core.ReadyMessage("a");
  EXPECT_EQ(core.Message("a", late), "");
  EXPECT_THAT(core.Ready("a"), HasSubstr("-> a view 1"));
  EXPECT_THAT(core.Hello("a", "third"), HasSubstr("-> a refused 4 region a already runs"));
}

TEST(Core, ARepeatedHelloGetsAllThatTheRegionMayHaveMissed) {
  CoreDriver core(CoreDriver::TestJob(2));
  core.AllReady();
  core.Stop();
  EXPECT_EQ(core.Hello("a"),
            "-> a welcome\n"
            "-> a view 1 from round 1 sample 0\n"
            "-> a stop\n");
}

TEST(Core, RegionsThatDisagreeEndTheJobAndAreNamed) {
  CoreDriver core(CoreDriver::TestJob(3));
  core.Start();
  for (const std::string& name : core.names()) core.Hello(name);
  core.Ready("a");
  core.Ready("c");
  pb::LeaderMessage message;
  message.set_sequence(1);
  *message.mutable_ready() = core.ReadyMessage("b");
  message.mutable_ready()->set_dataset_fingerprint(8);
  const std::string text = core.Message("b", message);
  EXPECT_THAT(text, HasSubstr("regions disagree in the dataset's fingerprint (a 7, b 8, c 7); look "
                              "at b"));
  EXPECT_THAT(text, HasSubstr("end failed 2"));
}

TEST(Core, ResumesFromTheNewestCommonCheckpoint) {
  CoreDriver core(CoreDriver::TestJob(2, 20),
                  History{.run = 1, .last_event = 50, .last_view = 3, .last_round = 12});
  core.Start();
  core.Hello("a");
  core.Hello("b");
  core.Ready("a", {CheckpointAt(5, "/a/5"), CheckpointAt(10, "/a/10")});
  const std::string text =
      core.Ready("b", {CheckpointAt(10, "/b/10", false), CheckpointAt(5, "/b/5")});
  EXPECT_THAT(text, HasSubstr("-> a view 4 from round 11 sample 80 load /a/10\n"));
  EXPECT_THAT(text, HasSubstr("-> b view 4 from round 11 sample 80 load /b/10\n"));
  EXPECT_THAT(text, HasSubstr("region b loads /b/10, which another region wrote"));
  EXPECT_THAT(text, HasSubstr("rounds 11 to 12 of the run before are trained again"));
  EXPECT_EQ(core.view("a").inner_steps_done(), 20);
  EXPECT_EQ(core.view("a").digest(), "d10");
  EXPECT_TRUE(core.view("a").checkpoint_own());
  EXPECT_FALSE(core.view("b").checkpoint_own());
  core.Round("a", 11);
  EXPECT_THAT(core.Round("b", 11), HasSubstr("round 11 loss 2"));
  for (const Record& record : core.records()) {
    if (const auto* round = std::get_if<RoundRecord>(&record)) {
      EXPECT_EQ(round->tokens_total, 88 * 16) << "those of the rounds before count";
    }
  }
}

struct ResumeRow {
  std::string resume;
  std::vector<pb::CheckpointOnDisk> a, b;
  std::string expected;  // in the transcript
};

TEST(Core, ChoosesWhereToResumeAsTheJobSays) {
  const std::vector<ResumeRow> table = {
      {"auto", {}, {}, "-> a view 1 from round 1 sample 0\n"},
      {"auto", {CheckpointAt(2)}, {CheckpointAt(2)}, "-> a view 1 from round 3 sample 16 load"},
      {"auto", {CheckpointAt(2)}, {}, "region b has none); copy one of these"},
      {"auto", {CheckpointAt(2)}, {}, "end failed 2"},
      {"auto", {CheckpointAt(2)}, {CheckpointAt(1)}, "end failed 2"},
      {"auto", {CheckpointAt(3)}, {CheckpointAt(3)}, "nothing to do: the checkpoint of round 3"},
      {"auto", {CheckpointAt(3)}, {CheckpointAt(3)}, "end done 0"},
      {"never", {CheckpointAt(2)}, {CheckpointAt(2)}, "-> a view 1 from round 1 sample 0\n"},
      {"never", {CheckpointAt(2)}, {}, "event checkpoints_ignored"},
      {"/runs/x", {CheckpointAt(1)}, {CheckpointAt(1)}, "-> a view 1 from round 2 sample 8 load"},
      {"/runs/x", {}, {}, "cannot resume from /runs/x"},
      {"/runs/x", {}, {}, "end failed 2"},
      {"/runs/x", {CheckpointAt(1)}, {}, "end failed 2"},
  };
  for (const ResumeRow& row : table) {
    pb::Job job = CoreDriver::TestJob(2, 3);
    job.set_resume(row.resume);
    CoreDriver core(job);
    core.Start();
    core.Hello("a");
    core.Hello("b");
    core.Ready("a", row.a);
    EXPECT_THAT(core.Ready("b", row.b), HasSubstr(row.expected)) << row.resume;
  }
}

pb::LeaderMessage FailedToLoad(CoreDriver& core, const std::string& region,
                               const std::string& path) {
  pb::LeaderMessage message;
  *message.mutable_ready() = core.ReadyMessage(region);
  message.mutable_ready()->set_failed_checkpoint(path);
  message.mutable_ready()->set_failure("chunk 3 does not match its hash");
  message.set_sequence(2);
  return message;
}

TEST(Core, FallsBackToAnOlderCheckpointWhenOneCannotBeLoaded) {
  CoreDriver core(CoreDriver::TestJob(2, 20));
  core.AllReady({CheckpointAt(5), CheckpointAt(10)});
  const std::string text = core.Message("b", FailedToLoad(core, "b", "/round-10"));
  EXPECT_THAT(text, HasSubstr("region b cannot load /round-10: chunk 3"));
  EXPECT_THAT(text, HasSubstr("-> a view 2 from round 6 sample 40 load /round-5\n"));
  EXPECT_THAT(text, HasSubstr("-> b view 2 from round 6 sample 40 load /round-5\n"));
  // The same of region a, about the view that is no more: nothing new.
  EXPECT_EQ(core.Message("a", FailedToLoad(core, "a", "/round-10")),
            "event checkpoint_unusable: region a cannot load /round-10: chunk 3 does not match its "
            "hash\n-> a ack 2\n");
  pb::LeaderMessage again = FailedToLoad(core, "b", "/round-5");
  again.set_sequence(3);
  EXPECT_THAT(core.Message("b", again), HasSubstr("end failed 2"));
}

TEST(Core, ACheckpointThatTheUserNamedMustLoad) {
  pb::Job job = CoreDriver::TestJob(2, 20);
  job.set_resume("/runs/x");
  CoreDriver core(job);
  core.AllReady({CheckpointAt(5), CheckpointAt(10)});
  const std::string text = core.Message("b", FailedToLoad(core, "b", "/round-10"));
  EXPECT_THAT(text, HasSubstr("chunk 3 does not match its hash"));
  EXPECT_THAT(text, HasSubstr("end failed 2"));
}

TEST(Core, CommitsInOrderWhenARegionRunsAhead) {
  CoreDriver core(CoreDriver::TestJob(2));
  core.AllReady();
  core.Round("a", 1);
  core.Round("a", 2);
  EXPECT_THAT(core.Round("b", 1), HasSubstr("round 1 loss 2"));
  EXPECT_THAT(core.Round("b", 2), HasSubstr("round 2 loss 2"));
}

TEST(Core, ARepeatedReportIsAcknowledgedAndChangesNothing) {
  CoreDriver core(CoreDriver::TestJob(2));
  core.AllReady();
  core.Round("a", 1);
  core.Round("b", 1);
  pb::LeaderMessage again = core.RoundReport("a", 1);
  again.set_sequence(2);
  EXPECT_EQ(core.Message("a", again), "-> a ack 2\n");
}

TEST(Core, ReportsThatComeOutOfOrderWaitForTheirTurn) {
  CoreDriver core(CoreDriver::TestJob(1));
  core.AllReady();
  pb::LeaderMessage second = core.RoundReport("a", 2);
  second.set_sequence(3);
  EXPECT_EQ(core.Message("a", second), "") << "not handled, so not acknowledged";
  pb::LeaderMessage first = core.RoundReport("a", 1);
  first.set_sequence(2);
  const std::string text = core.Message("a", first);
  EXPECT_THAT(text, HasSubstr("round 1 loss"));
  EXPECT_THAT(text, HasSubstr("round 2 loss"));
  EXPECT_THAT(text, HasSubstr("-> a ack 2\n-> a ack 3\n"));
}

TEST(Core, SumsEvaluationsOverRegions) {
  CoreDriver core(CoreDriver::TestJob(2));
  core.AllReady();
  EXPECT_THAT(core.Evaluation("a", 0, 30, 10), Not(HasSubstr("evaluated")));
  EXPECT_THAT(core.Evaluation("b", 0, 60, 20), HasSubstr("validation loss 3 after round 0"));
}

TEST(Core, ACheckpointIsCompleteWhenEveryRegionHasIt) {
  CoreDriver core(CoreDriver::TestJob(2));
  core.AllReady();
  core.AllRound(1);
  EXPECT_THAT(core.Checkpoint("b", 1), Not(HasSubstr("checkpoint_complete")));
  EXPECT_THAT(core.Checkpoint("a", 1), HasSubstr("event checkpoint_complete"));
}

TEST(Core, AStopLetsTheRegionsFinishAndSaysStartMeAgain) {
  CoreDriver core(CoreDriver::TestJob(2));
  core.AllReady();
  core.AllRound(1);
  EXPECT_EQ(
      core.Stop(),
      "event stop: stop: SIGTERM\n"
      "job stopping\n"
      "event waiting: since 00:16:40 UTC waiting for a and b to finish the round, to commit a "
      "checkpoint and to leave; then the job is stopped\n"
      "-> a stop\n"
      "-> b stop\n");
  EXPECT_EQ(core.Stop(), "") << "asked once is enough";
  core.AllRound(2);
  core.Left("a", 2, 75);
  EXPECT_THAT(core.Left("b", 2, 75), HasSubstr("end stopped 75"));
  EXPECT_EQ(core.ended()->reason, "SIGTERM; round 2 is committed");
}

TEST(Core, AStopBeforeTheFirstViewEndsAtOnce) {
  CoreDriver core(CoreDriver::TestJob(2));
  core.Start();
  core.Hello("a");
  const std::string text = core.Stop();
  EXPECT_THAT(text, HasSubstr("-> a ended stopped 75\n"));
  EXPECT_THAT(text, Not(HasSubstr("-> b")));
  EXPECT_THAT(text, HasSubstr("end stopped 75"));
}

TEST(Core, AStopThatComesTooLateLeavesTheJobDone) {
  CoreDriver core(CoreDriver::TestJob(2, 1));
  core.AllReady();
  core.Stop();
  core.AllRound(1);
  core.Left("a", 1, 0);
  EXPECT_THAT(core.Left("b", 1, 0), HasSubstr("end done 0"));
}

TEST(Core, ASignalAtOneRegionStopsTheJobInGoodOrder) {
  CoreDriver core(CoreDriver::TestJob(2));
  core.AllReady();
  core.AllRound(1);
  EXPECT_THAT(core.Left("a", 1, 75), HasSubstr("-> b stop\n"));
  EXPECT_THAT(core.Left("b", 1, 75), HasSubstr("end stopped 75"));
}

TEST(Core, AnUncommittedStopKeepsItsCode) {
  CoreDriver core(CoreDriver::TestJob(2));
  core.AllReady();
  core.AllRound(1);
  core.Stop();
  core.Left("a", 1, 75);
  EXPECT_THAT(core.Left("b", 1, 76), HasSubstr("end stopped 76"));
}

TEST(Core, AfterTheEndEveryQuestionIsAnsweredWithIt) {
  CoreDriver core(CoreDriver::TestJob(2));
  core.AllReady();
  core.Fault("a", "broken");
  EXPECT_THAT(core.Hello("b"), HasSubstr("-> b ended failed 1"));
  EXPECT_THAT(core.Heartbeat("b"), HasSubstr("-> b ended failed 1"));
  EXPECT_FALSE(core.core().EveryoneGone());
  pb::LeaderMessage left;
  left.set_sequence(2);
  left.mutable_left()->set_exit_code(1);
  core.Message("b", left);
  EXPECT_TRUE(core.core().EveryoneGone());
}

TEST(Core, TooSmallABatchEndsTheJobWithAReason) {
  pb::Job job = CoreDriver::TestJob(3);
  job.mutable_train()->set_global_batch(2);
  CoreDriver core(job);
  EXPECT_THAT(core.AllReady(), HasSubstr("train.global_batch is 2, but 3 regions need"));
  EXPECT_EQ(core.ended()->exit_code, 2);
}

}  // namespace
}  // namespace atl
