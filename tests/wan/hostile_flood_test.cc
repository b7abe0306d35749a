// Far too much of everything, from a member that has the key: memory stays bounded, and the others
// have their turn.
#include <gtest/gtest.h>

#include <thread>

#include "tests/wan/hostile.h"

namespace atl::wan {
namespace {

using WanFlood = WanHostile;

TEST_F(WanFlood, EarlyStartsWithHugePlansTakeNoMemory) {
  for (const bool first : {true, false}) {
    const Group group = NewView(first ? 0 : 1);
    auto link = first ? JoinAsFirst(group) : JoinAsSecond(group);
    Start start = StartOf(1000, kPlan);
    start.next_plan.assign(kMaxPlanBytes, 0);
    const std::vector<uint8_t> payload = EncodeStart(start);
    const size_t before = ResidentBytes();
    for (uint64_t id = 1; id <= 2000; ++id) {
      if (!link->Send(Header(FrameType::kStart, 1 + id, id), payload)) break;
    }
    link->AwaitEnd();
    EXPECT_LT(ResidentBytes(), before + kRoom);
    engine().Leave(group.view);
  }
}

TEST_F(WanFlood, EarlyStartsMakeTheirConnectionWaitAndNotTheOthers) {
  const Group group = NewView(1);
  const auto link = JoinAsSecond(group);
  const size_t before = ResidentBytes();
  const std::vector<uint8_t> payload = EncodeStart(StartOf(1000, 1));
  for (uint64_t id = 1; id <= 2000; ++id) {
    ASSERT_TRUE(link->Send(Header(FrameType::kStart, 1 + id, id), payload));
  }
  EXPECT_TRUE(link->Stands());  // it waits, and hears that we live
  EXPECT_LT(ResidentBytes(), before + kRoom);
  OthersGoOn();
  std::vector<float> data(1000);  // an operation past them all lets it go on
  const auto operation = engine().AllReduce(group.view, group.lane, 5000, data, {});
  EXPECT_TRUE(link->Stands());
  operation->Cancel();
}

TEST_F(WanFlood, ReportsWithoutEndTakeNoMemory) {
  // Member 2 of three never comes, so that nobody looks at the reports.
  Group group = NewView(1);
  group.members.push_back(group.members[1]);
  group.names.push_back("late");
  std::thread joining = Joining(group);
  const auto link = Call(group);
  ASSERT_TRUE(link->ready());
  const size_t before = ResidentBytes();
  const std::vector<uint8_t> report = ReportOf(0.1);
  for (uint64_t i = 1; i <= kFlood; ++i) link->Send(Header(FrameType::kReport, i), report);
  EXPECT_TRUE(link->Stands());
  EXPECT_LT(ResidentBytes(), before + kRoom);
  engine().Leave(group.view);
  joining.join();
}

TEST_F(WanFlood, SequenceNumbersWithGapsAreBounded) {
  const Group group = NewView(1);
  const auto link = JoinAsSecond(group);
  const size_t before = ResidentBytes();
  const std::vector<uint8_t> report = ReportOf(0.1);
  bool stood = true;
  for (uint64_t i = 1; i <= kFlood && stood; ++i) {
    stood = link->Send(Header(FrameType::kReport, 1 + 2 * i), report);
  }
#ifndef ATOLL_WATCHED
  link->AwaitEnd();
#endif
  EXPECT_LT(ResidentBytes(), before + kRoom);
}

TEST_F(WanFlood, PingsWithoutEndWhoseAnswersNobodyReadsTakeNoMemory) {
  const Group group = NewView(1);
  const auto watching = JoinAsSecond(group);
  // So many gaps that an acknowledgement is long.
  for (uint64_t i = 1; i <= 100; ++i) {
    watching->Send(Header(FrameType::kReport, 1 + 2 * i), ReportOf(0.1));
  }
  const auto deaf = Call(group, 7, 4096);
  ASSERT_TRUE(deaf->ready());
  const size_t before = ResidentBytes();
  for (int i = 0; i < kFlood / 10; ++i) {
    ASSERT_TRUE(deaf->Send(Header(FrameType::kPing)));
    ASSERT_TRUE(watching->Stands());
  }
  EXPECT_LT(ResidentBytes(), before + kRoom);
  OthersGoOn();
}

TEST_F(WanFlood, PingsAndProbesWithoutEndLeaveTheOthersTheirTurn) {
  const Group group = NewView(1);
  const auto link = JoinAsSecond(group);
  const size_t before = ResidentBytes();
  std::thread flood([&] {
    const std::vector<uint8_t> probe(64 << 10);
    for (int i = 0; i < kFlood; ++i) {
      link->Send(Header(FrameType::kPing));
      if (i % 100 == 0) link->Send(Header(FrameType::kProbe), probe);
    }
  });
  for (int i = 0; i < 10; ++i) OthersGoOn();
  flood.join();
  EXPECT_TRUE(link->Stands());
  EXPECT_LT(ResidentBytes(), before + kRoom);
}

TEST_F(WanFlood, ConnectionsOfOneMemberAreBounded) {
  const Group group = NewView(1);
  const auto link = JoinAsSecond(group);
  std::vector<std::unique_ptr<HostileLink>> more;
  int ready = 1;
  for (int i = 0; i < kMaxStreams + 10; ++i) {
    more.push_back(Call(group));
    ready += more.back()->ready() ? 1 : 0;
  }
  EXPECT_EQ(ready, kMaxStreams);
  OthersGoOn();
}

}  // namespace
}  // namespace atl::wan
