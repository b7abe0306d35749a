// The codecs over whole vectors, written once for all levels of instructions.
//
// A level's file defines a struct V and takes KernelsOfVectors<V>():
//   F, kWidth                a vector of kWidth floats
//   U                        as many 32-bit integers
//   Load(bytes), Store       any alignment
//   Sum(F, F)                as scalar.h's Sum
//   Times(F, F), All(x)      product; every lane x
//   ToBf16, FromBf16, ToFp16, FromFp16    one vector to or from 2 * kWidth bytes
//   Sizes(U, F)              the larger, lane by lane, of U and the bits of |F|
//   Largest(U)               of all lanes
//   PackInt8, PackInt4       four vectors, rounded to nearest even, to 4 or 2 * kWidth bytes
//   UnpackInt8, UnpackInt4   and back, as floats
// What does not fill a vector or a block goes to the plain level. The algorithm of a block is told
// in plain.cc.
//
// Invariant: a file that includes this one is compiled for processors that the program may not run
// on, so it calls no inline function of another library: the linker keeps one copy of such a
// function for the whole program, and it could be this file's.
#pragma once

#include "collectives/codec/kernels.h"
#include "collectives/codec/scalar.h"

namespace atl::codec {
namespace {

template <class V>
struct VectorAdd {
  static void Run(const uint8_t* in, size_t count, float* out) {
    size_t i = 0;
    for (; i + V::kWidth <= count; i += V::kWidth) {
      V::Store(out + i, V::Sum(V::Load(out + i), V::Load(in + 4 * i)));
    }
    kPlainKernels.add(in + 4 * i, count - i, out + i);
  }
};

template <class V>
struct Bf16Of {
  static constexpr Codec kCodec = Codec::kBf16;
  static void To(typename V::F value, uint8_t* out) { V::ToBf16(value, out); }
  static typename V::F From(const uint8_t* in) { return V::FromBf16(in); }
};

template <class V>
struct Fp16Of {
  static constexpr Codec kCodec = Codec::kFp16;
  static void To(typename V::F value, uint8_t* out) { V::ToFp16(value, out); }
  static typename V::F From(const uint8_t* in) { return V::FromFp16(in); }
};

template <class V, class Half>
struct HalfCoder {
  static const Coder& Rest() { return kPlainKernels.coders[static_cast<size_t>(Half::kCodec) - 1]; }
  static void Encode(const float* in, size_t count, uint8_t* out) {
    size_t i = 0;
    for (; i + V::kWidth <= count; i += V::kWidth) Half::To(V::Load(in + i), out + 2 * i);
    Rest().encode(in + i, count - i, out + 2 * i);
  }
  static void Decode(const uint8_t* in, size_t count, float* out) {
    size_t i = 0;
    for (; i + V::kWidth <= count; i += V::kWidth) V::Store(out + i, Half::From(in + 2 * i));
    Rest().decode(in + 2 * i, count - i, out + i);
  }
  static void DecodeAdd(const uint8_t* in, size_t count, float* out) {
    size_t i = 0;
    for (; i + V::kWidth <= count; i += V::kWidth) {
      V::Store(out + i, V::Sum(V::Load(out + i), Half::From(in + 2 * i)));
    }
    Rest().decode_add(in + 2 * i, count - i, out + i);
  }
};

template <class V>
struct Int8Of {
  static constexpr Codec kCodec = Codec::kInt8;
  static constexpr size_t kBlock = kInt8Block;
  static constexpr size_t kBytes = kInt8Block;
  static constexpr float kLargest = kInt8Largest;
  static void Pack(const typename V::F* values, uint8_t* out) { V::PackInt8(values, out); }
  static void Unpack(const uint8_t* in, typename V::F* values) { V::UnpackInt8(in, values); }
};

template <class V>
struct Int4Of {
  static constexpr Codec kCodec = Codec::kInt4;
  static constexpr size_t kBlock = kInt4Block;
  static constexpr size_t kBytes = kInt4Block / 2;
  static constexpr float kLargest = kInt4Largest;
  static void Pack(const typename V::F* values, uint8_t* out) { V::PackInt4(values, out); }
  static void Unpack(const uint8_t* in, typename V::F* values) { V::UnpackInt4(in, values); }
};

template <class V, class Ints>
struct BlockCoder {
  using F = typename V::F;
  static constexpr size_t kStep = 4 * V::kWidth;  // elements
  static constexpr size_t kStepBytes = kStep * Ints::kBytes / Ints::kBlock;
  static_assert(Ints::kBlock % kStep == 0);

