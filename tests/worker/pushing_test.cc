// Checkpoints on their way to an object store: the newest one, again where it failed, and at the
// end one attempt more.
#include "worker/region/pushing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/exit_code.h"

namespace atl {
namespace {

using testing::ElementsAre;

// An object store that is told what to answer, and that may be held.
class Store {
 public:
  Pushing::Attempt attempt() {
    return
        [this](const std::string& path, const Pushing::Cancelled& cancelled) -> StatusOr<int64_t> {
          MutexLock lock(&mutex_);
          ++begun_;
          changed_.NotifyAll();
          while (held_ && !cancelled()) changed_.WaitFor(&mutex_, 0.01);
          if (held_) return absl::CancelledError("given up");
          attempts_.push_back(path);
          if (failures_ > 0) {
            --failures_;
            return absl::UnavailableError("the store is away");
          }
          return 5;
        };
  }
  void Hold(bool held) {
    MutexLock lock(&mutex_);
    held_ = held;
    changed_.NotifyAll();
  }
  void FailTimes(int times) {
    MutexLock lock(&mutex_);
    failures_ = times;
  }
  void AwaitBegun(int attempts) {
    MutexLock lock(&mutex_);
    while (begun_ < attempts) changed_.Wait(&mutex_);
  }
  std::vector<std::string> attempts() {
    MutexLock lock(&mutex_);
    return attempts_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  int begun_ = 0, failures_ = 0;
  bool held_ = false;
  std::vector<std::string> attempts_;
};

// Paths that are there: a checkpoint that is gone is not pushed again.
constexpr char kFirst[] = "/", kSecond[] = "/tmp", kThird[] = "/usr";

TEST(Pushing, OfThoseThatWaitTheNewestIsPushed) {
  Store store;
  store.Hold(true);
  Pushing pushing("s3://bucket", store.attempt());
  pushing.Push(1, kFirst);
  store.AwaitBegun(1);
  pushing.Push(2, kSecond);
  pushing.Push(3, kThird);
  store.Hold(false);
  pushing.Finish();
  EXPECT_THAT(store.attempts(), ElementsAre(kFirst, kThird));
  const auto tended = pushing.TakeTended();
  ASSERT_EQ(tended.size(), 2u);
  EXPECT_EQ(tended[1].round(), 3);
  EXPECT_EQ(tended[1].place(), "s3://bucket");
  EXPECT_EQ(tended[1].bytes(), 5);
  EXPECT_EQ(tended[1].failure(), "");
  EXPECT_TRUE(pushing.TakeTended().empty());
}

TEST(Pushing, AFailureIsToldOnceAndTriedAgainUntilItIsDone) {
  Store store;
  store.FailTimes(3);
  Pushing pushing("s3://bucket", store.attempt(), 0.001);
  pushing.Push(1, kFirst);
  store.AwaitBegun(4);
  pushing.Finish();
  EXPECT_EQ(store.attempts().size(), 4u);
  const auto tended = pushing.TakeTended();
  ASSERT_EQ(tended.size(), 2u);
  EXPECT_EQ(tended[0].failure(), "the store is away");
  EXPECT_EQ(tended[1].failure(), "");
}

TEST(Pushing, ANewerOneEndsTheWaitForAnother) {
  Store store;
  store.FailTimes(1);
  Pushing pushing("s3://bucket", store.attempt(), 1e6);
  pushing.Push(1, kFirst);
  store.AwaitBegun(1);
  pushing.Push(2, kSecond);
  pushing.Finish();
  EXPECT_THAT(store.attempts(), ElementsAre(kFirst, kSecond));
}

TEST(Pushing, AtTheEndThereIsOneAttemptAndNoWait) {
  Store store;
  store.FailTimes(1000);
  Pushing pushing("s3://bucket", store.attempt(), 1e6);
  pushing.Push(1, kFirst);
  store.AwaitBegun(1);
  pushing.Finish();
  EXPECT_THAT(store.attempts(), ElementsAre(kFirst));
}

TEST(Pushing, WhoeverLeavesWaitsForNoStore) {
  Store store;
  store.Hold(true);
  Pushing pushing("s3://bucket", store.attempt());
  pushing.Push(1, kFirst);
  store.AwaitBegun(1);
  pushing.Stop();
  pushing.Finish();  // returns, though the store still holds
  pushing.Push(2, kSecond);
  EXPECT_TRUE(store.attempts().empty());
  EXPECT_TRUE(pushing.TakeTended().empty());
}

TEST(Pushing, WhatIsGoneIsForgotten) {
  Store store;
  store.FailTimes(1000);
  Pushing pushing("s3://bucket", store.attempt(), 1e6);
  pushing.Push(1, "/no/such/checkpoint");
  pushing.Finish();
  EXPECT_TRUE(pushing.TakeTended().empty());
}

TEST(Pushing, APlaceMustBeOneOfAnObjectStore) {
  EXPECT_TRUE(CheckPlace("s3://bucket/some/prefix").ok());
  EXPECT_EQ(ExitCodeOf(CheckPlace("/mnt/archive")), ExitCode::kUsage);
}

}  // namespace
}  // namespace atl
