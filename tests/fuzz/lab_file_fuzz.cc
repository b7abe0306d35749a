// Any bytes as a lab file: a lab or an error, never a crash. An accepted lab has a link for every
// pair and is within its bounds.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "proto/lab_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto lab = atl::ParseLab(text, "fuzz.yaml");
  if (!lab.ok()) return 0;
  if (lab->size() < 1 || lab->size() > atl::kMostLabRegions) std::abort();
  if (lab->links.size() != lab->regions.size() * lab->regions.size()) std::abort();
  for (const atl::LabLink& link : lab->links) {
    if (!(link.loss >= 0 && link.loss < 1)) std::abort();
    if (!(link.delay_seconds >= 0 && link.delay_seconds <= 10)) std::abort();
    if (!(link.queue_seconds > 0 && link.queue_seconds <= 10)) std::abort();
    if (link.rate_bits_per_second < 0) std::abort();
  }
  return 0;
}
