// Fuzz entry of the strict safetensors reader. What it accepts must tile the file exactly.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "checkpoint/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view file(reinterpret_cast<const char*>(data), size);
  const auto header = atl::checkpoint::ParseSafetensors(file, static_cast<int64_t>(size));
  if (!header.ok()) return 0;
  int64_t reached = header->data_begin;
  for (const auto& tensor : header->tensors) {
    if (header->data_begin + tensor.data.begin != reached) std::abort();
    reached = header->data_begin + tensor.data.end;
  }
  if (reached != static_cast<int64_t>(size)) std::abort();
  return 0;
}
