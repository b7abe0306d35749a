// The border between the programs and the module of device codecs: a table of plain C functions,
// looked up by name, so that the CUDA compiler sees nothing of the house but scalar.h.
//
// A function returns null, or what went wrong in words that stay valid. `stream` is a cudaStream_t.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace atl {

struct DeviceCodecModule {
  uint32_t version;
  const char* (*usable)();
  // As in device_codec.h; `codec` is a Codec.
  const char* (*encode)(uint8_t codec, const float* in, size_t count, uint8_t* out, void* stream);
  const char* (*decode)(uint8_t codec, const uint8_t* in, size_t count, float* out, void* stream);
  const char* (*decode_add)(uint8_t codec, const uint8_t* in, size_t count, float* out,
                            void* stream);
  const char* (*add)(const float* in, size_t count, float* out, void* stream);
  const char* (*allocate)(size_t bytes, void** memory);
  void (*release)(void* memory);
  const char* (*copy)(void* to, const void* from, size_t bytes, void* stream);
  const char* (*wait)(void* stream);
};

inline constexpr uint32_t kDeviceCodecModuleVersion = 1;
inline constexpr char kDeviceCodecModuleEntry[] = "atoll_codec_cuda_entry";
using DeviceCodecModuleEntry = const DeviceCodecModule* (*)();

}  // namespace atl
