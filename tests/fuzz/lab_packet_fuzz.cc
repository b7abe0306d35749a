// Any bytes as a packet from a region: it is counted, cut and carried without a crash, and the
// pieces of a super-packet have the payload of the whole.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "tools/wanlab/sea.h"

namespace {

atl::Lab TwoRegions() {
  atl::Lab lab;
  lab.regions = {{"a", 50'000'000, 0}, {"b", 0, 20'000'000}};
  lab.links.resize(4);
  lab.link(0, 1).loss = 0.05;
  return lab;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static atl::PacketPool* const pool = new atl::PacketPool(256 << 20);
  if (size < sizeof(atl::OffloadHeader) + 1) return 0;
  const size_t length =
      std::min<size_t>(size - sizeof(atl::OffloadHeader), atl::PacketPool::kLargest);
  atl::PacketPtr packet = pool->Allocate(static_cast<uint32_t>(length));
  std::memcpy(&packet->offload, data, sizeof(atl::OffloadHeader));
  std::memcpy(packet->bytes(), data + sizeof(atl::OffloadHeader), length);
  (void)atl::Destination(*packet);
  const atl::Segments segments = atl::SegmentsOf(*packet);
  if (segments.count > 1) {
    const uint32_t first = segments.count / 2;
    const atl::PacketPtr head = CutOut(*packet, segments, 0, first, pool);
    const atl::PacketPtr tail = CutOut(*packet, segments, first, segments.count - first, pool);
    if (head->length + tail->length != packet->length + segments.header_bytes) std::abort();
  }
  atl::Sea sea(TwoRegions(), pool);
  sea.Send(0, 0, 1, std::move(packet));
  int64_t bytes = 0;
  sea.Advance(INT64_MAX, [&](int, const atl::Packet& piece) { bytes += piece.length; });
  if (bytes > 2 * segments.wire_bytes()) std::abort();
  return 0;
}
