// A worker that connects to regions which never come: it says whom it waits for, and gives up when
// told.
#include <gtest/gtest.h>

#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "collectives/inprocess/inprocess.h"
#include "proto/job_file.h"
#include "tests/worker/region_harness.h"
#include "worker/program/commands.h"

namespace atl {
namespace {

class EnteringTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = testing::TempDir() + "/entering_" +
                 testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
    communicators_ = MakeInProcessGroup(2);
    for (int rank = 0; rank < 2; ++rank) {
      RegionWorkerOptions options;
      options.region = "johor";
      options.run_dir = directory_;
      options.wan_listen = Endpoint{"127.0.0.1", 0};
      workers_.push_back(std::make_unique<RegionWorker>(options, communicators_[rank].get()));
    }
    follower_ = std::thread([this] {
      EXPECT_TRUE(FollowLeader(*workers_[1], *communicators_[1], [](const auto&) {}).ok());
    });
  }
  void TearDown() override {
    pb::RegionCommand finish;
    finish.mutable_finish();
    Do(finish);
    follower_.join();
    std::filesystem::remove_all(directory_);
  }

  std::vector<pb::RegionAnswer> Do(const pb::RegionCommand& command) {
    const auto answers = RunCommand(command, *workers_[0], *communicators_[0], [](const auto&) {});
    EXPECT_TRUE(answers.ok()) << answers.status();
    return answers.ok() ? *answers : std::vector<pb::RegionAnswer>();
  }

  // A view of four lanes, two a worker, with a region that nobody ever started.
  pb::RegionCommand ViewWithAStranger() {
    pb::RegionCommand set_up;
    const pb::Job job = SmallJob(directory_);
    *set_up.mutable_set_up()->mutable_job() = job;
    const auto answers = Do(set_up);
    pb::RegionCommand enter;
    pb::View* view = enter.mutable_enter_view()->mutable_view();
    view->set_id(1);
    view->set_key(std::string(32, 'k'));
    view->set_lanes(4);
    for (const char* name : {"johor", "oslo"}) {
      pb::Member* member = view->add_members();
      member->set_region(name);
      member->set_workers(2);
      member->set_samples_per_step(3);
    }
    for (int lane = 0; lane < 4; ++lane) {
      view->mutable_members(0)->add_gateways(answers[lane / 2].gateway());
      view->mutable_members(1)->add_gateways("127.0.0.1:1");
    }
    view->set_first_round(1);
    view->set_last_round(job.train().rounds());
    return enter;
  }

  std::string directory_;
  std::vector<std::unique_ptr<Communicator>> communicators_;
  std::vector<std::unique_ptr<RegionWorker>> workers_;
  std::thread follower_;
};

TEST_F(EnteringTest, AViewThatIsGivenUpEndsTheConnectingOnAllRanks) {
  const pb::RegionCommand enter = ViewWithAStranger();
  std::thread leader([&] {
    // Waits for ever, but for the AbandonView below.
    while (workers_[0]->doing().find("waiting for oslo since") == std::string::npos) {
      std::this_thread::yield();
    }
    workers_[0]->Interrupt(2);
  });
  const auto answers = Do(enter);
  leader.join();
  ASSERT_EQ(answers.size(), 2u);
  for (const pb::RegionAnswer& answer : answers) {
    EXPECT_TRUE(answer.interrupted());
    EXPECT_NE(answer.error().find("given up"), std::string::npos) << answer.error();
  }
}

TEST_F(EnteringTest, AViewThatWasGivenUpBeforeItBeganIsNotEntered) {
  const pb::RegionCommand enter = ViewWithAStranger();
  workers_[0]->Interrupt(2);  // the next command
  for (const pb::RegionAnswer& answer : Do(enter)) EXPECT_TRUE(answer.interrupted());
}

TEST_F(EnteringTest, TheJobFileTakesNoLargerChunksThanTheEngine) {
  const std::string largest = absl::StrCat(wan::kMaxChunkBytes);
  const std::string larger = absl::StrCat(wan::kMaxChunkBytes + 1);
  const auto parse = [&](const std::string& chunk) {
    return ParseJob(
        absl::StrCat("name: a\ndata: {tokens: x.bin}\nregions: [a]\nsync: {chunk_bytes: ", chunk,
                     "}\n"),
        "job.yaml", directory_, {});
  };
  const auto taken = parse(largest);
  ASSERT_TRUE(taken.ok()) << taken.status();
  wan::EngineOptions options;
  options.listen = Endpoint{"127.0.0.1", 0};
  options.chunk_bytes = taken->sync().chunk_bytes();
  EXPECT_TRUE(wan::Engine::Create(options).ok());
  const auto refused = parse(larger);
  EXPECT_NE(std::string(refused.status().message()).find("chunk_bytes"), std::string::npos)
      << refused.status();
  options.chunk_bytes = wan::kMaxChunkBytes + 1;
  EXPECT_FALSE(wan::Engine::Create(options).ok());
}

}  // namespace
}  // namespace atl
