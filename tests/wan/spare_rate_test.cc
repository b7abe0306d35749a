// What transfers may send: beside an all-reduce, under a cap that several share, and beside traffic
// that shows in round trips alone.
#include "collectives/wan/spare_rate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <vector>

#include "collectives/wan/yield_rate.h"

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

// A sender that yields on a line of 5 MB/s and 80 ms, tick by tick.
class YieldingLine {
 public:
  static constexpr double kLine = 5e6;
  static constexpr double kTrip = 0.08;

  // What is sent in so many seconds, bytes/s. `others`: bytes/s of other traffic. `late`: how much
  // later acknowledgements come for the first two round trips.
  double Run(double seconds, Yield yield, double others = 0, double late = 0) {
    const double until = now_ + 2 * kTrip;
    int64_t sent = 0;
    longest_ = 0;
    rate_.Begin(now_, yield);
    for (const double end = now_ + seconds; now_ < end; now_ += kTick) {
      // What it hears is a round trip old.
      heard_.push_back(queue_ / kLine);
      if (heard_.size() > static_cast<size_t>(kTrip / kTick)) heard_.pop_front();
      rate_.Tick(now_, heard_.front() + (now_ < until ? late : 0), kTrip);
      while (rate_.Allows(true)) {
        rate_.Spend(kFrame);
        sent += kFrame;
        queue_ += kFrame;
      }
      queue_ = std::max(0.0, queue_ + (others - kLine) * kTick);
      longest_ = std::max(longest_, queue_ / kLine);
    }
    return static_cast<double>(sent) / seconds;
  }
  double longest_queue() const { return longest_; }

 private:
  YieldRate rate_;
  double now_ = 100;
  double queue_ = 0;    // bytes
  double longest_ = 0;  // seconds, in the last Run
  std::deque<double> heard_;
};

TEST(YieldRate, FindsTheLineFromNothingAndKeepsItsQueueShort) {
  YieldingLine line;
  EXPECT_GT(line.Run(2, Yield::kSpare), 0.5 * YieldingLine::kLine);
  EXPECT_GT(line.Run(20, Yield::kSpare), 0.85 * YieldingLine::kLine);
  EXPECT_LT(line.longest_queue(), 0.04);
}

TEST(YieldRate, LeavesTheLineToOthersAndComesBackQuickly) {
  YieldingLine line;
  line.Run(10, Yield::kSpare);
  // Others who need half the line have it.
  const double beside = line.Run(20, Yield::kSpare, 0.5 * YieldingLine::kLine);
  EXPECT_LT(beside, 0.51 * YieldingLine::kLine);
  EXPECT_GT(beside, 0.35 * YieldingLine::kLine);
  // Others who fill it, too.
  EXPECT_LT(line.Run(20, Yield::kSpare, 1.2 * YieldingLine::kLine), 0.05 * YieldingLine::kLine);
}

TEST(YieldRate, NextToNothingWhileItIsHeldAndHalfTheLineWithinASecondAfterwards) {
  YieldingLine line;
  line.Run(10, Yield::kSpare);
  const double held = line.Run(2, Yield::kHold);
  EXPECT_LT(held, 0.05 * YieldingLine::kLine);
  EXPECT_GT(held, 32e3);
  EXPECT_GT(line.Run(1, Yield::kSpare), 0.5 * YieldingLine::kLine);
  // However short what lies between, it learns.
  YieldingLine hasty;
  double last = 0;
  for (int i = 0; i < 20; ++i) {
    hasty.Run(1, Yield::kHold);
    last = hasty.Run(0.4, Yield::kSpare);
  }
  EXPECT_GT(last, 0.4 * YieldingLine::kLine);
  // Of short turns whose beginning looks like a queue, too.
  YieldingLine late;
  for (int i = 0; i < 20; ++i) {
    late.Run(1, Yield::kHold, 0, 0.04);
    last = late.Run(0.3, Yield::kSpare, 0, 0.04);
  }
  EXPECT_GT(last, 0.1 * YieldingLine::kLine);
  // Where nothing yields there is no bound.
  YieldRate rate;
  rate.Begin(1, Yield::kHold);
  rate.Tick(1.02, 0, YieldingLine::kTrip);
  while (rate.Allows(true)) rate.Spend(kFrame);
  rate.Begin(2, Yield::kNothing);
  for (int i = 0; i < 1000; ++i) rate.Spend(kFrame);
  EXPECT_TRUE(rate.Allows(true));
}

}  // namespace
}  // namespace atl::wan
