// The codecs as plain loops over single elements: the reference for every other level, and what
// does their rests. Compilers turn most of these loops into vectors of the oldest processors.
//
// A block of an integer codec:
// 1. The largest absolute value, found by the bits: NaN and infinity are above all numbers.
// 2. The scale: that value over the largest multiple (ScaleOf); not finite: the block is NaN, its
//    multiples are 0.
// 3. Each value over the scale, to nearest even; int4 packs two of them, the earlier one low.
#include <cstring>

#include "collectives/codec/kernels.h"
#include "collectives/codec/scalar.h"

namespace atl::codec {
namespace {

uint16_t LoadHalf(const uint8_t* in, size_t i) {
  uint16_t bits;
  std::memcpy(&bits, in + 2 * i, sizeof bits);
  return bits;
}

void StoreHalf(uint16_t bits, size_t i, uint8_t* out) {
  std::memcpy(out + 2 * i, &bits, sizeof bits);
}

float LoadFp32(const uint8_t* in, size_t i) {
  float value;
  std::memcpy(&value, in + 4 * i, sizeof value);
  return value;
}

void EncodeFp32(const float* in, size_t count, uint8_t* out) {
  if (count > 0) std::memcpy(out, in, 4 * count);
}

void DecodeFp32(const uint8_t* in, size_t count, float* out) {
  if (count > 0) std::memcpy(out, in, 4 * count);
}

void AddFp32(const uint8_t* in, size_t count, float* out) {
  for (size_t i = 0; i < count; ++i) out[i] = Sum(out[i], LoadFp32(in, i));
}

template <uint16_t (*kTo)(float)>
void EncodeHalves(const float* in, size_t count, uint8_t* out) {
  for (size_t i = 0; i < count; ++i) StoreHalf(kTo(in[i]), i, out);
}

template <float (*kFrom)(uint16_t)>
void DecodeHalves(const uint8_t* in, size_t count, float* out) {
  for (size_t i = 0; i < count; ++i) out[i] = kFrom(LoadHalf(in, i));
}

template <float (*kFrom)(uint16_t)>
void AddHalves(const uint8_t* in, size_t count, float* out) {
  for (size_t i = 0; i < count; ++i) out[i] = Sum(out[i], kFrom(LoadHalf(in, i)));
}

struct Int8 {
  static constexpr size_t kBlock = kInt8Block;
  static constexpr float kLargest = kInt8Largest;
  static size_t Bytes(size_t count) { return count; }
  static void Pack(const float* in, float inverse, size_t count, uint8_t* out) {
    for (size_t i = 0; i < count; ++i) out[i] = static_cast<uint8_t>(Multiple(in[i], inverse));
  }
  static int32_t At(const uint8_t* in, size_t i) { return static_cast<int8_t>(in[i]); }
};

struct Int4 {
  static constexpr size_t kBlock = kInt4Block;
  static constexpr float kLargest = kInt4Largest;
  static size_t Bytes(size_t count) { return (count + 1) / 2; }
  static void Pack(const float* in, float inverse, size_t count, uint8_t* out) {
    for (size_t i = 0; i + 1 < count; i += 2) {
      const int32_t low = Multiple(in[i], inverse) & 15;
      out[i / 2] = static_cast<uint8_t>(low | Multiple(in[i + 1], inverse) * 16);
    }
    if (count % 2 != 0) out[count / 2] = Multiple(in[count - 1], inverse) & 15;
  }
  static int32_t At(const uint8_t* in, size_t i) {
    const int32_t nibble = in[i / 2] >> (i % 2 * 4) & 15;
    return (nibble ^ 8) - 8;
  }
};

template <class Ints>
void EncodeBlock(const float* in, size_t count, uint8_t* out) {
  uint32_t size = 0;
  for (size_t i = 0; i < count; ++i) {
    const uint32_t bits = BitsOf(in[i]) & ~kSignMask;
    size = bits > size ? bits : size;
  }
  const uint16_t scale = ScaleOf(size, Ints::kLargest);
  StoreHalf(scale, 0, out);
  if (IsFiniteScale(scale)) {
    Ints::Pack(in, 1.0f / FromBf16(scale), count, out + kScaleBytes);
  } else {
    std::memset(out + kScaleBytes, 0, Ints::Bytes(count));
  }
}

template <class Ints, bool kAdd>
void DecodeBlock(const uint8_t* in, size_t count, float* out) {
  const uint16_t scale_bits = LoadHalf(in, 0);
  if (!IsFiniteScale(scale_bits)) {
    for (size_t i = 0; i < count; ++i) out[i] = FloatOf(kQuietNanBits);
    return;
  }
  const float scale = FromBf16(scale_bits);
  for (size_t i = 0; i < count; ++i) {
    const float value = static_cast<float>(Ints::At(in + kScaleBytes, i)) * scale;
    out[i] = kAdd ? Sum(out[i], value) : value;
  }
}

template <class Ints>
void EncodeBlocks(const float* in, size_t count, uint8_t* out) {
  while (count > 0) {
    const size_t block = count < Ints::kBlock ? count : Ints::kBlock;
    EncodeBlock<Ints>(in, block, out);
    in += block;
    out += kScaleBytes + Ints::Bytes(block);
    count -= block;
  }
}

template <class Ints, bool kAdd>
void DecodeBlocks(const uint8_t* in, size_t count, float* out) {
  while (count > 0) {
    const size_t block = count < Ints::kBlock ? count : Ints::kBlock;
    DecodeBlock<Ints, kAdd>(in, block, out);
    in += kScaleBytes + Ints::Bytes(block);
    out += block;
    count -= block;
  }
}

}  // namespace

constinit const Kernels kPlainKernels = {
    Simd::kPlain,
    AddFp32,
    {{EncodeFp32, DecodeFp32, AddFp32},
     {EncodeHalves<ToBf16>, DecodeHalves<FromBf16>, AddHalves<FromBf16>},
     {EncodeHalves<ToFp16>, DecodeHalves<FromFp16>, AddHalves<FromFp16>},
     {EncodeBlocks<Int8>, DecodeBlocks<Int8, false>, DecodeBlocks<Int8, true>},
     {EncodeBlocks<Int4>, DecodeBlocks<Int4, false>, DecodeBlocks<Int4, true>}}};

}  // namespace atl::codec
