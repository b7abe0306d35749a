// The codecs on a CUDA device, loaded at run time: the same bytes and bits as codec.h's, without a
// way through the host's memory for the floats.
//
// The module is libatoll_codec_cuda.so, in ../lib beside the executable or in the executable's own
// directory; programs start without it, CUDA or a driver. All pointers are device memory (or host
// memory that the device can reach) of the calling thread's current device; floats are aligned to
// 4 bytes, encoded bytes to 4 for fp32 and to 2 for the others. Work is queued on `stream` (a
// cudaStream_t; null: the legacy default stream) and may still be going on at return. Thread rule:
// any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"
#include "collectives/codec/codec.h"

namespace atl {

// Whether the functions below can work in this process: module, driver and a device are there. If
// not, `why` says what is missing.
bool DeviceCodecUsable(std::string* why);

Status DeviceEncode(Codec codec, const float* in, size_t count, uint8_t* out, void* stream);
Status DeviceDecode(Codec codec, const uint8_t* in, size_t count, float* out, void* stream);
Status DeviceDecodeAdd(Codec codec, const uint8_t* in, size_t count, float* out, void* stream);
// out[i] += in[i]
Status DeviceAdd(const float* in, size_t count, float* out, void* stream);

// What callers without the CUDA headers need around them.
using DeviceMemory = std::unique_ptr<void, void (*)(void*)>;
StatusOr<DeviceMemory> AllocateOnDevice(size_t bytes);
// From or to the device, either way.
Status DeviceCopy(void* to, const void* from, size_t bytes, void* stream);
// Until all that was queued is done.
Status DeviceWait(void* stream);

}  // namespace atl
