// One rank's end is the region's end: mpirun comes back, with the exit code that says why. A hang
// would show as ctest's time-out.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <csignal>
#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"

namespace {

int ExitCodeOfRegion(const std::string& ending) {
  const std::string command =
      absl::StrCat(MPIRUN " -n 2 --oversubscribe --bind-to none ", MPI_ENDING_PROGRAM, " ", ending);
  const int status = std::system(command.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(RegionOfProcesses, EndsWellWhenAllRanksDo) { EXPECT_EQ(ExitCodeOfRegion("well"), 0); }

TEST(RegionOfProcesses, EndsWithTheExitCodeOfTheErrorThatOneRankMeets) {
  EXPECT_EQ(ExitCodeOfRegion("error"), 4);
}

TEST(RegionOfProcesses, EndsWhenOneRankAborts) { EXPECT_EQ(ExitCodeOfRegion("abort"), 76); }

TEST(RegionOfProcesses, EndsWhenOneRankExitsWithoutAWord) {
  EXPECT_EQ(ExitCodeOfRegion("exit"), 3);
}

TEST(RegionOfProcesses, EndsWhenOneRankIsKilled) {
  EXPECT_EQ(ExitCodeOfRegion("kill"), 128 + SIGKILL);
}

TEST(RegionOfProcesses, EndsWhenOneRankIsKilledWhileAnotherWaitsForItInSharedMemory) {
  EXPECT_EQ(ExitCodeOfRegion("in_sum"), 128 + SIGKILL);
}

TEST(RegionOfProcesses, EndsWhenOneRankIsKilledWhileAnotherWaitsForItsSharedVector) {
  EXPECT_EQ(ExitCodeOfRegion("in_shared_sum"), 128 + SIGKILL);
}

TEST(RegionOfProcesses, EndsWhenOneRankIsKilledInsteadOfAllocating) {
  EXPECT_EQ(ExitCodeOfRegion("in_allocate"), 128 + SIGKILL);
}

}  // namespace
