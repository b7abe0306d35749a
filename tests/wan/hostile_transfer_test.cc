// A member that has the key and lies about the bytes it gives or floods us with requests: it costs
// an error and bounded memory, and never another view's sums (hostile.h).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "collectives/wan/fetch_frame.h"
#include "collectives/wan/transfer.h"
#include "tests/wan/hostile.h"

namespace atl::wan {
namespace {

using testing::HasSubstr;

FrameHeader BlockOf(uint64_t id, uint64_t sequence, Range range) {
  FrameHeader header = Header(FrameType::kBlock, sequence, id);
  header.range = range;
  return header;
}

class WanHostileTransfer : public WanHostile {
 protected:
  // The engine fetches 1 MiB in blocks of 64 KiB from the hostile member, which has heard the first
  // request: of bytes 0 to 64 KiB.
  void BeginFetch() {
    group_ = NewView(1);
    link_ = JoinAsSecond(group_);
    FetchRequest request;
    request.name = "state";
    request.ranges = {{0, 1 << 20}};
    request.block_bytes = 64 << 10;
    request.out = out_;
    transfer_ = engine().Fetch(group_.view, group_.lane, request);
    const auto asked = link_->ReceiveA(FrameType::kFetch);
    ASSERT_TRUE(asked.has_value());
    id_ = asked->header.operation;
    EXPECT_EQ(ParseFetch(asked->payload)->range, (Range{0, 64 << 10}));
  }
  // It has fallen out, and with it the only source.
  void ExpectFallen(const std::string& why) {
    const Status status = transfer_->Wait();
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("region 'hostile'"));
    EXPECT_THAT(std::string(status.message()), HasSubstr(why));
  }

  Group group_;
  std::unique_ptr<HostileLink> link_;
  std::vector<uint8_t> out_ = std::vector<uint8_t>(1 << 20);
  std::shared_ptr<Transfer> transfer_;
  uint64_t id_ = 0;
};

TEST_F(WanHostileTransfer, BytesThatWereNotAskedForMakeItFallOut) {
  BeginFetch();
  link_->Send(BlockOf(id_, 2, {(64 << 10) - 1, (64 << 10) + 1}), {1, 2});
  ExpectFallen("not asked");
  link_->AwaitEnd();
}

TEST_F(WanHostileTransfer, BytesThatComeTwiceMakeItFallOut) {
  BeginFetch();
  link_->Send(BlockOf(id_, 2, {10, 12}), {1, 2});
  link_->Send(BlockOf(id_, 3, {11, 13}), {3, 4});
  ExpectFallen("not asked");
  link_->AwaitEnd();
}

TEST_F(WanHostileTransfer, BytesForARequestThatNeverWasEndTheConnection) {
  BeginFetch();
  link_->Send(BlockOf(1000, 2, {10, 12}), {1, 2});
  link_->AwaitEnd();
  transfer_->Cancel();
}

TEST_F(WanHostileTransfer, AnEndThatNobodyWantedMakesItFallOut) {
  BeginFetch();
  link_->Send(Header(FrameType::kFetchEnd, 2, id_), EncodeFetchEnd({FetchEndCode::kCancelled, ""}));
  ExpectFallen("asked to end");
  EXPECT_TRUE(link_->Stands());
}

TEST_F(WanHostileTransfer, RequestsForBytesThatAreNotThereGetAnEnd) {
  const Group group = NewView(1);
  const auto link = JoinAsSecond(group);
  const std::vector<uint8_t> bytes(1000);
  ASSERT_TRUE(engine().Serve(group.view, group.lane, "state", MemorySource(bytes)).ok());
  const Range ranges[] = {{0, 1001}, {1000, 1001}, {int64_t{1} << 48, (int64_t{1} << 48) + 1}};
  uint64_t number = 1;
  for (const Range& range : ranges) {
    ++number;
    link->Send(Header(FrameType::kFetch, number, number), EncodeFetch({range, "state"}));
    const auto end = link->ReceiveA(FrameType::kFetchEnd);
    ASSERT_TRUE(end.has_value());
    EXPECT_EQ(end->header.operation, number);
    EXPECT_EQ(ParseFetchEnd(end->payload)->code, FetchEndCode::kOutOfRange);
  }
  ++number;
  link->Send(Header(FrameType::kFetch, number, number), EncodeFetch({{999, 1000}, "state"}));
  EXPECT_TRUE(link->ReceiveA(FrameType::kBlock).has_value());
  engine().StopServing(group.view, group.lane, "state");  // `bytes` ends before the engine does
}

TEST_F(WanHostileTransfer, AFloodOfRequestsCostsBoundedMemoryAndTheConnection) {
  const Group group = NewView(1);
  const auto link = JoinAsSecond(group);
  const std::vector<uint8_t> bytes(16 << 20);
  ASSERT_TRUE(engine().Serve(group.view, group.lane, "state", MemorySource(bytes)).ok());
  const size_t before = ResidentBytes();
  // It reads nothing of what is sent to it.
  bool stands = true;
  for (uint64_t number = 2; stands && number < kFlood; ++number) {
    stands = link->Send(Header(FrameType::kFetch, number, number),
                        EncodeFetch({{0, 16 << 20}, "state"}));
  }
  EXPECT_FALSE(stands);
  // What is held for it, beside what its other connections still may.
  EXPECT_LT(ResidentBytes(), before + (80 << 20) + kRoom / 2);
  engine().StopServing(group.view, group.lane, "state");  // `bytes` ends before the engine does
}

}  // namespace
}  // namespace atl::wan
