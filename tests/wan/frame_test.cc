// The wire format and the sealing: golden bytes (the worked example of docs/protocols/wan.md), and
// parsers against bytes of all kinds.
#include "collectives/wan/frame.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "absl/strings/escaping.h"
#include "base/random.h"
#include "collectives/codec/codec.h"
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
  hello.stream = 1;
  hello.streams = 2;
  for (size_t i = 0; i < kNonceSize; ++i) hello.nonce[i] = static_cast<uint8_t>(0x20 + i);
  return hello;
}

Answer ExampleAnswer() {
  Answer answer;
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
  sealer->Seal(Bytes(frame.data(), kHeaderSize), data, payload.size(), data + payload.size());
  return frame;
}

FrameHeader ExampleContribution() {
  FrameHeader header;
  header.type = FrameType::kContribution;
  header.lane = 1;
  header.operation = 7;
  header.range = {512, 515};
  header.payload = 6;
  return header;
}

TEST(WanFrame, GreetingsHaveTheDocumentedBytes) {
  uint8_t hello[kHelloSize];
  EncodeHello(ExampleHello(), hello);
  EXPECT_EQ(Hex(Bytes(hello, kHelloSize)),
            "41544f4c4c57414e"
            "0100"
            "0000"
            "01000000"
            "0300000000000000"
            "0200"
            "0000"
            "0100"
            "0200"
            "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f");
  uint8_t answer[kAnswerSize];
  EncodeAnswer(ExampleAnswer(), answer);
  EXPECT_EQ(Hex(Bytes(answer, kAnswerSize)),
            "41544f4c4c57414e"
            "0100"
            "0000"
            "00000000"
            "404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f");
}

TEST(WanFrame, KeysAndSealedFramesHaveTheDocumentedBytes) {
  const StreamKeys keys = DeriveStreamKeys(ExampleKey(), ExampleHello(), ExampleAnswer());
  EXPECT_EQ(Hex(keys.from_dialler),
            "900f2264774d989b14a137989dd34d18426100d32e025739281fe448503c4a7b");
  EXPECT_EQ(Hex(keys.from_acceptor),
            "9b0e91366b0d64bae6c0ec8b7ad7febc4168e312c1d70e380cff8b8dfa2ce337");
  Sealer sealer(keys.from_dialler);
  FrameHeader confirm;
  confirm.lane = 1;
  EXPECT_EQ(Hex(SealFrame(&sealer, confirm, {})),
            "4146010001000000000000000000000000000000000000000000000000000000"
            "89900653f06e9180f85fe58c29632d25");
  Start start;
  start.elements = 1000;
  start.chunk_elements = 65536;
  start.members = 3;
  start.schedule = static_cast<uint8_t>(Schedule::kDirectEqualShares);
  start.codec = static_cast<uint8_t>(Codec::kBf16);
  start.attachment_bytes = 5;
  EXPECT_EQ(Hex(EncodeStart(start)),
            "e803000000000000"
            "00000100"
            "0300"
            "01"
            "02"
            "05000000"
            "00000000");
  FrameHeader header;
  header.type = FrameType::kStart;
  header.lane = 1;
  header.operation = 7;
  header.payload = kStartSize;
  EXPECT_EQ(Hex(SealFrame(&sealer, header, EncodeStart(start))),
            "4146020001000000070000000000000000000000000000000000000018000000"
            "13ba64d7e36f0bc7afd4ecfdc7b299bf493151a072e24f60"
            "f9970754192e52acb8e88a2311b07242");
  std::vector<uint8_t> payload(6);
  Encode(Codec::kBf16, std::vector<float>{1.0f, -2.5f, 3.14159274f}, payload.data());
  EXPECT_EQ(Hex(SealFrame(&sealer, ExampleContribution(), payload)),
            "4146040001000000070000000000000000020000000000000300000006000000"
            "465781f4af13"
            "b69fd92d79e0704b3531be6f3272e51e");
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
  const Start start = {uint64_t{1} << 40, 65536, 64, 1, 2, 100};
  EXPECT_EQ(*ParseStart(EncodeStart(start)), start);
  const auto reason = ParseReason(EncodeReason({ReasonCode::kLost, "lost\n'oslo'"}));
  ASSERT_TRUE(reason.ok());
  EXPECT_EQ(reason->code, ReasonCode::kLost);
  EXPECT_EQ(reason->text, "lost?'oslo'") << "nothing unprintable reaches a log";
  EXPECT_EQ(EncodeReason({ReasonCode::kLeft, std::string(5000, 'x')}).size(), 1 + kMaxReason);
}

