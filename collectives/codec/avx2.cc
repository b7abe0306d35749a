// The codecs with AVX2 and F16C: eight floats at a time.
#include <immintrin.h>

#include "collectives/codec/vectors.h"

namespace atl::codec {
namespace {

struct Avx2 {
  using F = __m256;
  using U = __m256i;
  static constexpr size_t kWidth = 8;

  static F Load(const void* in) { return _mm256_loadu_ps(static_cast<const float*>(in)); }
  static void Store(float* out, F value) { _mm256_storeu_ps(out, value); }
  static F All(float value) { return _mm256_set1_ps(value); }
  static F Times(F a, F b) { return _mm256_mul_ps(a, b); }
  static F Sum(F a, F b) {
    const F sum = _mm256_add_ps(a, b);
    const F nan = _mm256_cmp_ps(sum, sum, _CMP_UNORD_Q);
    return _mm256_blendv_ps(sum, All(FloatOf(kQuietNanBits)), nan);
  }

  static U Same(uint32_t value) { return _mm256_set1_epi32(static_cast<int>(value)); }

  static void ToBf16(F value, uint8_t* out) {
    const U bits = _mm256_castps_si256(value);
    const U upper = _mm256_srli_epi32(bits, 16);
    const U even = _mm256_and_si256(upper, Same(1));
    const U sum = _mm256_add_epi32(_mm256_add_epi32(bits, Same(0x7FFF)), even);
    const U quiet = _mm256_or_si256(upper, Same(0x40));
    const U nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    const U half = _mm256_blendv_epi8(_mm256_srli_epi32(sum, 16), quiet, nan);
    const __m128i packed =
        _mm_packus_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), packed);
  }
  static F FromBf16(const uint8_t* in) {
    const U wide = _mm256_cvtepu16_epi32(Load16(in));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
  }
  static void ToFp16(F value, uint8_t* out) {
    const __m128i half = _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), half);
  }
  static F FromFp16(const uint8_t* in) { return _mm256_cvtph_ps(Load16(in)); }

  static U NoSizes() { return _mm256_setzero_si256(); }
  static U Sizes(U sizes, F value) {
    const U size = _mm256_and_si256(_mm256_castps_si256(value), Same(~kSignMask));
    return _mm256_max_epi32(sizes, size);
  }
  static uint32_t Largest(U sizes) {
    __m128i most = _mm_max_epi32(_mm256_castsi256_si128(sizes), _mm256_extracti128_si256(sizes, 1));
    most = _mm_max_epi32(most, _mm_shuffle_epi32(most, _MM_SHUFFLE(1, 0, 3, 2)));
    most = _mm_max_epi32(most, _mm_shuffle_epi32(most, _MM_SHUFFLE(2, 3, 0, 1)));
    return static_cast<uint32_t>(_mm_cvtsi128_si32(most));
  }

  static void PackInt8(const F* values, uint8_t* out) {
    _mm256_storeu_si256(reinterpret_cast<U*>(out), Narrow(values));
  }
  static void PackInt4(const F* values, uint8_t* out) {
    // Pairs of bytes to low + 16 * high, then their lower bytes together.
    const U nibbles = _mm256_and_si256(Narrow(values), _mm256_set1_epi8(15));
    const U pairs = _mm256_maddubs_epi16(nibbles, _mm256_set1_epi16(0x1001));
    const U packed = _mm256_permute4x64_epi64(_mm256_packus_epi16(pairs, pairs), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_castsi256_si128(packed));
  }
  static void UnpackInt8(const uint8_t* in, F* values) {
    Widen(Load16(in), values);
    Widen(Load16(in + 16), values + 2);
  }
  static void UnpackInt4(const uint8_t* in, F* values) {
    const __m128i mask = _mm_set1_epi8(15);
    const __m128i bytes = Load16(in);
    const __m128i low = Signed(_mm_and_si128(bytes, mask));
    const __m128i high = Signed(_mm_and_si128(_mm_srli_epi16(bytes, 4), mask));
    Widen(_mm_unpacklo_epi8(low, high), values);
    Widen(_mm_unpackhi_epi8(low, high), values + 2);
  }

 private:
  static __m128i Load16(const uint8_t* in) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(in));
  }
  // Four vectors to 32 signed bytes in order.
  static U Narrow(const F* values) {
    const U first =
        _mm256_packs_epi32(_mm256_cvtps_epi32(values[0]), _mm256_cvtps_epi32(values[1]));
    const U last = _mm256_packs_epi32(_mm256_cvtps_epi32(values[2]), _mm256_cvtps_epi32(values[3]));
    const U order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(first, last), order);
  }
  // 16 signed bytes to two vectors.
  static void Widen(__m128i bytes, F* values) {
    values[0] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
    values[1] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)));
  }
  static __m128i Signed(__m128i nibbles) {
    const __m128i eight = _mm_set1_epi8(8);
    return _mm_sub_epi8(_mm_xor_si128(nibbles, eight), eight);
  }
};

}  // namespace

constinit const Kernels kAvx2Kernels = KernelsOfVectors<Avx2>(Simd::kAvx2);

}  // namespace atl::codec
