// The model of the sea on a made-up clock: rates, queues, delays, losses, cuts.
#include "tools/wanlab/sea.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "tests/wanlab/packets.h"

namespace atl {
namespace {

using testing::ElementsAre;

constexpr Nanos kMs = 1'000'000;

Lab TwoRegions() {
  Lab lab;
  lab.regions = {{"a", 0, 0}, {"b", 0, 0}};
  lab.links.resize(4);
  return lab;
}

struct Delivery {
  Nanos time;  // when the packet was due, to the microsecond
  int region;
  uint32_t sequence;
  uint32_t segments;
};

class Harness {
 public:
  explicit Harness(const Lab& lab) : pool_(1 << 30), sea_(lab, &pool_) {}

  Sea& sea() { return sea_; }
  // A packet of `segments` full segments.
  void Send(Nanos now, uint32_t segments = 1, int from = 0, int to = 1) {
    sea_.Send(now, from, to, TcpPacket(&pool_, segments * kTestSegment, sequence_));
    sequence_ += segments * kTestSegment;
  }
  // All that is due up to `until`, each at its own time.
  std::vector<Delivery> Collect(Nanos until) {
    std::vector<Delivery> deliveries;
    while (sea_.next_due() && *sea_.next_due() <= until) {
      const Nanos due = *sea_.next_due();
      sea_.Advance(due, [&](int region, const Packet& packet) {
        deliveries.push_back({due, region, SequenceOf(packet), SegmentsOf(packet).count});
      });
    }
    return deliveries;
  }
  std::vector<Nanos> Times(Nanos until) {
    std::vector<Nanos> times;
    for (const Delivery& delivery : Collect(until)) times.push_back(delivery.time);
    return times;
  }

