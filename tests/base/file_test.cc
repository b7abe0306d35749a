// Atomic writes, limits, locks and the errors of files.
#include "base/file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <functional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"

namespace {
std::function<int(int)> sync_instead;  // of the system's
}

// This program's own.
extern "C" int fsync(int fd) {
  return sync_instead ? sync_instead(fd) : static_cast<int>(syscall(SYS_fsync, fd));
}

namespace atl {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class File : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = absl::StrCat(testing::TempDir(), "/file_test.", getpid(), ".",
                              testing::UnitTest::GetInstance()->current_test_info()->name());
    ASSERT_TRUE(MakeDirectories(directory_).ok());
  }
  void TearDown() override { fs::remove_all(directory_); }
  std::string Path(const std::string& name) const { return directory_ + "/" + name; }
  int EntriesInDirectory() const {
    return static_cast<int>(
        std::distance(fs::directory_iterator(directory_), fs::directory_iterator()));
  }
  std::string directory_;
};

TEST_F(File, WrittenAtomicallyReadsBackAndLeavesNothingElse) {
  const std::string content = std::string("a\0b\xff", 4) + std::string(100000, 'x');
  ASSERT_TRUE(WriteFileAtomically(Path("f"), content).ok());
  EXPECT_EQ(*ReadFile(Path("f")), content);
  ASSERT_TRUE(WriteFileAtomically(Path("f"), "new").ok());
  EXPECT_EQ(*ReadFile(Path("f")), "new");
  ASSERT_TRUE(WriteFileAtomically(Path("f"), "").ok());
  EXPECT_EQ(*ReadFile(Path("f")), "");
  EXPECT_EQ(EntriesInDirectory(), 1);
}

