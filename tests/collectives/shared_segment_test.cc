// Memory shared by processes: found by its address, refused if it is something else, and a rank's
// death seen.
#include "collectives/mpi/shared_segment.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <functional>

namespace atl {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kBytes = 1 << 16;

// A child that opens the segment, does `body` and waits for its end.
class Child {
 public:
  Child(const SegmentAddress& address, const std::function<bool(SharedSegment&)>& body) {
    int pipe_ends[2];
    EXPECT_EQ(pipe(pipe_ends), 0);
    pid_ = fork();
    if (pid_ == 0) {
      auto segment = SharedSegment::Open(address);
      const char good = segment.ok() && body(**segment) ? 'y' : 'n';
      if (write(pipe_ends[1], &good, 1) != 1) _exit(1);
      for (;;) pause();
    }
    char answer = 'n';
    EXPECT_EQ(read(pipe_ends[0], &answer, 1), 1);
    good_ = answer == 'y';
    close(pipe_ends[0]);
    close(pipe_ends[1]);
  }
  ~Child() { Kill(); }
  bool good() const { return good_; }
  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

 private:
  pid_t pid_ = -1;
  bool good_ = false;
};

TEST(SharedSegment, IsSeenByAProcessThatOpensItsAddress) {
  auto segment = SharedSegment::Create(kBytes);
  ASSERT_TRUE(segment.ok()) << segment.status();
  char* const word = (*segment)->data() + SharedSegment::kReserved;
  EXPECT_EQ(word[0], 0);
  std::strcpy(word, "from the parent");
  Child child((*segment)->address(), [](SharedSegment& opened) {
    char* const seen = opened.data() + SharedSegment::kReserved;
    const bool good = std::strcmp(seen, "from the parent") == 0;
    std::strcpy(seen, "from the child");
    return good;
  });
  EXPECT_TRUE(child.good());
  EXPECT_STREQ(word, "from the child");
}

TEST(SharedSegment, HoldsARankUntilItsProcessIsKilled) {
  auto segment = SharedSegment::Create(kBytes);
  ASSERT_TRUE(segment.ok());
  ASSERT_TRUE((*segment)->Hold(0).ok());
  EXPECT_FALSE((*segment)->Holds(1));
  Child child((*segment)->address(), [](SharedSegment& opened) {
    return opened.Hold(1).ok() && opened.Holds(0) && !opened.Hold(0).ok();
  });
  EXPECT_TRUE(child.good());
  EXPECT_TRUE((*segment)->Holds(1));
  child.Kill();
  EXPECT_FALSE((*segment)->Holds(1));
}

TEST(SharedSegment, RefusesAnAddressThatIsSomethingElse) {
  auto segment = SharedSegment::Create(kBytes);
  ASSERT_TRUE(segment.ok());
  SegmentAddress other_name = (*segment)->address();
  other_name.name[1] ^= 1;
  EXPECT_THAT(SharedSegment::Open(other_name).status().message(), HasSubstr("other processes"));
  SegmentAddress other_size = (*segment)->address();
  other_size.bytes += 4096;
  EXPECT_EQ(SharedSegment::Open(other_size).status().code(), absl::StatusCode::kNotFound);
  SegmentAddress no_file = (*segment)->address();
  no_file.fd = 9999;
  EXPECT_FALSE(SharedSegment::Open(no_file).ok());
  int pipe_ends[2];
  ASSERT_EQ(pipe(pipe_ends), 0);
  SegmentAddress a_pipe = (*segment)->address();
  a_pipe.fd = pipe_ends[0];
  EXPECT_EQ(SharedSegment::Open(a_pipe).status().code(), absl::StatusCode::kNotFound);
  close(pipe_ends[0]);
  close(pipe_ends[1]);
}

TEST(SharedSegment, CannotBeCutShortByAProcessThatSharesIt) {
  auto segment = SharedSegment::Create(kBytes);
  ASSERT_TRUE(segment.ok());
  const int fd = static_cast<int>((*segment)->address().fd);
  EXPECT_NE(ftruncate(fd, 4096), 0);
  EXPECT_NE(ftruncate(fd, kBytes * 2), 0);
}

}  // namespace
}  // namespace atl
