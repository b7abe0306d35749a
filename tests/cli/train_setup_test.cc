// What `atoll train` checks before it starts anything.
#include "cli/train_setup.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "cli/train.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace atl {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class TrainSetupTest : public testing::Test {
 protected:
  TrainSetupTest() {
    std::string name = absl::StrCat(testing::TempDir(), "/setup-XXXXXX");
    directory_ = mkdtemp(name.data());
  }
  ~TrainSetupTest() override { std::filesystem::remove_all(directory_); }

  void Write(const std::string& name, const std::string& text = "x") {
    const std::filesystem::path path = directory_ + "/" + name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  bool Exists(const std::string& name) { return std::filesystem::exists(directory_ + "/" + name); }

  std::string directory_;
};

TEST_F(TrainSetupTest, ProgramsAreFoundInTheOrderOfThePath) {
  Write("a/tool");  // can't be executed
  Write("b/tool");
  Write("c/tool");
  std::filesystem::create_directories(directory_ + "/d/tool");
  chmod((directory_ + "/b/tool").c_str(), 0755);
  chmod((directory_ + "/c/tool").c_str(), 0755);
  const std::string path =
      absl::StrCat(directory_, "/d::", directory_, "/a:", directory_, "/b:", directory_, "/c");
  EXPECT_EQ(FindProgram("tool", path), directory_ + "/b/tool");
  EXPECT_EQ(FindProgram("other", path), "");
}

// `atoll rehearse` forgot the leases.
TEST_F(TrainSetupTest, ALabsRegionsKeepTheLeasesOfTheJob) {
  pb::Job job;
  job.add_regions()->set_name("oslo");
  job.mutable_regions(0)->mutable_lease()->set_end("2026-11-30T18:00:00Z");
  job.mutable_regions(0)->set_serve("10.0.0.1:7000");
  job.add_regions()->set_name("johor");
  SetRegions({"bergen", "oslo"}, &job);
  ASSERT_EQ(job.regions_size(), 2);
  EXPECT_EQ(job.regions(0).name(), "bergen");
  EXPECT_FALSE(job.regions(0).has_lease());
  EXPECT_EQ(job.regions(1).name(), "oslo");
  EXPECT_EQ(job.regions(1).lease().end(), "2026-11-30T18:00:00Z");
  EXPECT_EQ(job.regions(1).serve(), "");
}

TEST_F(TrainSetupTest, AnotherModelOrOtherDataIsAnotherJobAndMoreRoundsAreNot) {
  pb::Job former, job;
  former.mutable_train()->set_rounds(10);
  job.mutable_train()->set_rounds(20);
  job.mutable_train()->set_learning_rate(0.5);
  EXPECT_THAT(KeysOfAnotherJob(former, job), IsEmpty());
  job.set_seed(2);
  job.mutable_model()->set_layers(3);
  job.mutable_data()->set_tokens("/other");
  job.mutable_sync()->set_method(pb::Sync::EVERY_STEP);
  EXPECT_THAT(KeysOfAnotherJob(former, job),
              ElementsAre("seed", "model.layers", "data.tokens", "sync.method"));
}

TEST_F(TrainSetupTest, AFormerJobIsSetAsideAndKeysAndStrangersStay) {
  for (const char* name : {"job.yaml", "atoll.db", "summary.json", "rounds.jsonl", "lock",
                           "keys/orchestrator.key", "oslo/checkpoints/round-000001/manifest.json",
                           "johor/attempt-1/rank-0.log", "notes.txt", "mine/data.bin"}) {
    Write(name);
  }
  const auto former = SetFormerJobAside(directory_);
  ASSERT_TRUE(former.ok()) << former.status();
  EXPECT_EQ(*former, directory_ + "/former-1");
  for (const char* name : {"former-1/job.yaml", "former-1/atoll.db", "former-1/summary.json",
                           "former-1/oslo/checkpoints/round-000001/manifest.json",
                           "former-1/johor/attempt-1/rank-0.log", "lock", "keys/orchestrator.key",
                           "notes.txt", "mine/data.bin"}) {
    EXPECT_TRUE(Exists(name)) << name;
  }
  EXPECT_FALSE(Exists("job.yaml"));
  EXPECT_FALSE(Exists("oslo"));
  Write("job.yaml");
  EXPECT_EQ(*SetFormerJobAside(directory_), directory_ + "/former-2");
}

TEST_F(TrainSetupTest, CheckpointsThatDoNotFitOnTheDiskAreFoundBeforeTheStart) {
  pb::Job job;
  job.add_regions()->set_name("oslo");
  job.mutable_train()->set_rounds(100);
  job.mutable_checkpoint()->set_every(10);
  job.mutable_checkpoint()->set_keep(3);
  EXPECT_TRUE(CheckFreeSpace(directory_, job, 1000).ok());
  const Status status = CheckFreeSpace(directory_, job, 1e18);
  EXPECT_EQ(ExitCodeOf(status), ExitCode::kEnvironment);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr(directory_), HasSubstr("4 of a region at once"),
                    HasSubstr("--set checkpoint.keep=1")));
}

TEST_F(TrainSetupTest, AJobFileThatIsNotThereIsAUsageError) {
  const Verb verb = TrainVerb();
  const auto flags = ParseFlags(verb.command, {directory_ + "/none.yaml", "--run_dir", directory_});
  ASSERT_TRUE(flags.ok()) << flags.status();
  Output output(false);
  const auto code = verb.run(*flags, output);
  EXPECT_EQ(ExitCodeOf(code.status()), ExitCode::kUsage);
  EXPECT_THAT(std::string(code.status().message()), HasSubstr("none.yaml"));
}

}  // namespace
}  // namespace atl
