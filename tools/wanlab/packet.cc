#include "tools/wanlab/packet.h"

#include <arpa/inet.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "base/log.h"

namespace atl {
namespace {

constexpr size_t kArenaBytes = 32 << 20;
constexpr size_t kHugePage = 2 << 20;
constexpr uint32_t kCapacity[] = {2048, 8192, PacketPool::kLargest};

// Of linux/virtio_net.h, which does not compile as C++ everywhere.
constexpr uint8_t kNeedsChecksum = 1;
constexpr uint8_t kGsoNone = 0;
constexpr uint8_t kGsoTcp4 = 1;
constexpr uint8_t kGsoEcn = 0x80;

// Offsets in an IPv4 header, and in a TCP header.
constexpr uint32_t kIpLength = 2, kIpId = 4, kIpProtocol = 9, kIpChecksum = 10, kIpSource = 12;
constexpr uint32_t kIpDestination = 16, kIpHeader = 20;
constexpr uint32_t kTcpSequence = 4, kTcpOffset = 12, kTcpFlags = 13, kTcpChecksum = 16;
constexpr uint32_t kTcpHeader = 20;
constexpr uint8_t kTcp = 6, kFin = 0x01, kPush = 0x08, kWindowReduced = 0x80;

uint16_t Read16(const uint8_t* at) { return static_cast<uint16_t>(at[0] << 8 | at[1]); }
uint32_t Read32(const uint8_t* at) { return uint32_t{Read16(at)} << 16 | Read16(at + 2); }
void Write16(uint8_t* at, uint32_t value) {
  at[0] = static_cast<uint8_t>(value >> 8);
  at[1] = static_cast<uint8_t>(value);
}
void Write32(uint8_t* at, uint32_t value) {
  Write16(at, value >> 16);
  Write16(at + 2, value);
}

// The internet checksum's sum of an even number of bytes, folded to 16 bits.
uint32_t Sum(const uint8_t* bytes, uint32_t size, uint32_t sum) {
  for (uint32_t i = 0; i < size; i += 2) sum += Read16(bytes + i);
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  return sum;
}

size_t SlotBytes(int size_class) { return (sizeof(Packet) + kCapacity[size_class] + 63) / 64 * 64; }

int ClassFor(uint32_t length) {
  int size_class = 0;
  while (kCapacity[size_class] < length) ++size_class;
  return size_class;
}

}  // namespace

void ReturnPacket::operator()(Packet* packet) const {
  packet->pool->free_[packet->size_class].push_back(packet);
}

PacketPool::PacketPool(int64_t most_bytes) : most_bytes_(most_bytes) {}

PacketPool::~PacketPool() {
  for (void* arena : arenas_) std::free(arena);
}

Packet* PacketPool::Carve(int size_class) {
  const size_t bytes = SlotBytes(size_class);
  if (static_cast<size_t>(end_ - next_) < bytes) {
    if (reserved_bytes_ + static_cast<int64_t>(kArenaBytes) > most_bytes_) return nullptr;
    void* arena = std::aligned_alloc(kHugePage, kArenaBytes);
    if (arena == nullptr) return nullptr;
    madvise(arena, kArenaBytes, MADV_HUGEPAGE);  // only quicker
    arenas_.push_back(arena);
    reserved_bytes_ += kArenaBytes;
    next_ = static_cast<uint8_t*>(arena);
    end_ = next_ + kArenaBytes;
  }
  Packet* packet = new (next_) Packet;
  next_ += bytes;
  packet->pool = this;
  packet->size_class = static_cast<uint8_t>(size_class);
  return packet;
}

PacketPtr PacketPool::Allocate(uint32_t length) {
  CHECK(length <= kLargest);
  const int size_class = ClassFor(length);
  Packet* packet = nullptr;
  if (!free_[size_class].empty()) {
    packet = free_[size_class].back();
    free_[size_class].pop_back();
  } else {
    packet = Carve(size_class);
  }
  if (packet != nullptr) packet->length = length;
  return PacketPtr(packet);
}

PacketPtr PacketPool::Fit(PacketPtr packet) {
  if (ClassFor(packet->length) == packet->size_class) return packet;
  PacketPtr fit = Allocate(packet->length);
  if (fit == nullptr) return fit;
  fit->offload = packet->offload;
  std::memcpy(fit->bytes(), packet->bytes(), packet->length);
  return fit;
}

Segments SegmentsOf(const Packet& packet) {
  Segments one{1, 0, packet.length, packet.length};
  const uint8_t* ip = packet.bytes();
  if ((packet.offload.gso_type & ~kGsoEcn) != kGsoTcp4 || packet.offload.gso_size == 0 ||
      packet.length < kIpHeader + kTcpHeader || ip[0] >> 4 != 4 || ip[kIpProtocol] != kTcp) {
    return one;
  }
  const uint32_t ip_bytes = (ip[0] & 0xfu) * 4;
  if (ip_bytes < kIpHeader || ip_bytes + kTcpHeader > packet.length) return one;
  const uint32_t tcp_bytes = (ip[ip_bytes + kTcpOffset] >> 4) * 4u;
  if (tcp_bytes < kTcpHeader || ip_bytes + tcp_bytes >= packet.length) return one;
  Segments segments;
  segments.header_bytes = ip_bytes + tcp_bytes;
  segments.segment_bytes = packet.offload.gso_size;
  segments.payload_bytes = packet.length - segments.header_bytes;
  segments.count = (segments.payload_bytes + segments.segment_bytes - 1) / segments.segment_bytes;
  return segments.count == 1 ? one : segments;
}

PacketPtr CutOut(const Packet& packet, const Segments& segments, uint32_t first, uint32_t count,
                 PacketPool* pool) {
  CHECK(count >= 1 && first + count <= segments.count && segments.count > 1);
  const uint32_t offset = first * segments.segment_bytes;
  const uint32_t payload =
      std::min(count * segments.segment_bytes, segments.payload_bytes - offset);
  PacketPtr cut = pool->Allocate(segments.header_bytes + payload);
  if (cut == nullptr) return cut;
  uint8_t* ip = cut->bytes();
  std::memcpy(ip, packet.bytes(), segments.header_bytes);
  std::memcpy(ip + segments.header_bytes, packet.bytes() + segments.header_bytes + offset, payload);
  const uint32_t ip_bytes = (ip[0] & 0xfu) * 4;
  uint8_t* tcp = ip + ip_bytes;
  Write16(ip + kIpLength, cut->length);
  Write16(ip + kIpId, Read16(ip + kIpId) + first);
  Write16(ip + kIpChecksum, 0);
  Write16(ip + kIpChecksum, ~Sum(ip, ip_bytes, 0));
  Write32(tcp + kTcpSequence, Read32(tcp + kTcpSequence) + offset);
  if (first + count < segments.count) tcp[kTcpFlags] &= static_cast<uint8_t>(~(kFin | kPush));
  if (first > 0) tcp[kTcpFlags] &= static_cast<uint8_t>(~kWindowReduced);
  // The sum of the pseudo-header; the receiving kernel adds the rest or trusts it.
  Write16(tcp + kTcpChecksum, Sum(ip + kIpSource, 8, kTcp + (cut->length - ip_bytes)));
  cut->offload = packet.offload;
  cut->offload.flags = kNeedsChecksum;
  cut->offload.checksum_start = static_cast<uint16_t>(ip_bytes);
  cut->offload.checksum_offset = kTcpChecksum;
  if (payload <= segments.segment_bytes) {
    cut->offload.gso_type = kGsoNone;
    cut->offload.gso_size = 0;
  }
  return cut;
}

uint32_t Destination(const Packet& packet) {
  const uint8_t* ip = packet.bytes();
  return packet.length >= kIpHeader && ip[0] >> 4 == 4 ? Read32(ip + kIpDestination) : 0;
}

}  // namespace atl