TEST_F(File, WrittenAtomicallyHasTheModeAskedFor) {
  ASSERT_TRUE(WriteFileAtomically(Path("secret"), "x", 0600).ok());
  struct stat info;
  ASSERT_EQ(stat(Path("secret").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(File, IsNeverSeenHalfWritten) {
  const std::string old_content(300000, 'o'), new_content(300001, 'n');
  ASSERT_TRUE(WriteFileAtomically(Path("f"), old_content).ok());
  std::thread writer([&] {
    for (int i = 0; i < 20; ++i) {
      ASSERT_TRUE(WriteFileAtomically(Path("f"), i % 2 ? old_content : new_content).ok());
    }
  });
  for (int i = 0; i < 200; ++i) {
    const Fd fd = *OpenFile(Path("f"), O_RDONLY);  // one version, whatever happens to the name
    struct stat info;
    ASSERT_EQ(fstat(fd.get(), &info), 0);
    std::string content(info.st_size, '\0');
    ASSERT_TRUE(ReadAt(fd, Path("f"), content.data(), info.st_size, 0).ok());
    ASSERT_TRUE(content == old_content || content == new_content) << content.size();
  }
  writer.join();
}

TEST_F(File, KeepsItsOldContentWhenTheNewCannotBeWritten) {
  ASSERT_TRUE(WriteFileAtomically(Path("f"), "old").ok());
  ASSERT_EQ(mkdir(absl::StrCat(Path("f"), ".", getpid(), ".tmp").c_str(), 0755), 0);
  EXPECT_FALSE(WriteFileAtomically(Path("f"), "new").ok());
  EXPECT_EQ(*ReadFile(Path("f")), "old");
}

TEST_F(File, OnAFullDiskFailsWithTheExitCodeForTheEnvironment) {
  const Fd full = *OpenFile("/dev/full", O_WRONLY);
  const Status status = WriteAt(full, "/dev/full", "x", 1, 0);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ExitCodeOf(status), ExitCode::kEnvironment);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/dev/full"));
}

// In a child with a mount namespace of its own, so that nothing stays mounted, however it ends.
// 0: as it should be, 1: not, 77: this user may not mount.
int OverwriteOnATinyDisk(const std::string& directory) {
  if (unshare(CLONE_NEWNS) != 0 || mount("", "/", "", MS_REC | MS_PRIVATE, nullptr) != 0 ||
      mount("tmpfs", directory.c_str(), "tmpfs", 0, "size=64k") != 0) {
    return 77;
  }
  const std::string path = directory + "/f";
  if (!WriteFileAtomically(path, "old").ok()) return 1;
  const Status status = WriteFileAtomically(path, std::string(1 << 20, 'x'));
  const bool right =
      ExitCodeOf(status) == ExitCode::kEnvironment &&
      status.code() == absl::StatusCode::kResourceExhausted && *ReadFile(path) == "old" &&
      std::distance(fs::directory_iterator(directory), fs::directory_iterator()) == 1;
  return right ? 0 : 1;
}

TEST_F(File, OnAFullDiskKeepsItsOldContentAndLeavesNothingElse) {
  const pid_t child = fork();
  if (child == 0) _exit(OverwriteOnATinyDisk(directory_));
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "mounting a small disk needs root";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST_F(File, LongerThanTheLimitIsRefused) {
  ASSERT_TRUE(WriteFileAtomically(Path("f"), "12345").ok());
  EXPECT_TRUE(ReadFile(Path("f"), 5).ok());
  const auto refused = ReadFile(Path("f"), 4);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr(Path("f")));
}

TEST_F(File, ThatIsMissingOrNoFileIsAnErrorThatNamesIt) {
  const auto missing = ReadFile(Path("nowhere"));
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr(Path("nowhere")));
  EXPECT_FALSE(ReadFile(directory_).ok());
  EXPECT_FALSE(FileSize("/dev/null").ok());
}

TEST_F(File, ShorterThanWhatIsAskedForIsDataLoss) {
  ASSERT_TRUE(WriteFileAtomically(Path("f"), "12345").ok());
  const Fd fd = *OpenFile(Path("f"), O_RDONLY);
  char buffer[8];
  EXPECT_TRUE(ReadAt(fd, "f", buffer, 3, 2).ok());
  EXPECT_EQ(std::string(buffer, 3), "345");
  EXPECT_EQ(ReadAt(fd, "f", buffer, 4, 2).code(), absl::StatusCode::kDataLoss);
}

TEST_F(File, DirectoriesAreMadeWithTheirParentsAndNotOverFiles) {
  EXPECT_TRUE(MakeDirectories(Path("a/b/c")).ok());
  EXPECT_TRUE(MakeDirectories(Path("a/b/c")).ok());
  EXPECT_TRUE(MakeDirectories(Path("d/")).ok());
  EXPECT_TRUE(fs::is_directory(Path("a/b/c")));
  ASSERT_TRUE(WriteFileAtomically(Path("f"), "").ok());
  EXPECT_EQ(ExitCodeOf(MakeDirectories(Path("f"))), ExitCode::kUsage);
  EXPECT_FALSE(MakeDirectories(Path("f/x")).ok());
}

TEST_F(File, FreeSpaceIsThatOfTheNearestParentThatExists) {
  const auto here = FreeSpaceBytes(directory_);
  ASSERT_TRUE(here.ok());
  EXPECT_GT(*here, 0);
  EXPECT_TRUE(FreeSpaceBytes(Path("not/yet/there")).ok());
}

TEST_F(File, LockIsHeldByOneUntilItLetsGo) {
  {
    const auto lock = FileLock::Acquire(Path("lock"));
    ASSERT_TRUE(lock.ok());
    const auto second = FileLock::Acquire(Path("lock"));
    EXPECT_EQ(ExitCodeOf(second.status()), ExitCode::kEnvironment);
    EXPECT_THAT(std::string(second.status().message()), HasSubstr(Path("lock")));
  }
  EXPECT_TRUE(FileLock::Acquire(Path("lock")).ok());
}

TEST_F(File, LockEndsWithTheProcessThatHeldIt) {
  int ready[2], hold[2];
  ASSERT_EQ(pipe2(ready, O_CLOEXEC), 0);
  ASSERT_EQ(pipe2(hold, O_CLOEXEC), 0);
  const pid_t child = fork();
  if (child == 0) {
    const auto lock = FileLock::Acquire(Path("lock"));
    char byte = lock.ok() ? 'y' : 'n';
    if (write(ready[1], &byte, 1) != 1) _exit(2);
    if (read(hold[0], &byte, 1) < 0) _exit(3);  // until killed
    _exit(0);
  }
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  EXPECT_EQ(byte, 'y');
  EXPECT_FALSE(FileLock::Acquire(Path("lock")).ok());
  kill(child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(FileLock::Acquire(Path("lock")).ok());
  for (const int fd : {ready[0], ready[1], hold[0], hold[1]}) close(fd);
}

TEST_F(File, DescriptorIsClosedOnce) {
  Fd first = *OpenFile("/dev/null", O_RDONLY);
  const int number = first.get();
  Fd second = std::move(first);
  EXPECT_FALSE(first.valid());
  EXPECT_EQ(second.get(), number);
  second.Reset();
  EXPECT_EQ(fcntl(number, F_GETFD), -1);
}

// XFS, shut down between the opening of a directory and its fsync: that says 0, though nothing is
// on the disk, and the directory can't be opened any more.
TEST_F(File, ADirectoryThatCantBeOpenedAfterItsSyncIsNotOnTheDisk) {
  const std::string directory = Path("directory");
  ASSERT_TRUE(MakeDirectories(directory).ok());
  EXPECT_TRUE(SyncDirectory(directory).ok());
  sync_instead = [&](int) { return rename(directory.c_str(), Path("away").c_str()); };
  const Status synced = SyncDirectory(directory);
  sync_instead = nullptr;
  EXPECT_THAT(synced.ToString(), HasSubstr(directory));
  EXPECT_FALSE(synced.ok());
  EXPECT_TRUE(fs::exists(Path("away")));
}

}  // namespace
}  // namespace atl