 private:
  PacketPool pool_;
  Sea sea_;
  uint32_t sequence_ = 0;
};

TEST(Sea, ADelayIsAddedAndNothingElse) {
  Lab lab = TwoRegions();
  lab.link(0, 1).delay_seconds = 0.04;
  Harness harness(lab);
  harness.Send(5 * kMs);
  harness.Send(6 * kMs, 40);
  EXPECT_THAT(harness.Times(1000 * kMs), ElementsAre(45 * kMs, 46 * kMs));
}

// 1500 bytes at 12 Mbit/s take 1 ms.
TEST(Sea, ACapSerialisesPacketsOneBehindTheOther) {
  Lab lab = TwoRegions();
  lab.regions[0].up_bits_per_second = 12'000'000;
  Harness harness(lab);
  for (int i = 0; i < 3; ++i) harness.Send(0);
  harness.Send(10 * kMs);  // the line was idle
  EXPECT_THAT(harness.Times(1000 * kMs), ElementsAre(1 * kMs, 2 * kMs, 3 * kMs, 11 * kMs));
}

TEST(Sea, EveryCapOfThePathCounts) {
  Lab lab = TwoRegions();
  lab.regions[0].up_bits_per_second = 24'000'000;
  lab.link(0, 1).rate_bits_per_second = 12'000'000;
  lab.regions[1].down_bits_per_second = 6'000'000;
  lab.link(0, 1).delay_seconds = 0.01;
  Harness harness(lab);
  for (int i = 0; i < 3; ++i) harness.Send(0);
  // Uplink 0.5 ms each, pair 1 ms each, 10 ms, downlink 2 ms each.
  EXPECT_THAT(harness.Times(1000 * kMs),
              ElementsAre(13 * kMs + kMs / 2, 15 * kMs + kMs / 2, 17 * kMs + kMs / 2));
}

TEST(Sea, ARateHoldsExactlyOverManyPackets) {
  Lab lab = TwoRegions();
  lab.link(0, 1).rate_bits_per_second = 777'777'777;
  lab.link(0, 1).queue_seconds = 10;
  Harness harness(lab);
  const int count = 50000;
  for (int i = 0; i < count; ++i) harness.Send(0);
  const std::vector<Nanos> times = harness.Times(INT64_MAX - 1);
  ASSERT_EQ(times.size(), static_cast<size_t>(count));
  EXPECT_NEAR(static_cast<double>(times.back()), count * 12000e9 / 777'777'777, 2);
}

TEST(Sea, ALongSuperPacketIsCutIntoQuantaOfOneMillisecond) {
  Lab lab = TwoRegions();
  lab.regions[0].up_bits_per_second = 48'000'000;  // four segments a millisecond
  Harness harness(lab);
  harness.Send(0, 10);
  std::vector<uint32_t> segments;
  std::vector<Nanos> times;
  for (const Delivery& delivery : harness.Collect(1000 * kMs)) {
    segments.push_back(delivery.segments);
    times.push_back(delivery.time);
  }
  EXPECT_THAT(segments, ElementsAre(4, 4, 2));
  EXPECT_THAT(times, ElementsAre(kMs, 2 * kMs, 2 * kMs + kMs / 2));
}

TEST(Sea, AFastLineCarriesASuperPacketWhole) {
  Lab lab = TwoRegions();
  lab.regions[0].up_bits_per_second = 1'000'000'000;
  Harness harness(lab);
  harness.Send(0, 40);
  const std::vector<Delivery> deliveries = harness.Collect(1000 * kMs);
  ASSERT_EQ(deliveries.size(), 1u);
  EXPECT_EQ(deliveries[0].segments, 40u);
  EXPECT_EQ(deliveries[0].time, 40 * 12'000);
}

// 10 ms at 12 Mbit/s: 1 on the line and those that wait at most 10 ms.
TEST(Sea, WhatDoesNotFitTheQueueIsDroppedAtItsTail) {
  Lab lab = TwoRegions();
  lab.link(0, 1).rate_bits_per_second = 12'000'000;
  lab.link(0, 1).queue_seconds = 0.01;
  Harness harness(lab);
  harness.Send(0, 5);   // goes through
  harness.Send(0, 20);  // six of it wait 5 to 10 ms, the rest would wait longer
  const std::vector<Delivery> deliveries = harness.Collect(1000 * kMs);
  EXPECT_EQ(deliveries.size(), 11u);
  EXPECT_EQ(deliveries.back().time, 11 * kMs);
  EXPECT_EQ(harness.sea().link_counts(0, 1).dropped, 14);
  EXPECT_EQ(harness.sea().link_counts(0, 1).segments, 11);
}

TEST(Sea, CapsOfARegionHoldOverAllItsPeers) {
  Lab lab;
  lab.regions = {{"a", 0, 12'000'000}, {"b", 0, 0}, {"c", 0, 0}};
  lab.links.resize(9);
  Harness harness(lab);
  harness.Send(0, 2, 1, 0);
  harness.Send(0, 2, 2, 0);
  harness.Send(0, 2, 1, 2);  // not a's
  const std::vector<Delivery> deliveries = harness.Collect(1000 * kMs);
  ASSERT_EQ(deliveries.size(), 5u);
  EXPECT_EQ(deliveries[0].region, 2);
  EXPECT_EQ(deliveries.back().time, 4 * kMs);
}

TEST(Sea, JitterIsWithinItsSpanAndKeepsTheOrder) {
  Lab lab = TwoRegions();
  lab.link(0, 1).delay_seconds = 0.02;
  lab.link(0, 1).jitter_seconds = 0.005;
  Harness harness(lab);
  for (int i = 0; i < 500; ++i) harness.Send(i * kMs / 2);
  const std::vector<Delivery> deliveries = harness.Collect(1000 * kMs);
  ASSERT_EQ(deliveries.size(), 500u);
  int distinct = 0;
  for (uint32_t i = 0; i < 500; ++i) {
    EXPECT_EQ(deliveries[i].sequence, i * kTestSegment);
    const Nanos extra = deliveries[i].time - (i * kMs / 2 + 20 * kMs);
    EXPECT_GE(extra, 0);
    EXPECT_LT(extra, 5 * kMs);
    if (i > 0 && deliveries[i].time != deliveries[i - 1].time) ++distinct;
  }
  EXPECT_GT(distinct, 20);
}

std::vector<bool> LostOf(uint64_t seed, double loss, const std::vector<uint32_t>& groups) {
  LossProcess process(seed);
  process.Set(loss);
  std::vector<bool> lost;
  for (const uint32_t count : groups) {
    std::vector<bool> group(count);
    for (const uint32_t at : process.Next(count)) group[at] = true;
    lost.insert(lost.end(), group.begin(), group.end());
  }
  return lost;
}

TEST(Loss, WhichSegmentsAreLostDependsOnTheSeedAlone) {
  const std::vector<uint32_t> ones(3000, 1), groups(100, 30);
  EXPECT_EQ(LostOf(5, 0.01, ones), LostOf(5, 0.01, groups));
  EXPECT_NE(LostOf(5, 0.01, ones), LostOf(6, 0.01, ones));
}

TEST(Loss, TheShareIsWhatWasAsked) {
  for (const double loss : {1e-4, 1e-2, 0.3, 0.9}) {
    const int count = 4'000'000;
    const std::vector<bool> lost = LostOf(11, loss, std::vector<uint32_t>(count / 1000, 1000));
    const double expected = loss * count, deviation = std::sqrt(expected * (1 - loss));
    EXPECT_NEAR(static_cast<double>(std::count(lost.begin(), lost.end(), true)), expected,
                4 * deviation)
        << loss;
  }
}

TEST(Loss, NoneMeansNone) {
  LossProcess process(1);
  EXPECT_TRUE(process.Next(1 << 20).empty());
  process.Set(0.5);
  EXPECT_FALSE(process.Next(100).empty());
  process.Set(0);
  EXPECT_TRUE(process.Next(1 << 20).empty());
}

TEST(Sea, ALostSegmentTakesNoOtherWithIt) {
  Lab lab = TwoRegions();
  lab.link(0, 1).loss = 0.1;
  Harness harness(lab);
  for (int i = 0; i < 200; ++i) harness.Send(0, 40);
  std::vector<bool> seen(200 * 40);
  for (const Delivery& delivery : harness.Collect(1000 * kMs)) {
    for (uint32_t i = 0; i < delivery.segments; ++i) {
      const size_t at = delivery.sequence / kTestSegment + i;
      ASSERT_FALSE(seen[at]);
      seen[at] = true;
    }
  }
  const int64_t lost = std::count(seen.begin(), seen.end(), false);
  EXPECT_EQ(lost, harness.sea().link_counts(0, 1).lost);
  EXPECT_EQ(harness.sea().link_counts(0, 1).segments, 8000);
  EXPECT_NEAR(static_cast<double>(lost), 800, 4 * 27);
  EXPECT_EQ(harness.sea().link_counts(1, 0).lost, 0);
}

TEST(Sea, ACutLosesWhatIsOnItsWayToo) {
  Lab lab = TwoRegions();
  lab.link(0, 1).delay_seconds = 0.04;
  Harness harness(lab);
  harness.Send(0, 3);
  harness.sea().SetCut(0, 1, true);
  harness.Send(1 * kMs, 2);
  EXPECT_TRUE(harness.Collect(100 * kMs).empty());
  EXPECT_EQ(harness.sea().link_counts(0, 1).cut, 5);
  harness.sea().SetCut(0, 1, false);
  harness.Send(100 * kMs);
  EXPECT_THAT(harness.Times(1000 * kMs), ElementsAre(140 * kMs));
}

TEST(Sea, AShorterDelayOvertakesNobody) {
  Lab lab = TwoRegions();
  lab.link(0, 1).delay_seconds = 0.04;
  Harness harness(lab);
  harness.Send(0);
  LabLink quicker = lab.link(0, 1);
  quicker.delay_seconds = 0.001;
  harness.sea().SetLink(0, 1, quicker);
  harness.Send(1 * kMs);
  EXPECT_THAT(harness.Times(1000 * kMs), ElementsAre(40 * kMs, 40 * kMs));
}

TEST(Sea, ALiftedCapOvertakesNobody) {
  Lab lab = TwoRegions();
  lab.regions[1].down_bits_per_second = 12'000'000;
  Harness harness(lab);
  for (int i = 0; i < 3; ++i) harness.Send(0);
  harness.sea().Advance(0, [](int, const Packet&) { FAIL(); });
  harness.sea().SetCaps(1, 0, 0);
  harness.Send(0);
  const std::vector<Delivery> deliveries = harness.Collect(1000 * kMs);
  ASSERT_EQ(deliveries.size(), 4u);
  EXPECT_EQ(deliveries.back().sequence, 3 * kTestSegment);
}

TEST(Sea, WithoutMemoryPacketsAreCountedAsDropped) {
  PacketPool pool(1 << 30);
  Sea sea(TwoRegions(), &pool);
  sea.Send(0, 0, 1, nullptr);
  EXPECT_EQ(sea.region_counts(0).out_of_memory, 1);
  EXPECT_EQ(sea.next_due(), std::nullopt);
}

}  // namespace
}  // namespace atl
