// Fuzz entry of the parser of steps in a log. What it accepts can be written and read again.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "orchestrator/store/step_codec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto step = atl::DecodeStep(absl::string_view(reinterpret_cast<const char*>(data), size));
  if (!step.ok()) return 0;
  const auto again = atl::DecodeStep(atl::EncodeStep(*step));
  if (!again.ok() || again->size() != step->size()) std::abort();
  return 0;
}
