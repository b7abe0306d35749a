// Collectives behind computations: order, errors, ends.
#include "collectives/queue.h"

#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <vector>

namespace atl {
namespace {

TEST(CollectiveQueue, RunsOperationsInTheOrderOfSubmission) {
  std::vector<int> done;
  CollectiveQueue queue;
  for (int i = 0; i < 1000; ++i) {
    queue.Submit([&done, i] {
      done.push_back(i);
      return OkStatus();
    });
  }
  ASSERT_TRUE(queue.Drain().ok());
  ASSERT_EQ(done.size(), 1000u);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(done[i], i);
}

TEST(CollectiveQueue, RunsBehindTheCaller) {
  std::promise<void> go;
  bool done = false;
  CollectiveQueue queue;
  queue.Submit([&] {
    go.get_future().wait();  // would wait for ever if Submit ran it
    done = true;
    return OkStatus();
  });
  go.set_value();
  ASSERT_TRUE(queue.Drain().ok());
  EXPECT_TRUE(done);
}

TEST(CollectiveQueue, DrainsAtOnceWhenThereIsNothing) {
  CollectiveQueue queue;
  EXPECT_TRUE(queue.Drain().ok());
  EXPECT_TRUE(queue.Drain().ok());
}

TEST(CollectiveQueue, RefusesWhatFollowsAFailureUntilItIsTold) {
  std::promise<void> go;
  int ran = 0;
  CollectiveQueue queue;
  queue.Submit([&] {
    go.get_future().wait();
    return absl::UnavailableError("the first");
  });
  const auto count = [&] {
    ++ran;
    return absl::InternalError("a later one");
  };
  queue.Submit(count);
  queue.Submit(count);
  go.set_value();
  const Status status = queue.Drain();
  EXPECT_EQ(status, absl::UnavailableError("the first"));
  EXPECT_EQ(ran, 0);
  EXPECT_TRUE(queue.Drain().ok()) << "an error is told once";
  queue.Submit(count);
  EXPECT_EQ(queue.Drain(), absl::InternalError("a later one"));
}

TEST(CollectiveQueue, LetsGoOfWhatAnOperationHoldsBeforeDrainReturns) {
  auto held = std::make_shared<int>(1);
  CollectiveQueue queue;
  queue.Submit([held] { return OkStatus(); });
  ASSERT_TRUE(queue.Drain().ok());
  EXPECT_EQ(held.use_count(), 1);
}

TEST(CollectiveQueue, WaitsForTheRunningOperationWhenDestroyed) {
  std::promise<void> started, go;
  bool finished = false;
  auto queue = std::make_unique<CollectiveQueue>();
  queue->Submit([&] {
    started.set_value();
    go.get_future().wait();
    finished = true;
    return OkStatus();
  });
  started.get_future().wait();
  std::thread destroyer([&] { queue.reset(); });
  go.set_value();
  destroyer.join();
  EXPECT_TRUE(finished);
}

}  // namespace
}  // namespace atl
