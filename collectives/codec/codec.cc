#include "collectives/codec/codec.h"

#include <atomic>
#include <bit>
#include <cstdlib>

#include "collectives/codec/kernels.h"
#include "collectives/codec/scalar.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace atl {
namespace {

static_assert(std::endian::native == std::endian::little,
              "wire bytes are little-endian and copied as they are");

#if defined(__x86_64__)
// Every processor with AVX2 has F16C; compilers differ in whether they can be asked.
bool HasF16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

// Null if this program or this processor lacks the level.
const codec::Kernels* KernelsOf(Simd level) {
  switch (level) {
    case Simd::kPlain:
      return &codec::kPlainKernels;
#if defined(__x86_64__)
    case Simd::kAvx2:
      return __builtin_cpu_supports("avx2") && HasF16c() ? &codec::kAvx2Kernels : nullptr;
    case Simd::kAvx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
                 ? &codec::kAvx512Kernels
                 : nullptr;
#endif
#if defined(__aarch64__)
    case Simd::kNeon:
      return &codec::kNeonKernels;
#endif
    default:
      return nullptr;
  }
}

const codec::Kernels* Widest() {
  for (const Simd level : {Simd::kAvx512, Simd::kAvx2, Simd::kNeon}) {
    if (const codec::Kernels* kernels = KernelsOf(level)) return kernels;
  }
  return &codec::kPlainKernels;
}

std::atomic<const codec::Kernels*>& ActiveKernels() {
  static std::atomic<const codec::Kernels*> kernels = Widest();
  return kernels;
}

const codec::Kernels& Active() { return *ActiveKernels().load(std::memory_order_relaxed); }

size_t BlockedSize(size_t count, size_t block, size_t bits) {
  const auto bytes = [bits](size_t elements) {
    return codec::kScaleBytes + (elements * bits + 7) / 8;
  };
  const size_t rest = count % block;
  return count / block * bytes(block) + (rest == 0 ? 0 : bytes(rest));
}

}  // namespace

bool IsKnownCodec(uint8_t value) {
  return value >= static_cast<uint8_t>(Codec::kFp32) && value <= static_cast<uint8_t>(Codec::kInt4);
}

const char* CodecName(Codec codec) {
  switch (codec) {
    case Codec::kFp32:
      return "fp32";
    case Codec::kBf16:
      return "bf16";
    case Codec::kFp16:
      return "fp16";
    case Codec::kInt8:
      return "int8";
    case Codec::kInt4:
      return "int4";
  }
  return "unknown";
}

std::optional<Codec> CodecNamed(std::string_view name) {
  for (const Codec codec : kAllCodecs) {
    if (name == CodecName(codec)) return codec;
  }
  return std::nullopt;
}

size_t BlockElements(Codec codec) {
  if (codec == Codec::kInt8) return codec::kInt8Block;
  return codec == Codec::kInt4 ? codec::kInt4Block : 1;
}

size_t EncodedSize(Codec codec, size_t count) {
  switch (codec) {
    case Codec::kFp32:
      return 4 * count;
    case Codec::kBf16:
    case Codec::kFp16:
      return 2 * count;
    case Codec::kInt8:
      return BlockedSize(count, codec::kInt8Block, 8);
    case Codec::kInt4:
      return BlockedSize(count, codec::kInt4Block, 4);
  }
  std::abort();  // a number that IsKnownCodec() refuses
}

// All of them: why, for the block codecs, is told in scalar.h at ScaleOf.
bool IsIdempotent(Codec codec) { return IsKnownCodec(static_cast<uint8_t>(codec)); }

void Encode(Codec codec, std::span<const float> in, uint8_t* out) {
  CoderOf(Active(), codec).encode(in.data(), in.size(), out);
}

void Decode(Codec codec, const uint8_t* in, std::span<float> out) {
  CoderOf(Active(), codec).decode(in, out.size(), out.data());
}

void DecodeAdd(Codec codec, const uint8_t* in, std::span<float> out) {
  CoderOf(Active(), codec).decode_add(in, out.size(), out.data());
}

void Add(std::span<const float> in, std::span<float> out) {
  if (in.size() != out.size()) std::abort();  // this library stands on nothing, not even CHECK
  Active().add(reinterpret_cast<const uint8_t*>(in.data()), out.size(), out.data());
}

const char* SimdName(Simd level) {
  switch (level) {
    case Simd::kPlain:
      return "plain";
    case Simd::kAvx2:
      return "avx2";
    case Simd::kAvx512:
      return "avx512";
    case Simd::kNeon:
      return "neon";
  }
  return "unknown";
}

bool SimdUsable(Simd level) { return KernelsOf(level) != nullptr; }

Simd ActiveSimd() { return Active().level; }

bool ForceSimd(Simd level) {
  const codec::Kernels* kernels = KernelsOf(level);
  if (kernels == nullptr) return false;
  ActiveKernels().store(kernels, std::memory_order_relaxed);
  return true;
}

}  // namespace atl
