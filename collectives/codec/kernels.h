// The table of functions that one level of instructions offers, inside collectives/codec only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "collectives/codec/codec.h"

namespace atl::codec {

inline constexpr size_t kCodecs = 5;

struct Coder {
  void (*encode)(const float* in, size_t count, uint8_t* out);
  void (*decode)(const uint8_t* in, size_t count, float* out);
  void (*decode_add)(const uint8_t* in, size_t count, float* out);
};

struct Kernels {
  Simd level;
  // Floats as bytes of any alignment.
  void (*add)(const uint8_t* in, size_t count, float* out);
  Coder coders[kCodecs];  // by codec, from kFp32
};

inline const Coder& CoderOf(const Kernels& kernels, Codec codec) {
  return kernels.coders[static_cast<size_t>(codec) - static_cast<size_t>(Codec::kFp32)];
}

// Any count, any processor. The others do whole vectors or blocks and leave it the rest.
extern const Kernels kPlainKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#endif
#if defined(__aarch64__)
extern const Kernels kNeonKernels;
#endif

}  // namespace atl::codec
