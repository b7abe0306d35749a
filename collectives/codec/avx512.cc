// The codecs with AVX-512 F and BW: sixteen floats at a time. The processor's own conversion to
// bf16 is of no use here, it flushes denormals.
#include <immintrin.h>

#include "collectives/codec/vectors.h"

namespace atl::codec {
namespace {

struct Avx512 {
  using F = __m512;
  using U = __m512i;
  static constexpr size_t kWidth = 16;

  static F Load(const void* in) { return _mm512_loadu_ps(in); }
  static void Store(float* out, F value) { _mm512_storeu_ps(out, value); }
  static F All(float value) { return _mm512_set1_ps(value); }
  static F Times(F a, F b) { return _mm512_mul_ps(a, b); }
  static F Sum(F a, F b) {
    const F sum = _mm512_add_ps(a, b);
    const __mmask16 nan = _mm512_cmp_ps_mask(sum, sum, _CMP_UNORD_Q);
    return _mm512_mask_blend_ps(nan, sum, All(FloatOf(kQuietNanBits)));
  }

  static U Same(uint32_t value) { return _mm512_set1_epi32(static_cast<int>(value)); }

  static void ToBf16(F value, uint8_t* out) {
    const U bits = _mm512_castps_si512(value);
    const U upper = _mm512_srli_epi32(bits, 16);
    const U even = _mm512_and_si512(upper, Same(1));
    const U sum = _mm512_add_epi32(_mm512_add_epi32(bits, Same(0x7FFF)), even);
    const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    const U half = _mm512_mask_or_epi32(_mm512_srli_epi32(sum, 16), nan, upper, Same(0x40));
    Store32(_mm512_cvtepi32_epi16(half), out);
  }
  static F FromBf16(const uint8_t* in) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(Load32(in)), 16));
  }
  static void ToFp16(F value, uint8_t* out) {
    Store32(_mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), out);
  }
  static F FromFp16(const uint8_t* in) { return _mm512_cvtph_ps(Load32(in)); }

  static U NoSizes() { return _mm512_setzero_si512(); }
  static U Sizes(U sizes, F value) {
    const U size = _mm512_and_si512(_mm512_castps_si512(value), Same(~kSignMask));
    return _mm512_max_epi32(sizes, size);
  }
  static uint32_t Largest(U sizes) { return static_cast<uint32_t>(_mm512_reduce_max_epi32(sizes)); }

  static void PackInt8(const F* values, uint8_t* out) {
    for (size_t k = 0; k < 4; ++k) Store16(Narrow(values[k]), out + 16 * k);
  }
  static void PackInt4(const F* values, uint8_t* out) {
    U bytes = _mm512_castsi128_si512(Narrow(values[0]));
    bytes = _mm512_inserti32x4(bytes, Narrow(values[1]), 1);
    bytes = _mm512_inserti32x4(bytes, Narrow(values[2]), 2);
    bytes = _mm512_inserti32x4(bytes, Narrow(values[3]), 3);
    // Pairs of bytes to low + 16 * high, then their lower bytes together.
    const U nibbles = _mm512_and_si512(bytes, _mm512_set1_epi8(15));
    const U pairs = _mm512_maddubs_epi16(nibbles, _mm512_set1_epi16(0x1001));
    Store32(_mm512_cvtepi16_epi8(pairs), out);
  }
  static void UnpackInt8(const uint8_t* in, F* values) {
    for (size_t k = 0; k < 4; ++k) values[k] = Widen(Load16(in + 16 * k));
  }
  static void UnpackInt4(const uint8_t* in, F* values) {
    // 0x00HL to 0x0H0L, then from 4 bits to a signed byte.
    const U wide = _mm512_cvtepu8_epi16(Load32(in));
    const U nibbles =
        _mm512_and_si512(_mm512_or_si512(wide, _mm512_slli_epi16(wide, 4)), _mm512_set1_epi8(15));
    const U eight = _mm512_set1_epi8(8);
    const U bytes = _mm512_sub_epi8(_mm512_xor_si512(nibbles, eight), eight);
    values[0] = Widen(_mm512_castsi512_si128(bytes));
    values[1] = Widen(_mm512_extracti32x4_epi32(bytes, 1));
    values[2] = Widen(_mm512_extracti32x4_epi32(bytes, 2));
    values[3] = Widen(_mm512_extracti32x4_epi32(bytes, 3));
  }

 private:
  static __m128i Load16(const uint8_t* in) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(in));
  }
  static __m256i Load32(const uint8_t* in) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in));
  }
  static void Store16(__m128i bytes, uint8_t* out) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), bytes);
  }
  static void Store32(__m256i bytes, uint8_t* out) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), bytes);
  }
  // One vector to 16 signed bytes, and back.
  static __m128i Narrow(F value) { return _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(value)); }
  static F Widen(__m128i bytes) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)); }
};

}  // namespace

constinit const Kernels kAvx512Kernels = KernelsOfVectors<Avx512>(Simd::kAvx512);

}  // namespace atl::codec
