// The codecs with NEON of 64-bit ARM, which every such processor has: four floats at a time. (The
// NEON of 32-bit ARM flushes denormals; there the plain level does the work.)
#include <arm_neon.h>

#include "collectives/codec/vectors.h"

namespace atl::codec {
namespace {

struct Neon {
  using F = float32x4_t;
  using U = uint32x4_t;
  static constexpr size_t kWidth = 4;

  static F Load(const float* in) { return vld1q_f32(in); }
  static F Load(const uint8_t* in) { return vreinterpretq_f32_u8(vld1q_u8(in)); }
  static void Store(float* out, F value) { vst1q_f32(out, value); }
  static F All(float value) { return vdupq_n_f32(value); }
  static F Times(F a, F b) { return vmulq_f32(a, b); }
  static F Sum(F a, F b) {
    const F sum = vaddq_f32(a, b);
    return vbslq_f32(vceqq_f32(sum, sum), sum, All(FloatOf(kQuietNanBits)));
  }

  static void ToBf16(F value, uint8_t* out) {
    const U bits = vreinterpretq_u32_f32(value);
    const U upper = vshrq_n_u32(bits, 16);
    const U even = vandq_u32(upper, vdupq_n_u32(1));
    const U sum = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7FFF)), even);
    const U quiet = vorrq_u32(upper, vdupq_n_u32(0x40));
    const U half = vbslq_u32(vceqq_f32(value, value), vshrq_n_u32(sum, 16), quiet);
    vst1_u8(out, vreinterpret_u8_u16(vmovn_u32(half)));
  }
  static F FromBf16(const uint8_t* in) {
    return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(in)), 16));
  }
  static void ToFp16(F value, uint8_t* out) {
    vst1_u8(out, vreinterpret_u8_f16(vcvt_f16_f32(value)));
  }
  static F FromFp16(const uint8_t* in) { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(in))); }

  static U NoSizes() { return vdupq_n_u32(0); }
  static U Sizes(U sizes, F value) {
    return vmaxq_u32(sizes, vandq_u32(vreinterpretq_u32_f32(value), vdupq_n_u32(~kSignMask)));
  }
  static uint32_t Largest(U sizes) { return vmaxvq_u32(sizes); }

  static void PackInt8(const F* values, uint8_t* out) {
    vst1q_u8(out, vreinterpretq_u8_s8(Narrow(values)));
  }
  static void PackInt4(const F* values, uint8_t* out) {
    // Pairs 0x0H0L to 0xHL, their lower bytes together.
    const uint8x16_t nibbles = vandq_u8(vreinterpretq_u8_s8(Narrow(values)), vdupq_n_u8(15));
    const uint16x8_t pairs = vreinterpretq_u16_u8(nibbles);
    vst1_u8(out, vmovn_u16(vorrq_u16(pairs, vshrq_n_u16(pairs, 4))));
  }
  static void UnpackInt8(const uint8_t* in, F* values) {
    Widen(vreinterpretq_s8_u8(vld1q_u8(in)), values);
  }
  static void UnpackInt4(const uint8_t* in, F* values) {
    // Each nibble to the upper half of a byte, and down again with its sign.
    const uint8x8_t bytes = vld1_u8(in);
    const int8x8_t low = vshr_n_s8(vreinterpret_s8_u8(vshl_n_u8(bytes, 4)), 4);
    const int8x8_t high = vshr_n_s8(vreinterpret_s8_u8(bytes), 4);
    Widen(vcombine_s8(vzip1_s8(low, high), vzip2_s8(low, high)), values);
  }

 private:
  // Four vectors to 16 signed bytes, and back.
  static int8x16_t Narrow(const F* values) {
    const int16x8_t first =
        vcombine_s16(vmovn_s32(vcvtnq_s32_f32(values[0])), vmovn_s32(vcvtnq_s32_f32(values[1])));
    const int16x8_t last =
        vcombine_s16(vmovn_s32(vcvtnq_s32_f32(values[2])), vmovn_s32(vcvtnq_s32_f32(values[3])));
    return vcombine_s8(vmovn_s16(first), vmovn_s16(last));
  }
  static void Widen(int8x16_t bytes, F* values) {
    const int16x8_t first = vmovl_s8(vget_low_s8(bytes));
    const int16x8_t last = vmovl_s8(vget_high_s8(bytes));
    values[0] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(first)));
    values[1] = vcvtq_f32_s32(vmovl_s16(vget_high_s16(first)));
    values[2] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(last)));
    values[3] = vcvtq_f32_s32(vmovl_s16(vget_high_s16(last)));
  }
};

}  // namespace

constinit const Kernels kNeonKernels = KernelsOfVectors<Neon>(Simd::kNeon);

}  // namespace atl::codec
