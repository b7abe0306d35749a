// Bytes that come from strangers or from disk into the control plane: messages of both directions
// and key files.
#include <cstddef>
#include <cstdint>
#include <string>

#include "control/key_file.h"
#include "control/message.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  (void)atl::ParseLeaderMessage(data, size);
  (void)atl::ParseOrchestratorMessage(data, size);
  const std::string text(reinterpret_cast<const char*>(data), size);
  (void)atl::ParseLease(text);
  (void)atl::ParseOrchestratorKey(text);
  return 0;
}
