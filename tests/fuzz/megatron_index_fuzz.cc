// Fuzz entry: a Megatron index. The first two bytes are the size of the .bin, the rest is the .idx.
// What is accepted must name tokens inside the .bin only.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "worker/data/megatron_index.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const int64_t bin_bytes = data[0] + 256 * data[1];
  const auto layout =
      atl::ParseMegatronIndex(std::span(data, size).subspan(2), bin_bytes, "fuzz.idx");
  if (!layout.ok()) return 0;
  const int64_t width = atl::BytesPerToken(layout->type);
  if (layout->tokens * width > bin_bytes) std::abort();
  for (size_t i = 0; i < layout->extents.size(); ++i) {
    const auto& extent = layout->extents[i];
    const int64_t end =
        i + 1 < layout->extents.size() ? layout->extents[i + 1].first_token : layout->tokens;
    const int64_t bytes = (end - extent.first_token) * width;
    if (bytes <= 0 || extent.byte_offset < 0 || extent.byte_offset > bin_bytes - bytes) {
      std::abort();
    }
  }
  return 0;
}
