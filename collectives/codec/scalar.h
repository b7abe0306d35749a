// The codecs' arithmetic for one number: the rules that every level of instructions repeats.
//
// Compiled by the C++ compiler for each level and by nvcc for the device. The functions are static
// on purpose: each file keeps its own copy, made with its own flags, so that the linker can't give
// a file for old processors one that was made for new ones. Nothing here rests on contraction,
// approximate reciprocals or the sign of a NaN, in which processors differ.
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(__CUDACC__)
#define ATOLL_CODEC_SCALAR static inline __host__ __device__
#else
#define ATOLL_CODEC_SCALAR static inline
#endif

namespace atl::codec {

constexpr uint32_t kSignMask = 0x80000000u;
constexpr uint32_t kInfinityBits = 0x7F800000u;
constexpr uint32_t kQuietNanBits = 0x7FC00000u;

// Block codecs: a scale in bf16, then the multiples. Blocks divide the grid of 256 elements on
// which ranges begin.
constexpr size_t kScaleBytes = 2;
constexpr size_t kInt8Block = 128;
constexpr size_t kInt4Block = 64;
static_assert(256 % kInt8Block == 0 && 256 % kInt4Block == 0);
constexpr float kInt8Largest = 127.0f;
constexpr float kInt4Largest = 7.0f;
// 2^-126: the smallest scale, so that its inverse is finite and no product is denormal.
constexpr uint16_t kSmallestScale = 0x0080u;
// Of a block that holds a NaN or an infinity.
constexpr uint16_t kNanScale = 0x7FC0u;

ATOLL_CODEC_SCALAR uint32_t BitsOf(float value) { return __builtin_bit_cast(uint32_t, value); }
ATOLL_CODEC_SCALAR float FloatOf(uint32_t bits) { return __builtin_bit_cast(float, bits); }

// a + b. Which NaN a processor returns is its own affair: here it is always the same one.
ATOLL_CODEC_SCALAR float Sum(float a, float b) {
  const float sum = a + b;
  return sum != sum ? FloatOf(kQuietNanBits) : sum;
}

// Round to nearest, ties to even: adding half of the dropped part (less one where the kept part is
// even) carries into the kept part exactly where it must; infinity comes out right by itself. A NaN
// could be carried or cut into an infinity: it keeps its upper bits and becomes quiet.
ATOLL_CODEC_SCALAR uint16_t ToBf16(float value) {
  const uint32_t bits = BitsOf(value);
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t quiet = (bits >> 16) | 0x0040u;
  return static_cast<uint16_t>((bits & ~kSignMask) > kInfinityBits ? quiet : rounded);
}

ATOLL_CODEC_SCALAR float FromBf16(uint16_t bits) {
  return FloatOf(static_cast<uint32_t>(bits) << 16);
}

// IEEE half precision, as F16C and NEON convert: from 65520 on infinity, below 2^-14 denormal; a
// NaN keeps its upper bits and becomes quiet.
ATOLL_CODEC_SCALAR uint16_t ToFp16(float value) {
  const uint32_t bits = BitsOf(value);
  const uint32_t size = bits & ~kSignMask;
  // 0.5 has the last place 2^-24, that of denormal halves: the addition rounds.
  const uint32_t denormal = BitsOf(FloatOf(size) + 0.5f) - 0x3F000000u;
  const uint32_t normal = (size + 0x0FFFu + ((size >> 13) & 1u) - 0x38000000u) >> 13;
  const uint32_t nan = 0x7E00u | ((size >> 13) & 0x03FFu);
  uint32_t half = size < 0x38800000u ? denormal : normal;
  half = size >= 0x477FF000u ? 0x7C00u : half;
  half = size > kInfinityBits ? nan : half;
  return static_cast<uint16_t>((bits >> 16 & 0x8000u) | half);
}

ATOLL_CODEC_SCALAR float FromFp16(uint16_t bits) {
  const uint32_t size = bits & 0x7FFFu;
  const uint32_t denormal = BitsOf(static_cast<float>(static_cast<int32_t>(size)) * 0x1p-24f);
  const uint32_t normal = (size << 13) + 0x38000000u;
  const uint32_t special = (size << 13) | kInfinityBits | (size > 0x7C00u ? 0x00400000u : 0u);
  uint32_t value = size < 0x0400u ? denormal : normal;
  value = size >= 0x7C00u ? special : value;
  return FloatOf(value | static_cast<uint32_t>(bits & 0x8000u) << 16);
}

// The scale of a block from the bits of its largest absolute value; `largest` is the largest
// multiple. Rounded to nearest, not up: largest * (1 +- 2^-8) still rounds to `largest`, so that
// the largest value always gets the largest multiple. Hence no multiple is ever cut off, and the
// block that was decoded has the same scale again.
ATOLL_CODEC_SCALAR uint16_t ScaleOf(uint32_t size_bits, float largest) {
  if (size_bits >= kInfinityBits) return kNanScale;
  const uint16_t scale = ToBf16(FloatOf(size_bits) / largest);
  return scale < kSmallestScale ? kSmallestScale : scale;
}

ATOLL_CODEC_SCALAR bool IsFiniteScale(uint16_t scale) { return (scale & 0x7F80u) != 0x7F80u; }

// The multiple nearest to value * inverse, ties to even. At 1.5 * 2^23 the last place is 1: the
// addition rounds. |value * inverse| is at most 127.5.
ATOLL_CODEC_SCALAR int32_t Multiple(float value, float inverse) {
  return static_cast<int32_t>(BitsOf(value * inverse + 12582912.0f) - 0x4B400000u);
}

}  // namespace atl::codec
