// A member that has the key and keeps no rule: frames at wrong times, of wrong sizes, out of every
// order. What it gets is the end of its connections and, if it goes on, of its view; the process
// and its other views are not its to harm.
#include "tests/wan/hostile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "absl/strings/str_cat.h"

namespace atl::wan {
namespace {

using testing::HasSubstr;

// ---- frames that have no place

struct Breach {
  const char* what;
  std::function<void(HostileLink*)> act;
};

std::vector<Breach> BreachesAtAnyTime() {
  const auto bytes = [](size_t size) { return std::vector<uint8_t>(size, 0xFF); };
  std::vector<Breach> all = {
      {"a second confirmation", [](HostileLink* link) { link->Send(Header(FrameType::kConfirm)); }},
      {"an acknowledgement of what was never sent",
       [](HostileLink* link) {
         link->Send(Header(FrameType::kAck), EncodeAck({uint64_t{1} << 40, {}}));
       }},
      {"an acknowledgement of ranges that were never sent",
       [](HostileLink* link) {
         link->Send(Header(FrameType::kAck), EncodeAck({1, {{1000000, 1000001}}}));
       }},
      {"an acknowledgement of nothing",
       [=](HostileLink* link) { link->Send(Header(FrameType::kAck), bytes(8)); }},
      {"a plan without a sequence number",
       [=](HostileLink* link) { link->Send(Header(FrameType::kPlan), bytes(8)); }},
      {"a probe with one", [](HostileLink* link) { link->Send(Header(FrameType::kProbe, 9)); }},
      {"an unknown type",
       [](HostileLink* link) { link->Send(Header(static_cast<FrameType>(99), 9)); }},
      {"a ping that carries something",
       [=](HostileLink* link) { link->Send(Header(FrameType::kPing), bytes(1)); }},
      {"a start that is too short",
       [=](HostileLink* link) { link->Send(Header(FrameType::kStart, 9, 9), bytes(3)); }},
      {"a start that is none",
       [=](HostileLink* link) { link->Send(Header(FrameType::kStart, 9, 9), bytes(kStartSize)); }},
      {"a length of 4 GiB",
       [](HostileLink* link) {
         FrameHeader header = Header(FrameType::kContribution, 9, 9);
         header.range = {0, 1};
         header.payload = 0xFFFFFFFF;
         link->SendAs(header, {});
       }},
      {"a sequence number beyond all",
       [](HostileLink* link) {
         link->Send(Header(FrameType::kAbort, ~uint64_t{0}, 9), EncodeReason({}));
       }},
      {"a reason that is none",
       [=](HostileLink* link) { link->Send(Header(FrameType::kAbort, 9, 9), bytes(20)); }},
      {"numbers without elements",
       [=](HostileLink* link) { link->Send(Header(FrameType::kResult, 9, 9), bytes(8)); }},
      {"numbers of an operation that it has not started",
       [=](HostileLink* link) {
         link->Send(Numbers(FrameType::kResult, 9, 99, {0, 2}, 0), bytes(8));
       }},
      {"an attachment of an operation that it has not started",
       [=](HostileLink* link) { link->Send(Header(FrameType::kAttachment, 9, 99), bytes(8)); }},
      {"a frame that was tampered with",
       [](HostileLink* link) {
         uint8_t ping[kHeaderSize + kTagSize] = {};
         EncodeHeader(Header(FrameType::kPing), ping);
         link->SendRaw(ping);
       }},
  };
  return all;
}

TEST_F(WanHostile, WhatBreaksTheRulesCostsItsConnection) {
  for (const bool first : {false, true}) {
    for (const Breach& breach : BreachesAtAnyTime()) {
      SCOPED_TRACE(absl::StrCat(breach.what, first ? ", from member 0" : ", from member 1"));
      const int64_t refused = engine().connections_refused();
      const Group group = NewView(first ? 0 : 1);
      const auto link = first ? JoinAsFirst(group) : JoinAsSecond(group);
      breach.act(link.get());
      link->AwaitEnd();
      EXPECT_EQ(engine().connections_refused(), refused + 1);
      engine().Leave(group.view);
    }
    OthersGoOn();
  }
}

TEST_F(WanHostile, WhatOnlyTheOtherSideMayTellIsRefused) {
  {
    const Group group = NewView(1);
    const auto link = JoinAsSecond(group);
    link->Send(Header(FrameType::kPlan, 2), EncodePlan({9, EqualPlan(2)}));
    link->AwaitEnd();
  }
  {
    const Group group = NewView(1);
    const auto link = JoinAsSecond(group);
    link->Send(Header(FrameType::kPlan, 2), EncodeProbeRequest(1));
    link->AwaitEnd();
  }
  {
    const Group group = NewView(0);
    const auto link = JoinAsFirst(group);
    link->Send(Header(FrameType::kReport, 2), ReportOf(0, 1));
    link->AwaitEnd();
  }
  {  // only member 0 announces plans
    const Group group = NewView(1);
    const auto link = JoinAsSecond(group);
    Start start = StartOf(1000, 1);
    start.next_plan = EncodePlan({9, EqualPlan(2)});
    link->Send(Header(FrameType::kStart, 2, 1), EncodeStart(start));
    link->AwaitEnd();
  }
  {  // and not plans that cannot be
    const Group group = NewView(0);
    const auto link = JoinAsFirst(group);
    Start start = StartOf(1000, kPlan);
    start.next_plan.assign(500, 0xFF);
    link->Send(Header(FrameType::kStart, 2, 1), EncodeStart(start));
    link->AwaitEnd();
  }
}

TEST_F(WanHostile, PlansThatCannotBeNeverBecomeAPlan) {
  TreePlan cycle = EqualPlan(2);
  cycle.trees[0].reduce_parent = {1, 0};
  TreePlan far = EqualPlan(2);
  far.trees[0].broadcast_parent[1] = 77;
  TreePlan tiny = EqualPlan(2);
  tiny.chunk_bytes = 1;
  TreePlan huge = EqualPlan(2);
  huge.chunk_bytes = int64_t{1} << 40;
  TreePlan infinite = EqualPlan(2);
  infinite.throughput = std::numeric_limits<double>::infinity();
  TreePlan rootless = EqualPlan(2);
  rootless.trees[0].root = 60000;
  for (const TreePlan& plan : {cycle, far, tiny, huge, infinite, rootless, EqualPlan(3)}) {
    const Group group = NewView(0);
    std::thread joining = Joining(group, 0.3);
    const auto link = AnswerCall(group);
    link->Send(Header(FrameType::kPlan, 1), EncodePlan({1, plan}));
    link->AwaitEnd();
    joining.join();
    EXPECT_FALSE(joined_.ok());
  }
}

TEST_F(WanHostile, OneThatGoesOnBreakingTheRulesLosesItsView) {
  const Group group = NewView(1);
  auto link = JoinAsSecond(group);
  std::vector<float> data(1000);
  const auto operation = engine().AllReduce(group.view, group.lane, 1, data, {});
  while (link->ready()) {
    link->Send(Header(FrameType::kConfirm));
    link->AwaitEnd();
    link = Call(group);
  }
  const Status status = operation->Wait().status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("'hostile'"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("broke the rules"));
  EXPECT_TRUE(status.GetPayload(kPeerPayload).has_value());
}

// ---- during an operation

TEST_F(WanHostile, NumbersThatDoNotFitTheOperationCostTheConnection) {
  constexpr size_t kElements = 100000;
  constexpr int64_t kChunk = (64 << 10) / sizeof(float);
  // Of two members each has one star; member 1's share is the second half.
  const Range ours = {0, kChunk};
  const auto payload = [](int64_t elements) { return std::vector<uint8_t>(elements * 4, 0x7F); };
  const std::vector<Frame> wrong = {
      {Numbers(FrameType::kContribution, 3, 1, {0, kChunk - 1}, 0), payload(kChunk - 1)},
      {Numbers(FrameType::kContribution, 3, 1, ours, 0), payload(kChunk - 1)},
      {Numbers(FrameType::kContribution, 3, 1, ours, 1), payload(kChunk)},
      {Numbers(FrameType::kContribution, 3, 1, ours, 2), payload(kChunk)},
      {Numbers(FrameType::kContribution, 3, 1, ours, kMaxTrees), payload(kChunk)},
      {Numbers(FrameType::kContribution, 3, 1, {1, kChunk + 1}, 0), payload(kChunk)},
      {Numbers(FrameType::kContribution, 3, 1, {kElements, kElements + kChunk}, 0),
       payload(kChunk)},
      {Numbers(FrameType::kContribution, 3, 1, {int64_t{1} << 48, (int64_t{1} << 48) + 1}, 0),
       payload(1)},
      {Numbers(FrameType::kResult, 3, 1, ours, 0), payload(kChunk)},
      {Numbers(FrameType::kResult, 3, 1, {kElements - 1, kElements}, 1), payload(1)},
      {Header(FrameType::kAttachment, 3, 1), payload(1)},
  };
  for (size_t i = 0; i < wrong.size(); ++i) {
    SCOPED_TRACE(i);
    const Group group = NewView(1);
    uint32_t version = 0;
    const auto link = JoinAsSecond(group, &version);
    std::vector<float> data(kElements);
    const auto operation = engine().AllReduce(group.view, group.lane, 1, data, {});
    link->Send(Header(FrameType::kStart, 2, 1), EncodeStart(StartOf(kElements, version)));
    EXPECT_TRUE(link->Stands());
    link->Send(wrong[i].header, wrong[i].payload);
    link->AwaitEnd();
    EXPECT_FALSE(operation->Done());
    engine().Leave(group.view);
    EXPECT_TRUE(absl::IsCancelled(operation->Wait().status()));
  }
}

TEST_F(WanHostile, AContributionThatComesTwiceIsTakenOnce) {
  const Group group = NewView(1);
  uint32_t version = 0;
  const auto link = JoinAsSecond(group, &version);
  std::vector<float> data(512, 1.0f);
  const auto operation = engine().AllReduce(group.view, group.lane, 1, data, {});
  const FrameHeader start = Header(FrameType::kStart, 2, 1);
  link->Send(start, EncodeStart(StartOf(512, version)));
  link->Send(start, EncodeStart(StartOf(512, version)));
  const std::vector<float> threes(256, 3.0f);
  std::vector<uint8_t> bytes(1024);
  Encode(Codec::kFp32, threes, bytes.data());
  const FrameHeader contribution = Numbers(FrameType::kContribution, 3, 1, {0, 256}, 0);
  link->Send(contribution, bytes);
  link->Send(contribution, bytes);  // the same sequence number: a replay
  EXPECT_TRUE(link->Stands());
  link->Send(Numbers(FrameType::kContribution, 4, 1, {0, 256}, 0), bytes);  // a new one
  link->AwaitEnd();
  const auto again = Call(group);
  ASSERT_TRUE(again->ready());
  ASSERT_TRUE(again->ReceiveA(FrameType::kContribution).has_value());  // before it: a breach
  again->Send(Numbers(FrameType::kResult, 4, 1, {256, 512}, 1), bytes);
  EXPECT_TRUE(again->ReceiveA(FrameType::kResult).has_value());
  const auto result = operation->Wait();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(data[0], 4.0f);
  EXPECT_EQ(data[300], 3.0f);
}

TEST_F(WanHostile, StartsThatDifferFailTheOperationAndSayHow) {
  const Group group = NewView(1);
  uint32_t version = 0;
  const auto link = JoinAsSecond(group, &version);
  uint64_t id = 0, sequence = 1;
  const auto fails = [&](Start start, const char* what) {
    std::vector<float> data(1000);
    const auto operation = engine().AllReduce(group.view, group.lane, ++id, data, {});
    link->Send(Header(FrameType::kStart, ++sequence, id), EncodeStart(start));
    const Status status = operation->Wait().status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(what));
  };
  Start start = StartOf(uint64_t{1} << 48, version);
  fails(start, "elements");
  start = StartOf(1000, version + 1);
  fails(start, "plan");
  start = StartOf(1000, version);
  start.members = 65535;
  fails(start, "members");
  start = StartOf(1000, version);
  start.chunk_elements = 0xFFFFFFFF;
  fails(start, "chunk");
  start.codec = 255;
  fails(start, "codec");
  EXPECT_TRUE(link->Stands());
}

TEST_F(WanHostile, RandomFramesOfEveryTypeAtEveryTimeAreSurvived) {
  const CounterRandom random(11);
  uint64_t at = 0;
  const auto draw = [&](uint64_t below) { return random.Bits(at++) % below; };
  for (int round = 0; round < 12; ++round) {
    const bool first = round % 2 == 0;
    const Group group = NewView(first ? 0 : 1);
    auto link = first ? JoinAsFirst(group) : JoinAsSecond(group);
    std::vector<float> data(20000);
    std::vector<std::shared_ptr<Operation>> operations;
    uint64_t sequence = 1;
    for (int i = 0; i < 300 && link->ready(); ++i) {
      if (i % 50 == 10) {
        operations.push_back(
            engine().AllReduce(group.view, group.lane, operations.size() + 1, data, {}));
      }
      FrameHeader header;
      header.type = static_cast<FrameType>(2 + draw(11));
      header.operation = draw(9);
      const bool sequenced = IsSequenced(header.type);
      if (sequenced) header.sequence = draw(4) == 0 ? 1 + draw(1 << 20) : ++sequence;
      std::vector<uint8_t> payload(draw(3) == 0 ? draw(2000) : 8 + 16 * draw(3));
      for (uint8_t& byte : payload) byte = static_cast<uint8_t>(draw(3) == 0 ? draw(256) : 0);
      if (header.type == FrameType::kStart && draw(2) == 0) {
        payload = EncodeStart(StartOf(20000, kPlan));
      }
      if (header.type == FrameType::kContribution || header.type == FrameType::kResult) {
        header.tree = static_cast<uint16_t>(draw(3));
        const auto begin = static_cast<int64_t>(draw(5) * 256);
        header.range = {begin, begin + 1 + static_cast<int64_t>(draw(300))};
      }
      link->Send(header, payload);
      if (i % 10 == 9 && !link->Stands() && !first) link = Call(group);
      if (first && i % 10 == 9 && !link->Stands()) break;
    }
    engine().Leave(group.view);
    for (const auto& operation : operations) (void)operation->Wait();
    OthersGoOn();
  }
}

// ---- numbers that would make the planner stumble

TEST_F(WanHostile, AbsurdReportsEndInAPlanOrInAnError) {
  const double huge = 1e18, least = 5e-324;
  for (const double number : {huge, least, 1e-9, std::numeric_limits<double>::quiet_NaN(), -1.0}) {
    SCOPED_TRACE(number);
    Group group = NewView(1);
    // Of whom nothing is known, so that it probes.
    group.names[1] = absl::StrCat("hostile ", group.view.value);
    std::thread joining = Joining(group, 3);
    auto link = Call(group);
    ASSERT_TRUE(link->ready());
    link->Send(Header(FrameType::kReport, 1), ReportOf(0.002));
    ASSERT_TRUE(link->ReceiveA(FrameType::kPlan).has_value());  // it asks for a probe
    LinkReport report;
    report.to = 0;
    report.busy_seconds = number == huge ? least : 1;
    report.acked_bytes = report.paced_rate = report.retransmitted = number;
    report.rtt_seconds = report.queue_seconds = number;
    link->Send(Header(FrameType::kReport, 2), EncodeReports({report}));
    link->ReceiveA(FrameType::kPlan);  // or the end
    link.reset();
    engine().Leave(group.view);
    joining.join();
    OthersGoOn();
  }
}

TEST_F(WanHostile, AGatewayThatBeginsAnewAgainAndAgainHarmsOnlyItself) {
  const Group group = NewView(1);
  auto link = JoinAsSecond(group);
  for (uint64_t incarnation = 100; incarnation < 400; ++incarnation) {
    link = Call(group, incarnation);
    if (!link->ready()) break;
    if (incarnation % 3 == 0) link->Send(Header(FrameType::kReport, 1), ReportOf(0.1));
  }
  OthersGoOn();
  std::vector<float> data(1000);
  const auto operation = engine().AllReduce(group.view, group.lane, 1, data, {});
  Call(group, 1000)->AwaitEnd();  // it has missed the start
  EXPECT_TRUE(absl::IsUnavailable(operation->Wait().status()));
}

}  // namespace
}  // namespace atl::wan
