// Which launcher an environment shows.
#include "cli/launcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "base/exit_code.h"

namespace atl {
namespace {

using testing::HasSubstr;
using Environment = std::map<std::string, std::string>;

StatusOr<Launcher> Detect(const Environment& environment) {
  return DetectLauncher([&environment](const std::string& name) -> std::optional<std::string> {
    const auto found = environment.find(name);
    if (found == environment.end()) return std::nullopt;
    return found->second;
  });
}

void ExpectLauncher(const Environment& environment, const std::string& name, int64_t rank,
                    int64_t world_size) {
  const auto launcher = Detect(environment);
  ASSERT_TRUE(launcher.ok()) << launcher.status();
  EXPECT_EQ(launcher->name, name);
  EXPECT_EQ(launcher->rank, rank);
  EXPECT_EQ(launcher->world_size, world_size);
}

void ExpectError(const Environment& environment, const std::string& message) {
  const auto launcher = Detect(environment);
  EXPECT_EQ(ExitCodeOf(launcher.status()), ExitCode::kUsage);
  EXPECT_THAT(std::string(launcher.status().message()), HasSubstr(message));
}

const Environment kOpenMpi = {{"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "2"}};

Environment With(Environment environment, const Environment& more) {
  environment.insert(more.begin(), more.end());
  return environment;
}

TEST(Launcher, IsNoneInAPlainShell) {
  const auto launcher = Detect({{"HOME", "/root"}});
  ASSERT_TRUE(launcher.ok());
  EXPECT_EQ(launcher->name, "none");
  EXPECT_FALSE(launcher->rank.has_value());
}

TEST(Launcher, IsReadFromEachEnvironment) {
  ExpectLauncher(kOpenMpi, "open-mpi", 1, 2);
  ExpectLauncher({{"TORCHELASTIC_RUN_ID", "x"}, {"RANK", "3"}, {"WORLD_SIZE", "4"}}, "torchrun", 3,
                 4);
  ExpectLauncher({{"SLURM_PROCID", "5"}, {"SLURM_STEP_ID", "0"}, {"SLURM_NTASKS", "8"}}, "slurm", 5,
                 8);
  ExpectLauncher({{"PMI_RANK", "0"}, {"PMI_SIZE", "1"}}, "pmi", 0, 1);
  ExpectLauncher({{"RANK", "0"}, {"WORLD_SIZE", "2"}}, "plain", 0, 2);
  ExpectLauncher({{"ATOLL_RANK", "1"}, {"ATOLL_WORLD_SIZE", "3"}}, "atoll", 1, 3);
}

TEST(Launcher, IsOpenMpiUnderMpirunInASlurmAllocation) {
  ExpectLauncher(
      With(kOpenMpi, {{"SLURM_PROCID", "0"}, {"SLURM_STEP_ID", "0"}, {"SLURM_NTASKS", "1"}}),
      "open-mpi", 1, 2);
}

TEST(Launcher, IsNotSlurmInABatchShell) {
  const auto launcher = Detect({{"SLURM_PROCID", "0"}, {"SLURM_JOB_ID", "7"}});
  ASSERT_TRUE(launcher.ok());
  EXPECT_EQ(launcher->name, "none");
}

TEST(Launcher, IsRefusedWhenItsVariablesAreIncompleteOrWrong) {
  ExpectError({{"OMPI_COMM_WORLD_RANK", "0"}}, "lacks OMPI_COMM_WORLD_SIZE");
  ExpectError({{"RANK", "zero"}, {"WORLD_SIZE", "2"}}, "RANK='zero' is not a number");
  ExpectError({{"RANK", "2"}, {"WORLD_SIZE", "2"}}, "RANK=2 is outside WORLD_SIZE=2");
  ExpectError({{"RANK", "-1"}, {"WORLD_SIZE", "2"}}, "RANK='-1' is not a number");
}

TEST(Launcher, IsRefusedWhenAtollsOwnVariablesContradictIt) {
  ExpectLauncher(With(kOpenMpi, {{"ATOLL_RANK", "1"}, {"ATOLL_WORLD_SIZE", "2"}}), "atoll", 1, 2);
  ExpectError(With(kOpenMpi, {{"ATOLL_RANK", "0"}, {"ATOLL_WORLD_SIZE", "2"}}),
              "ATOLL_RANK=0 contradicts open-mpi");
  ExpectError(With(kOpenMpi, {{"ATOLL_RANK", "1"}, {"ATOLL_WORLD_SIZE", "3"}}),
              "ATOLL_WORLD_SIZE=3 contradicts open-mpi");
}

}  // namespace
}  // namespace atl
