// Packets as a TUN device with offloads gives them: an IPv4 packet of one segment, or a
// super-packet, that is one TCP header before up to 64 KiB which the kernel has yet to cut into
// segments of `gso_size` bytes. A super-packet travels whole and is cut only where some of its
// segments fare differently from the others.
//
// Buffers come from a pool in three sizes, from huge pages: a long fast link holds tens of
// megabytes of them. Pool and packets belong to one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace atl {

using Nanos = int64_t;

// struct virtio_net_hdr of the kernel, in the host's byte order.
struct OffloadHeader {
  uint8_t flags = 0;
  uint8_t gso_type = 0;
  uint16_t header_length = 0;
  uint16_t gso_size = 0;
  uint16_t checksum_start = 0;
  uint16_t checksum_offset = 0;
};
static_assert(sizeof(OffloadHeader) == 10);

class PacketPool;

struct Packet {
  PacketPool* pool = nullptr;
  uint32_t length = 0;  // of the IP packet, at bytes()
  uint8_t size_class = 0;
  OffloadHeader offload;
  uint8_t* bytes() { return reinterpret_cast<uint8_t*>(this + 1); }
  const uint8_t* bytes() const { return reinterpret_cast<const uint8_t*>(this + 1); }
};

struct ReturnPacket {
  void operator()(Packet* packet) const;
};
using PacketPtr = std::unique_ptr<Packet, ReturnPacket>;

class PacketPool {
 public:
  static constexpr uint32_t kLargest = 65536;
  // Nothing is given out beyond `most_bytes` of memory.
  explicit PacketPool(int64_t most_bytes);
  ~PacketPool();
  PacketPool(const PacketPool&) = delete;
  PacketPool& operator=(const PacketPool&) = delete;

  // For up to `length` bytes, at most kLargest; null if the memory is used up. Its content is
  // undefined, its `length` is `length`.
  PacketPtr Allocate(uint32_t length);
  // The same packet in the smallest buffer that holds it. Null if the memory is used up.
  PacketPtr Fit(PacketPtr packet);
  int64_t reserved_bytes() const { return reserved_bytes_; }

 private:
  friend struct ReturnPacket;
  static constexpr int kClasses = 3;
  Packet* Carve(int size_class);

  const int64_t most_bytes_;
  int64_t reserved_bytes_ = 0;
  std::vector<void*> arenas_;
  uint8_t* next_ = nullptr;  // free rest of the newest arena
  uint8_t* end_ = nullptr;
  std::vector<Packet*> free_[kClasses];
};

// How a packet will look on the wire.
struct Segments {
  uint32_t count = 1;
  uint32_t header_bytes = 0;   // IP and TCP; 0 for what is no super-packet
  uint32_t segment_bytes = 0;  // TCP payload of each segment but the last, which may have less
  uint32_t payload_bytes = 0;  // of all
  // Bytes on the wire of all segments, and of one full one.
  int64_t wire_bytes() const { return int64_t{count} * header_bytes + payload_bytes; }
  int64_t full_segment_bytes() const { return int64_t{header_bytes} + segment_bytes; }
};

// Of anything: what is not a well-formed super-packet counts as one segment.
Segments SegmentsOf(const Packet& packet);

// Segments [first, first + count) of `packet`, whose segments are `segments`, as a packet of its
// own: headers, sequence number, flags and the checksum's start mended. Null if the pool is empty.
PacketPtr CutOut(const Packet& packet, const Segments& segments, uint32_t first, uint32_t count,
                 PacketPool* pool);

// The destination of an IPv4 packet in host byte order; 0 if it is none.
uint32_t Destination(const Packet& packet);

}  // namespace atl
