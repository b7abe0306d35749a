// How numbers travel over the sea. Each codec turns `count` floats into EncodedSize(count) bytes
// and back. Encoding rounds to nearest even; NaN and infinity survive. Stateless: any element range
// may be encoded on its own (block codecs: whole blocks). Wire bytes are little-endian;
// docs/protocols/wan.md has golden bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace atl {

enum class Codec : uint8_t { kFp32 = 1, kBf16 = 2 };

bool IsKnownCodec(uint8_t value);
const char* CodecName(Codec codec);
size_t EncodedSize(Codec codec, size_t count);
// `out` has EncodedSize(in.size()) bytes.
void Encode(Codec codec, std::span<const float> in, uint8_t* out);
// `in` has EncodedSize(out.size()) bytes, any alignment.
void Decode(Codec codec, const uint8_t* in, std::span<float> out);
// out[i] += decoded in[i]
void DecodeAdd(Codec codec, const uint8_t* in, std::span<float> out);

}  // namespace atl