  static const Coder& Rest() { return kPlainKernels.coders[static_cast<size_t>(Ints::kCodec) - 1]; }

  static void EncodeBlock(const float* in, uint8_t* out) {
    typename V::U sizes = V::NoSizes();
    for (size_t i = 0; i < Ints::kBlock; i += V::kWidth) sizes = V::Sizes(sizes, V::Load(in + i));
    const uint16_t scale = ScaleOf(V::Largest(sizes), Ints::kLargest);
    __builtin_memcpy(out, &scale, sizeof scale);
    out += kScaleBytes;
    if (!IsFiniteScale(scale)) {
      __builtin_memset(out, 0, Ints::kBytes);
      return;
    }
    const F inverse = V::All(1.0f / codec::FromBf16(scale));
    for (size_t i = 0; i < Ints::kBlock; i += kStep, out += kStepBytes) {
      F values[4];
      for (size_t k = 0; k < 4; ++k) {
        values[k] = V::Times(V::Load(in + i + k * V::kWidth), inverse);
      }
      Ints::Pack(values, out);
    }
  }

  template <bool kAdd>
  static void DecodeBlock(const uint8_t* in, float* out) {
    uint16_t scale_bits;
    __builtin_memcpy(&scale_bits, in, sizeof scale_bits);
    in += kScaleBytes;
    if (!IsFiniteScale(scale_bits)) {
      const F nan = V::All(FloatOf(kQuietNanBits));
      for (size_t i = 0; i < Ints::kBlock; i += V::kWidth) V::Store(out + i, nan);
      return;
    }
    const F scale = V::All(codec::FromBf16(scale_bits));
    for (size_t i = 0; i < Ints::kBlock; i += kStep, in += kStepBytes) {
      F values[4];
      Ints::Unpack(in, values);
      for (size_t k = 0; k < 4; ++k) {
        float* const place = out + i + k * V::kWidth;
        const F value = V::Times(values[k], scale);
        V::Store(place, kAdd ? V::Sum(V::Load(place), value) : value);
      }
    }
  }

  static void Encode(const float* in, size_t count, uint8_t* out) {
    for (; count >= Ints::kBlock; count -= Ints::kBlock) {
      EncodeBlock(in, out);
      in += Ints::kBlock;
      out += kScaleBytes + Ints::kBytes;
    }
    Rest().encode(in, count, out);
  }
  template <bool kAdd>
  static const uint8_t* DecodeWhole(const uint8_t* in, size_t blocks, float* out) {
    for (; blocks > 0; --blocks) {
      DecodeBlock<kAdd>(in, out);
      in += kScaleBytes + Ints::kBytes;
      out += Ints::kBlock;
    }
    return in;
  }
  static void Decode(const uint8_t* in, size_t count, float* out) {
    const size_t rest = count % Ints::kBlock;
    in = DecodeWhole<false>(in, count / Ints::kBlock, out);
    Rest().decode(in, rest, out + count - rest);
  }
  static void DecodeAdd(const uint8_t* in, size_t count, float* out) {
    const size_t rest = count % Ints::kBlock;
    in = DecodeWhole<true>(in, count / Ints::kBlock, out);
    Rest().decode_add(in, rest, out + count - rest);
  }
};

template <class Whole>
constexpr Coder CoderOfWhole() {
  return {Whole::Encode, Whole::Decode, Whole::DecodeAdd};
}

// fp32 travels as it is: the C library's copy is as wide as the processor by itself.
inline void CopyOut(const float* in, size_t count, uint8_t* out) {
  if (count > 0) __builtin_memcpy(out, in, 4 * count);
}
inline void CopyIn(const uint8_t* in, size_t count, float* out) {
  if (count > 0) __builtin_memcpy(out, in, 4 * count);
}

template <class V>
constexpr Kernels KernelsOfVectors(Simd level) {
  return {level,
          VectorAdd<V>::Run,
          {{CopyOut, CopyIn, VectorAdd<V>::Run},
           CoderOfWhole<HalfCoder<V, Bf16Of<V>>>(),
           CoderOfWhole<HalfCoder<V, Fp16Of<V>>>(),
           CoderOfWhole<BlockCoder<V, Int8Of<V>>>(),
           CoderOfWhole<BlockCoder<V, Int4Of<V>>>()}};
}

}  // namespace
}  // namespace atl::codec
