// What transfers may send: beside an all-reduce, and under a cap that several share.
#include "collectives/wan/spare_rate.h"

#include <gtest/gtest.h>

#include <map>
#include <vector>

namespace atl::wan {
namespace {

constexpr int64_t kFrame = 16 << 10;
constexpr double kTick = 0.02;

// Bytes that each of them sends in so many seconds, asking one after the other each tick.
std::map<uintptr_t, int64_t> Send(RateCap* cap, const std::vector<uintptr_t>& those, double begin,
                                  double seconds) {
  std::map<uintptr_t, int64_t> sent;
  for (double now = begin; now < begin + seconds; now += kTick) {
    for (bool any = true; any;) {
      any = false;
      for (const uintptr_t who : those) {
        while (sent[who] < 1'000'000'000 && cap->Allows(now, who)) {
          cap->Spend(kFrame, who);
          sent[who] += kFrame;
          any = true;
        }
      }
    }
  }
  return sent;
}

TEST(RateCap, BoundsWhatOneSends) {
  RateCap cap;
  cap.Set(1e6);
  const int64_t sent = Send(&cap, {1}, 100, 10)[1];
  EXPECT_NEAR(static_cast<double>(sent), 10e6, 0.1e6);
}

TEST(RateCap, ThoseWhoShareItSendAlike) {
  RateCap cap;
  cap.Set(3e6);
  auto sent = Send(&cap, {1, 2, 3}, 100, 10);
  EXPECT_NEAR(static_cast<double>(sent[1] + sent[2] + sent[3]), 30e6, 0.2e6);
  for (const uintptr_t who : {1, 2, 3}) {
    EXPECT_NEAR(static_cast<double>(sent[who]), 10e6, 3e6) << who;
  }
  // Who is alone again has all of it.
  EXPECT_NEAR(static_cast<double>(Send(&cap, {2}, 111, 10)[2]), 30e6, 0.2e6);
}

TEST(RateCap, ChangesAtOnce) {
  RateCap cap;
  EXPECT_EQ((Send(&cap, {1}, 100, kTick / 2)[1] + kFrame - 1) / 1'000'000'000, 1);
  cap.Set(1e5);
  EXPECT_LE((Send(&cap, {1}, 101, 1)[1]), 1e5 + 2 * kFrame);
  cap.Set(1e6);
  EXPECT_GE((Send(&cap, {1}, 102, 1)[1]), 0.9e6);
  cap.Set(0);
  EXPECT_TRUE(cap.Allows(103, 1));
}

TEST(SpareRate, FallsWhileBytesStandInQueuesAndGrowsElse) {
  SpareRate spare;
  EXPECT_TRUE(spare.Allows());
  const auto sent_in = [&](double begin, double queue) {
    int64_t sent = 0;
    for (double now = begin; now < begin + 10; now += kTick) {
      spare.Limit(now, queue, 0.08, 10e6);
      while (spare.Allows()) {
        spare.Spend(kFrame);
        sent += kFrame;
      }
    }
    return static_cast<double>(sent) / 10;
  };
  const double free = sent_in(100, 0);
  EXPECT_GT(free, 5e6);
  EXPECT_LE(free, 10.1e6);
  // It still says that it lives.
  const double full = sent_in(110, 0.05);
  EXPECT_LT(full, 0.05 * 10e6);
  EXPECT_GT(full, 32e3);
  spare.Open();
  for (int i = 0; i < 1000; ++i) spare.Spend(kFrame);
  EXPECT_TRUE(spare.Allows());
}

}  // namespace
}  // namespace atl::wan
