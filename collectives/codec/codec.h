// How numbers travel over the sea. Each codec turns `count` floats into EncodedSize(count) bytes
// and back; docs/formats/codecs.md has the formats, their error bounds and golden bytes.
//
// 1. fp32 copies. bf16 and fp16 round to nearest even; NaN and infinity survive.
// 2. int8 and int4 cut the range into blocks of BlockElements(); a block is a scale and small whole
//    multiples of it. A block that holds a NaN or an infinity decodes to NaN as a whole.
//
// Stateless: any range that starts on a multiple of BlockElements() from the start of the vector
// may be encoded on its own; the last block may be short. Invariants: every processor and every
// Simd level writes the same bytes and decodes to the same bits (the floating-point environment is
// the default one: round to nearest even, denormals kept); Encode(Decode(bytes)) gives the same
// bytes where IsIdempotent() says so. Thread rule: any thread; ForceSimd is for tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace atl {

enum class Codec : uint8_t { kFp32 = 1, kBf16 = 2, kFp16 = 3, kInt8 = 4, kInt4 = 5 };

inline constexpr Codec kAllCodecs[] = {Codec::kFp32, Codec::kBf16, Codec::kFp16, Codec::kInt8,
                                       Codec::kInt4};

bool IsKnownCodec(uint8_t value);
const char* CodecName(Codec codec);
// The codec of that name, if there is one.
std::optional<Codec> CodecNamed(std::string_view name);
// Elements that are encoded together: 1, or the block of an integer codec. Divides 256.
size_t BlockElements(Codec codec);
size_t EncodedSize(Codec codec, size_t count);
// Whether bytes that Encode() has written come out again when what they decode to is encoded. So a
// result that was rounded once may be encoded afresh for each receiver.
bool IsIdempotent(Codec codec);

// `out` has EncodedSize(in.size()) bytes, any alignment; it does not overlap `in`.
void Encode(Codec codec, std::span<const float> in, uint8_t* out);
// `in` has EncodedSize(out.size()) bytes, any alignment, any content; it does not overlap `out`.
void Decode(Codec codec, const uint8_t* in, std::span<float> out);
// out[i] += decoded in[i]. A sum that is no number is the quiet NaN 0x7fc00000 on every processor.
void DecodeAdd(Codec codec, const uint8_t* in, std::span<float> out);
// out[i] += in[i], with the same rule for NaN. Sizes are equal.
void Add(std::span<const float> in, std::span<float> out);

// The instructions that do the work: the widest that this processor has, chosen at first use.
enum class Simd : uint8_t { kPlain, kAvx2, kAvx512, kNeon };

inline constexpr Simd kAllSimd[] = {Simd::kPlain, Simd::kAvx2, Simd::kAvx512, Simd::kNeon};

const char* SimdName(Simd level);
// Whether this program was built with the level and this processor has it.
bool SimdUsable(Simd level);
Simd ActiveSimd();
// From now on this level does the work, in all threads; false, and nothing changes, if it is not
// usable. For tests and benchmarks: results never depend on the level.
bool ForceSimd(Simd level);

}  // namespace atl
