// Super-packets: what they will be on the wire, and cutting pieces out of them.
#include "tools/wanlab/packet.h"

#include <gtest/gtest.h>

#include "tests/wanlab/packets.h"

namespace atl {
namespace {

// The internet checksum of a header that carries its own: 0 if it is right.
uint32_t HeaderSum(const uint8_t* header) {
  uint32_t sum = 0;
  for (int i = 0; i < 20; i += 2) sum += uint32_t{header[i]} << 8 | header[i + 1];
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  return ~sum & 0xffff;
}

TEST(Packets, ASuperPacketCountsItsSegmentsAndTheirHeaders) {
  PacketPool pool(1 << 30);
  const PacketPtr packet = TcpPacket(&pool, 3 * kTestSegment + 5, 0);
  const Segments segments = SegmentsOf(*packet);
  EXPECT_EQ(segments.count, 4u);
  EXPECT_EQ(segments.header_bytes, kTestHeaders);
  EXPECT_EQ(segments.full_segment_bytes(), 1500);
  EXPECT_EQ(segments.wire_bytes(), 3 * 1500 + kTestHeaders + 5);
}

TEST(Packets, WhatIsNoWellFormedSuperPacketIsOneSegment) {
  PacketPool pool(1 << 30);
  PacketPtr packet = TcpPacket(&pool, 4 * kTestSegment, 0);
  const auto one = [&] {
    const Segments segments = SegmentsOf(*packet);
    return segments.count == 1 && segments.wire_bytes() == packet->length;
  };
  EXPECT_FALSE(one());
  packet->bytes()[20 + 12] = 0x40;  // a TCP header of 16 bytes
  EXPECT_TRUE(one());
  packet->bytes()[20 + 12] = 0x80;
  packet->bytes()[0] = 0x44;  // an IP header of 16 bytes
  EXPECT_TRUE(one());
  packet->bytes()[0] = 0x45;
  packet->bytes()[9] = 17;  // UDP
  EXPECT_TRUE(one());
  packet->bytes()[9] = 6;
  packet->offload.gso_size = 0;
  EXPECT_TRUE(one());
  packet->offload.gso_size = kTestSegment;
  packet->length = 30;  // cut off within the TCP header
  EXPECT_TRUE(one());
}

TEST(Packets, PiecesTogetherAreTheWholeStream) {
  PacketPool pool(1 << 30);
  const uint32_t payload = 10 * kTestSegment + 100, begin = 0xfffff000;  // the numbers wrap
  const PacketPtr packet = TcpPacket(&pool, payload, begin);
  const Segments segments = SegmentsOf(*packet);
  ASSERT_EQ(segments.count, 11u);
  uint32_t next = begin;
  for (uint32_t first = 0; first < segments.count; first += 3) {
    const uint32_t count = std::min(3u, segments.count - first);
    const PacketPtr piece = CutOut(*packet, segments, first, count, &pool);
    ASSERT_NE(piece, nullptr);
    EXPECT_EQ(SequenceOf(*piece), next);
    EXPECT_EQ(HeaderSum(piece->bytes()), 0u);
    EXPECT_EQ(uint32_t{piece->bytes()[2]} << 8 | piece->bytes()[3], piece->length);
    const uint32_t bytes = piece->length - kTestHeaders;
    for (uint32_t i = 0; i < bytes; ++i) {
      ASSERT_EQ(piece->bytes()[kTestHeaders + i], PayloadByte(next + i));
    }
    const bool last = first + count == segments.count;
    EXPECT_EQ(piece->bytes()[20 + 13], last ? 0x19 : 0x10);  // FIN and PSH with the last byte
    EXPECT_EQ(SegmentsOf(*piece).count, count);
    next += bytes;
  }
  EXPECT_EQ(next, begin + payload);
}

TEST(Packets, APieceOfOneSegmentIsAPlainPacket) {
  PacketPool pool(1 << 30);
  const PacketPtr packet = TcpPacket(&pool, 5 * kTestSegment, 0);
  const PacketPtr piece = CutOut(*packet, SegmentsOf(*packet), 2, 1, &pool);
  EXPECT_EQ(piece->offload.gso_type, 0);
  EXPECT_EQ(piece->offload.gso_size, 0);
  EXPECT_EQ(piece->offload.flags, 1);  // the kernel still has to finish the checksum
}

TEST(Packets, ThePoolGivesBuffersAgainAndKeepsToItsLimit) {
  PacketPool pool(64 << 20);
  std::vector<PacketPtr> held;
  while (PacketPtr packet = pool.Allocate(PacketPool::kLargest)) held.push_back(std::move(packet));
  EXPECT_GT(held.size(), 900u);
  EXPECT_LE(pool.reserved_bytes(), 64 << 20);
  const Packet* last = held.back().get();
  held.pop_back();
  EXPECT_EQ(pool.Allocate(PacketPool::kLargest).get(), last);
}

TEST(Packets, FitMovesASmallPacketOutOfALargeBuffer) {
  PacketPool pool(1 << 30);
  PacketPtr large = pool.Allocate(PacketPool::kLargest);
  large->length = 3;
  large->offload.flags = 1;
  large->bytes()[2] = 42;
  const Packet* before = large.get();
  const PacketPtr small = pool.Fit(std::move(large));
  EXPECT_NE(small.get(), before);
  EXPECT_EQ(small->length, 3u);
  EXPECT_EQ(small->bytes()[2], 42);
  EXPECT_EQ(small->offload.flags, 1);
}

TEST(Packets, OnlyIpv4HasADestination) {
  PacketPool pool(1 << 30);
  PacketPtr packet = TcpPacket(&pool, 1, 0);
  EXPECT_EQ(Destination(*packet), 0x0a000002u);
  packet->bytes()[0] = 0x60;
  EXPECT_EQ(Destination(*packet), 0u);
}

}  // namespace
}  // namespace atl