TEST(WanFrame, AGreetingOfAnotherVersionTellsItsVersionAndNothingElse) {
  Hello hello = ExampleHello();
  hello.version = 9;
  uint8_t bytes[kHelloSize];
  EncodeHello(hello, bytes);
  bytes[10] = 0xFF;  // what follows the version is not ours to judge
  const auto parsed = ParseHello(bytes);
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(parsed->version, 9);
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
  EXPECT_TRUE(refused([](Hello* hello) { hello->streams = 0; }));
  EXPECT_TRUE(refused([](Hello* hello) { hello->streams = kMaxStreams + 1; }));
  EXPECT_TRUE(refused([](Hello* hello) { hello->stream = hello->streams; }));

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
  EXPECT_TRUE(bad_header([](FrameHeader* header) { header->type = static_cast<FrameType>(8); }));
  EXPECT_TRUE(bad_header([](FrameHeader* header) { header->type = FrameType::kBye; }));
}

TEST(WanFrame, SaysWhatDiffersBetweenTwoStarts) {
  const Start here = {7, 65536, 3, 1, 1, 0};
  EXPECT_EQ(StartDifference(here, {7, 65536, 3, 1, 1, 99}), "") << "attachments may differ";
  EXPECT_EQ(StartDifference(here, {8, 65536, 3, 1, 1, 0}), "elements 7 here, 8 there");
  EXPECT_EQ(StartDifference(here, {7, 131072, 3, 1, 2, 0}), "codec fp32 here, bf16 there");
  EXPECT_THAT(StartDifference(here, {7, 256, 4, 1, 1, 0}),
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
  Sealer sealer(keys.from_dialler);
  const auto first = SealFrame(&sealer, ExampleContribution(), payload);
  const auto second = SealFrame(&sealer, ExampleContribution(), payload);
  EXPECT_NE(first, second);
  for (size_t at = 0; at < first.size(); ++at) {
    std::vector<uint8_t> changed = first;
    changed[at] ^= 0x10;
    Opener opener(keys.from_dialler);
    EXPECT_FALSE(open(&opener, changed)) << "byte " << at;
  }
  Opener moved(keys.from_dialler);
  EXPECT_FALSE(open(&moved, second)) << "the first is missing";
  Opener opener(keys.from_dialler);
  EXPECT_TRUE(open(&opener, first));
  EXPECT_FALSE(open(&opener, first)) << "repeated";
  Opener other(keys.from_acceptor);
  EXPECT_FALSE(open(&other, first)) << "turned back at its sender";
}

TEST(WanSeal, AnyChangeOfTheGreetingsChangesBothKeys) {
  const StreamKeys keys = DeriveStreamKeys(ExampleKey(), ExampleHello(), ExampleAnswer());
  EXPECT_NE(keys.from_dialler, keys.from_acceptor);
  Hello hello = ExampleHello();
  hello.stream = 0;
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
  seeds.push_back(EncodeStart({1000, 65536, 3, 1, 2, 5}));
  seeds.push_back(EncodeReason({ReasonCode::kLost, "lost region 'oslo'"}));
  int accepted = 0;
  for (int round = 0; round < 20000; ++round) {
    std::vector<uint8_t> bytes = seeds[round % seeds.size()];
    const uint64_t changes = random.Bits(at++) % 4;
    for (uint64_t i = 0; i < changes; ++i) {
      const size_t where = random.Bits(at++) % bytes.size();
      bytes[where] = static_cast<uint8_t>(random.Bits(at++));
    }
    if (random.Bits(at++) % 8 == 0) bytes.resize(random.Bits(at++) % (bytes.size() + 8));
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
