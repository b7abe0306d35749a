// Fuzz entry of the manifest's parser. What it accepts must be what the writer writes.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "checkpoint/manifest.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const auto manifest = atl::checkpoint::ParseManifest(text);
  if (!manifest.ok()) return 0;
  const auto again = atl::checkpoint::WriteManifest(*manifest);
  if (!again.ok() || *again != text) std::abort();
  return 0;
}
