// Packets for tests of the sea: TCP super-packets with a payload that tells where it came from.
#pragma once

#include <cstdint>
#include <cstring>

#include "tools/wanlab/packet.h"

namespace atl {

constexpr uint32_t kTestSegment = 1448;
constexpr uint32_t kTestHeaders = 52;  // IPv4 20, TCP 32 with time stamps

// Byte i of the payload of a stream whose sequence numbers begin at 0.
inline uint8_t PayloadByte(uint32_t sequence) { return static_cast<uint8_t>(sequence * 31 + 7); }

// A TCP packet of `payload` bytes at `sequence`, to be cut into segments of kTestSegment.
inline PacketPtr TcpPacket(PacketPool* pool, uint32_t payload, uint32_t sequence) {
  PacketPtr packet = pool->Allocate(kTestHeaders + payload);
  packet->offload = {1, 1, kTestHeaders, kTestSegment, 20, 16};
  uint8_t* ip = packet->bytes();
  std::memset(ip, 0, kTestHeaders);
  const uint32_t length = packet->length;
  ip[0] = 0x45;
  ip[2] = static_cast<uint8_t>(length >> 8);
  ip[3] = static_cast<uint8_t>(length);
  ip[8] = 64;
  ip[9] = 6;
  ip[12] = ip[16] = 10;
  ip[15] = 1;
  ip[19] = 2;
  uint8_t* tcp = ip + 20;
  for (int i = 0; i < 4; ++i) tcp[4 + i] = static_cast<uint8_t>(sequence >> (24 - 8 * i));
  tcp[12] = 0x80;
  tcp[13] = 0x19;  // ACK, PSH, FIN
  for (uint32_t i = 0; i < payload; ++i) ip[kTestHeaders + i] = PayloadByte(sequence + i);
  return packet;
}

inline uint32_t SequenceOf(const Packet& packet) {
  const uint8_t* at = packet.bytes() + 24;
  return uint32_t{at[0]} << 24 | uint32_t{at[1]} << 16 | uint32_t{at[2]} << 8 | at[3];
}

}  // namespace atl
