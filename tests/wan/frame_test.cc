// The wire format and the sealing: golden bytes (the worked example of docs/protocols/wan.md), and
// parsers against bytes of all kinds.
#include "collectives/wan/frame.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "absl/strings/escaping.h"
#include "base/random.h"
#include "collectives/codec/codec.h"
#include "collectives/wan/fetch_frame.h"
#include "collectives/wan/seal.h"

namespace atl::wan {
namespace {

using testing::HasSubstr;

std::string Hex(Bytes bytes) {
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

Hello ExampleHello() {
  Hello hello;
  hello.view = 3;
  hello.lane = 1;
  hello.from = 2;
  hello.to = 0;
  hello.incarnation = 0x1122334455667788;
  for (size_t i = 0; i < kNonceSize; ++i) hello.nonce[i] = static_cast<uint8_t>(0x20 + i);
  return hello;
}

Answer ExampleAnswer() {
  Answer answer;
  answer.incarnation = 0x99AABBCCDDEEFF00;
  for (size_t i = 0; i < kNonceSize; ++i) answer.nonce[i] = static_cast<uint8_t>(0x40 + i);
  return answer;
}

Key ExampleKey() {
  Key key;
  for (size_t i = 0; i < key.size(); ++i) key[i] = static_cast<uint8_t>(i);
  return key;
}

std::vector<uint8_t> SealFrame(Sealer* sealer, const FrameHeader& header, Bytes payload) {
  std::vector<uint8_t> frame(kHeaderSize + payload.size() + kTagSize);
  EncodeHeader(header, frame.data());
  std::copy(payload.begin(), payload.end(), frame.begin() + kHeaderSize);
  uint8_t* const data = frame.data() + kHeaderSize;
  sealer->Seal(Bytes(frame.data(), kHeaderSize), payload, data, data + payload.size());
  return frame;
}

FrameHeader ExampleContribution() {
  FrameHeader header;
  header.type = FrameType::kContribution;
  header.tree = 3;
  header.operation = 7;
  header.sequence = 9;
  header.range = {512, 515};
  header.payload = 6;
  return header;
}

LinkReport ExampleReport(int to) {
  LinkReport report;
  report.to = to;
  report.busy_seconds = 1.5;
  report.acked_bytes = 3e7;
  report.paced_rate = 2.5e7;
  report.rtt_seconds = 0.08;
  return report;
}

TEST(WanFrame, GreetingsHaveTheDocumentedBytes) {
  uint8_t hello[kHelloSize];
  EncodeHello(ExampleHello(), hello);
  EXPECT_EQ(Hex(Bytes(hello, kHelloSize)),
            "41544f4c4c57414e"
            "0300"
            "0000"
            "01000000"
            "0300000000000000"
            "0200"
            "0000"
            "00000000"
            "8877665544332211"
            "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f");
  uint8_t answer[kAnswerSize];
  EncodeAnswer(ExampleAnswer(), answer);
  EXPECT_EQ(Hex(Bytes(answer, kAnswerSize)),
            "41544f4c4c57414e"
            "0300"
            "0000"
            "00000000"
            "00ffeeddccbbaa99"
            "404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f");
}

TEST(WanFrame, KeysAndSealedFramesHaveTheDocumentedBytes) {
  const StreamKeys keys = DeriveStreamKeys(ExampleKey(), ExampleHello(), ExampleAnswer());
  EXPECT_EQ(Hex(keys.from_dialler),
            "f1c881facfaf440d904377fbb2f94d14b4cd9ece741446543bd2b7c9de8ac90a");
  EXPECT_EQ(Hex(keys.from_acceptor),
            "45ea6ef920661e6e8b66cf64029bd00d7d23c1471daf3e7c126cace0062c9814");
  Sealer sealer(keys.from_dialler, false);
  FrameHeader confirm;
  EXPECT_EQ(Hex(SealFrame(&sealer, confirm, {})),
            "414601000000546a0000000000000000000000000000000000000000000000000000000000000000"
            "c844fe353e3539373630373c61b3acab");
  Start start;
  start.elements = 1000;
  start.chunk_elements = 65536;
  start.members = 3;
  start.plan_version = 5;
  start.codec = static_cast<uint8_t>(Codec::kBf16);
  start.attachment_bytes = 5;
  EXPECT_EQ(Hex(EncodeStart(start)),
            "e803000000000000"
            "00000100"
            "05000000"
            "0300"
            "02"
            "00"
            "05000000");
  FrameHeader header;
  header.type = FrameType::kStart;
  header.operation = 7;
  header.sequence = 1;
  header.payload = kStartSize;
  EXPECT_EQ(Hex(SealFrame(&sealer, header, EncodeStart(start))),
            "414602000000c7ab0000000018000000070000000000000001000000000000000000000000000000"
            "dbc35c8c8defc96954c379a11a7026724f678fc531a03577"
            "f99b8af0aeedeee36876b613265e2e0c");
  std::vector<uint8_t> payload(6);
  Encode(Codec::kBf16, std::vector<float>{1.0f, -2.5f, 3.14159274f}, payload.data());
  EXPECT_EQ(Hex(SealFrame(&sealer, ExampleContribution(), payload)),
            "41460400030053a80300000006000000070000000000000009000000000000000002000000000000"
            "18bb77132bca"
            "77ac7964c7679ee80048930b1fa7ba49");
}

TEST(WanFrame, EverythingComesBackAsItWas) {
  uint8_t hello[kHelloSize];
  EncodeHello(ExampleHello(), hello);
  EXPECT_EQ(*ParseHello(hello), ExampleHello());
  uint8_t answer[kAnswerSize];
  EncodeAnswer(ExampleAnswer(), answer);
  EXPECT_EQ(*ParseAnswer(answer), ExampleAnswer());
  uint8_t header[kHeaderSize];
  EncodeHeader(ExampleContribution(), header);
  EXPECT_EQ(*ParseHeader(header), ExampleContribution());
  const Start start = {uint64_t{1} << 40, 65536, 7, 64, 2, 100, {1, 2, 3}};
  EXPECT_EQ(*ParseStart(EncodeStart(start)), start);
  const auto reason = ParseReason(EncodeReason({ReasonCode::kLost, "lost\n'oslo'"}));
  ASSERT_TRUE(reason.ok());
  EXPECT_EQ(reason->code, ReasonCode::kLost);
  EXPECT_FALSE(reason->about.has_value());
  EXPECT_EQ(ParseReason(EncodeReason({ReasonCode::kLost, "", 1000}))->about, 1000);
  EXPECT_FALSE(ParseReason(EncodeReason({ReasonCode::kLost, "", kMaxMembers})).ok());
  EXPECT_EQ(reason->text, "lost?'oslo'") << "nothing unprintable reaches a log";
  EXPECT_EQ(EncodeReason({ReasonCode::kLeft, std::string(5000, 'x')}).size(),
            kReasonSize + kMaxReason);
}

TEST(WanFrame, PlansReportsAndAcknowledgementsComeBackAsTheyWere) {
  NumberedPlan numbered = {77, EqualPlan(4)};
  numbered.plan.throughput = 6.25e7;
  numbered.plan.latency = 0.16;
  const auto plan = ParsePlan(EncodePlan(numbered), 4);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(*plan, numbered);
  EXPECT_FALSE(ParsePlan(EncodePlan(numbered), 5).ok());
  numbered.plan.throughput = std::numeric_limits<double>::quiet_NaN();
  EXPECT_FALSE(ParsePlan(EncodePlan(numbered), 4).ok());
  const auto reports = ParseReports(EncodeReports({ExampleReport(1), ExampleReport(2)}), 3, 0);
  ASSERT_TRUE(reports.ok()) << reports.status();
  ASSERT_EQ(reports->size(), 2u);
  EXPECT_EQ((*reports)[1].to, 2);
  EXPECT_EQ((*reports)[1].acked_bytes, 3e7);
  EXPECT_FALSE(ParseReports(EncodeReports({ExampleReport(1), ExampleReport(1)}), 3, 0).ok());
  EXPECT_FALSE(ParseReports(EncodeReports({ExampleReport(0)}), 3, 0).ok()) << "about itself";
  const Ack ack = {7, {{9, 12}, {20, 21}}};
  EXPECT_EQ(*ParseAck(EncodeAck(ack)), ack);
  EXPECT_FALSE(ParseAck(EncodeAck({7, {{7, 9}}})).ok()) << "it would be part of what is below";
  EXPECT_FALSE(ParseAck(EncodeAck({0, {}})).ok());
  EXPECT_EQ(**ParseProbeRequest(EncodeProbeRequest(1.25)), 1.25);
  EXPECT_FALSE(ParseProbeRequest(EncodeProbeRequest(1e9)).ok());
  EXPECT_FALSE(ParseProbeRequest(EncodePlan(numbered))->has_value());
}

TEST(WanFrame, FetchesHaveTheDocumentedBytes) {
  const std::vector<uint8_t> fetch = EncodeFetch({{1048576, 1048576 + 65536}, "state"});
  EXPECT_EQ(Hex(fetch),
            "00001000000000000000010000000000"
            "7374617465");
  EXPECT_EQ(ParseFetch(fetch)->range, (Range{1048576, 1114112}));
  EXPECT_EQ(ParseFetch(fetch)->name, "state");
  FrameHeader header;
  header.type = FrameType::kBlock;
  header.operation = 5;
  header.sequence = 6;
  header.range = {1048576, 1048576 + 3};
  header.payload = 3;
  std::array<uint8_t, kHeaderSize> bytes;
  EncodeHeader(header, bytes.data());
  EXPECT_EQ(Hex(Bytes(bytes).subspan(8)),
            "03000000"
            "03000000"
            "0500000000000000"
            "0600000000000000"
            "0000100000000000");
  EXPECT_EQ(*ParseHeader(bytes), header);
  for (const uint32_t payload : {0, 2, 4}) {
    header.payload = payload;
    EncodeHeader(header, bytes.data());
    EXPECT_FALSE(ParseHeader(bytes).ok()) << payload;
  }
  const std::vector<uint8_t> end = EncodeFetchEnd({FetchEndCode::kOutOfRange, "100 bytes"});
  EXPECT_EQ(Hex(end),
            "02"
            "313030206279746573");
  EXPECT_EQ(ParseFetchEnd(end)->text, "100 bytes");
  EXPECT_TRUE(absl::IsOutOfRange(StatusOf(*ParseFetchEnd(end))));
  const std::vector<uint8_t> busy = EncodeFetchEnd({FetchEndCode::kBusy, "no descriptors"});
  EXPECT_EQ(busy[0], 5);
  EXPECT_TRUE(absl::IsResourceExhausted(StatusOf(*ParseFetchEnd(busy))));
}

TEST(WanFrame, RefusesFetchesThatCannotBe) {
  constexpr int64_t kFar = int64_t{1} << 48;
  for (const Range range :
       {Range{-1, 5}, Range{0, 0}, Range{5, 4}, Range{0, kMaxBlockBytes + 1},
        Range{kFar + 1, kFar + 2}, Range{0, std::numeric_limits<int64_t>::max()}}) {
    EXPECT_FALSE(ParseFetch(EncodeFetch({range, "state"})).ok()) << range.begin;
  }
  EXPECT_FALSE(ParseFetch(EncodeFetch({{0, 1}, ""})).ok());
  EXPECT_FALSE(ParseFetch(EncodeFetch({{0, 1}, std::string(256, 'x')})).ok());
  EXPECT_TRUE(ParseFetch(EncodeFetch({{0, kMaxBlockBytes}, std::string(255, 'x')})).ok());
  for (const uint8_t code : {0, 6, 255}) EXPECT_FALSE(ParseFetchEnd({&code, 1}).ok());
  EXPECT_FALSE(ParseFetchEnd(std::vector<uint8_t>(514, 1)).ok());
}

TEST(WanFrame, TheHeadOfAGreetingTellsItsVersionWhateverFollows) {
  Hello hello = ExampleHello();
  hello.version = 9;
  uint8_t bytes[kHelloSize];
  EncodeHello(hello, bytes);
  EXPECT_EQ(*ParseVersion(Bytes(bytes, kGreetingHead)), 9);
  EXPECT_FALSE(ParseHello(bytes).ok());
  EXPECT_FALSE(ParseVersion(Bytes(bytes, kGreetingHead - 1)).ok());
  bytes[0] ^= 1;
  EXPECT_FALSE(ParseVersion(Bytes(bytes, kGreetingHead)).ok());
}

TEST(WanFrame, RefusesFieldsThatCannotBe) {
  const auto refused = [](auto change) {
    Hello hello = ExampleHello();
    change(&hello);
    uint8_t bytes[kHelloSize];
    EncodeHello(hello, bytes);
    return !ParseHello(bytes).ok();
  };
  EXPECT_FALSE(refused([](Hello*) {}));
  EXPECT_TRUE(refused([](Hello* hello) { hello->to = hello->from; }));
  EXPECT_TRUE(refused([](Hello* hello) { hello->from = kMaxMembers; }));
  EXPECT_TRUE(refused([](Hello* hello) { hello->plain = 2; }));

  const auto bad_header = [](auto change) {
    FrameHeader header = ExampleContribution();
    change(&header);
    uint8_t bytes[kHeaderSize];
    EncodeHeader(header, bytes);
    return !ParseHeader(bytes).ok();
  };
  EXPECT_FALSE(bad_header([](FrameHeader*) {}));
  EXPECT_TRUE(bad_header([](FrameHeader* header) { header->payload = kMaxPayload + 1; }));
  EXPECT_TRUE(bad_header([](FrameHeader* header) { header->payload = 0xFFFFFFFFu; }));
  EXPECT_TRUE(bad_header([](FrameHeader* header) { header->range = {512, 512}; }));
  EXPECT_TRUE(bad_header([](FrameHeader* header) {
    header->range = {1LL << 50, (1LL << 50) + 1};
  }));
  EXPECT_TRUE(bad_header([](FrameHeader* header) { header->type = static_cast<FrameType>(0); }));
  EXPECT_TRUE(bad_header([](FrameHeader* header) { header->type = static_cast<FrameType>(13); }));
  EXPECT_TRUE(bad_header([](FrameHeader* header) { header->sequence = 0; }));
  EXPECT_TRUE(bad_header([](FrameHeader* header) { header->tree = kMaxTrees; }));
  EXPECT_TRUE(bad_header([](FrameHeader* header) { header->type = FrameType::kBye; }));
}

TEST(WanFrame, SaysWhatDiffersBetweenTwoStarts) {
  const Start here = {7, 65536, 1, 3, 1, 0, {}};
  EXPECT_EQ(StartDifference(here, {7, 65536, 1, 3, 1, 99, {}}), "") << "attachments may differ";
  EXPECT_EQ(StartDifference(here, {8, 65536, 1, 3, 1, 0, {}}), "elements 7 here, 8 there");
  EXPECT_EQ(StartDifference(here, {7, 131072, 1, 3, 2, 0, {}}), "codec fp32 here, bf16 there");
  EXPECT_EQ(StartDifference(here, {7, 65536, 2, 3, 1, 0, {}}), "plan 1 here, 2 there");
  EXPECT_THAT(StartDifference(here, {7, 256, 1, 4, 1, 0, {}}),
              HasSubstr("elements a chunk 65536 here, 256 there"));
}

TEST(WanSeal, AChangedRepeatedOrMovedFrameDoesNotOpen) {
  const StreamKeys keys = DeriveStreamKeys(ExampleKey(), ExampleHello(), ExampleAnswer());
  const std::vector<uint8_t> payload = {1, 2, 3, 4, 5, 6};
  const auto open = [](Opener* opener, std::vector<uint8_t> frame) {
    uint8_t* const data = frame.data() + kHeaderSize;
    const size_t size = frame.size() - kHeaderSize - kTagSize;
    return opener->Open(Bytes(frame.data(), kHeaderSize), data, size, data + size);
  };
  Sealer sealer(keys.from_dialler, false);
  const auto first = SealFrame(&sealer, ExampleContribution(), payload);
  const auto second = SealFrame(&sealer, ExampleContribution(), payload);
  EXPECT_NE(first, second);
  for (size_t at = 0; at < first.size(); ++at) {
    std::vector<uint8_t> changed = first;
    changed[at] ^= 0x10;
    Opener opener(keys.from_dialler, false);
    EXPECT_FALSE(open(&opener, changed)) << "byte " << at;
  }
  Opener moved(keys.from_dialler, false);
  EXPECT_FALSE(open(&moved, second)) << "the first is missing";
  Opener opener(keys.from_dialler, false);
  EXPECT_TRUE(open(&opener, first));
  EXPECT_FALSE(open(&opener, first)) << "repeated";
  Opener other(keys.from_acceptor, false);
  EXPECT_FALSE(open(&other, first)) << "turned back at its sender";
}

TEST(WanSeal, AnyChangeOfTheGreetingsChangesBothKeys) {
  const StreamKeys keys = DeriveStreamKeys(ExampleKey(), ExampleHello(), ExampleAnswer());
  EXPECT_NE(keys.from_dialler, keys.from_acceptor);
  Hello hello = ExampleHello();
  hello.incarnation = 0;
  Answer answer = ExampleAnswer();
  answer.nonce[31] ^= 1;
  Key key = ExampleKey();
  key[0] ^= 1;
  for (const StreamKeys& other : {DeriveStreamKeys(ExampleKey(), hello, ExampleAnswer()),
                                  DeriveStreamKeys(ExampleKey(), ExampleHello(), answer),
                                  DeriveStreamKeys(key, ExampleHello(), ExampleAnswer())}) {
    EXPECT_NE(keys.from_dialler, other.from_dialler);
    EXPECT_NE(keys.from_acceptor, other.from_acceptor);
  }
}

TEST(WanFrame, ParsersTakeMutatedBytesWithoutHarm) {
  const CounterRandom random(23);
  uint64_t at = 0;
  std::vector<std::vector<uint8_t>> seeds(3);
  seeds[0].resize(kHelloSize);
  EncodeHello(ExampleHello(), seeds[0].data());
  seeds[1].resize(kAnswerSize);
  EncodeAnswer(ExampleAnswer(), seeds[1].data());
  seeds[2].resize(kHeaderSize);
  EncodeHeader(ExampleContribution(), seeds[2].data());
  seeds.push_back(EncodeStart({1000, 65536, 1, 3, 2, 5, {}}));
  seeds.push_back(EncodeReason({ReasonCode::kLost, "lost region 'oslo'"}));
  seeds.push_back(EncodePlan({3, EqualPlan(3)}));
  seeds.push_back(EncodeReports({ExampleReport(1), ExampleReport(2)}));
  seeds.push_back(EncodeAck({7, {{9, 12}, {20, 21}}}));
  int accepted = 0;
  for (int round = 0; round < 20000; ++round) {
    std::vector<uint8_t> bytes = seeds[round % seeds.size()];
    const uint64_t changes = random.Bits(at++) % 4;
    for (uint64_t i = 0; i < changes; ++i) {
      const size_t where = random.Bits(at++) % bytes.size();
      bytes[where] = static_cast<uint8_t>(random.Bits(at++));
    }
    if (random.Bits(at++) % 8 == 0) bytes.resize(random.Bits(at++) % (bytes.size() + 8));
    const auto plan = ParsePlan(bytes, 3);
    if (plan.ok()) {
      ASSERT_TRUE(CheckPlan(plan->plan, 3).ok());
    }
    (void)ParseReports(bytes, 3, 0);
    (void)ParseAck(bytes);
    (void)ParseProbeRequest(bytes);
    accepted += ParseHello(bytes).ok() + ParseAnswer(bytes).ok() + ParseStart(bytes).ok();
    const auto header = ParseHeader(bytes);
    if (header.ok()) {
      ++accepted;
      ASSERT_LE(header->payload, kMaxPayload);
      uint8_t again[kHeaderSize];
      EncodeHeader(*header, again);
      ASSERT_EQ(Hex(again), Hex(bytes)) << "two encodings of one header";
    }
    const auto reason = ParseReason(bytes);
    if (reason.ok()) {
      ASSERT_LE(reason->text.size(), kMaxReason);
    }
  }
  EXPECT_GT(accepted, 1000);
}

}  // namespace
}  // namespace atl::wan
