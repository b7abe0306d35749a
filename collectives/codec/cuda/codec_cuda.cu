// The codecs as CUDA kernels, made of the same scalar.h as the processors' levels.
//
// 1. fp32 is a copy. bf16 and fp16: a thread an element.
// 2. Encoding a block of an integer codec: a warp. Its lanes take the largest absolute value among
//    them by shuffles, each computes the scale, lane 0 writes it, all write their multiples.
// 3. Decoding a block: a thread an element; the scale comes from the cache.
//
// Invariant: compiled without contraction, with correctly rounded division and with denormals
// (CMakeLists.txt), so the bytes are those of plain.cc. The CUDA compiler includes its runtime's
// header by itself.
#include "collectives/codec/cuda/device_module.h"
#include "collectives/codec/scalar.h"

namespace atl::codec {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kLanes = 32;

__host__ __device__ size_t Least(size_t a, size_t b) { return a < b ? a : b; }
__device__ size_t Index() { return blockIdx.x * static_cast<size_t>(kThreads) + threadIdx.x; }

// Byte by byte: a scale of a block may lie at any even address, a short one's end at any.
__device__ void StoreScale(uint16_t scale, uint8_t* out) {
  out[0] = static_cast<uint8_t>(scale);
  out[1] = static_cast<uint8_t>(scale >> 8);
}
__device__ uint16_t LoadScale(const uint8_t* in) {
  return static_cast<uint16_t>(in[0] | in[1] << 8);
}

struct Bf16 {
  static __device__ uint16_t To(float value) { return ToBf16(value); }
  static __device__ float From(uint16_t bits) { return FromBf16(bits); }
};

struct Fp16 {
  static __device__ uint16_t To(float value) { return ToFp16(value); }
  static __device__ float From(uint16_t bits) { return FromFp16(bits); }
};

struct Int8 {
  static constexpr size_t kBlock = kInt8Block;
  static constexpr size_t kBytes = kInt8Block;
  static constexpr float kLargest = kInt8Largest;
  // The lane's elements, in steps that make neighbours of neighbouring lanes.
  static __device__ void Pack(const float* in, float inverse, size_t count, uint8_t* out,
                              unsigned lane) {
    for (size_t i = lane; i < count; i += kLanes) {
      out[i] = static_cast<uint8_t>(inverse == 0 ? 0 : Multiple(in[i], inverse));
    }
  }
  static __device__ int32_t At(const uint8_t* in, size_t i) { return static_cast<int8_t>(in[i]); }
};

struct Int4 {
  static constexpr size_t kBlock = kInt4Block;
  static constexpr size_t kBytes = kInt4Block / 2;
  static constexpr float kLargest = kInt4Largest;
  static __device__ void Pack(const float* in, float inverse, size_t count, uint8_t* out,
                              unsigned lane) {
    for (size_t i = 2 * lane; i < count; i += 2 * kLanes) {
      const bool pair = i + 1 < count;
      const int32_t low = inverse == 0 ? 0 : Multiple(in[i], inverse) & 15;
      const int32_t high = inverse == 0 || !pair ? 0 : Multiple(in[i + 1], inverse) & 15;
      out[i / 2] = static_cast<uint8_t>(low | high << 4);
    }
  }
  static __device__ int32_t At(const uint8_t* in, size_t i) {
    const int32_t nibble = in[i / 2] >> (i % 2 * 4) & 15;
    return (nibble ^ 8) - 8;
  }
};

__global__ void AddKernel(const float* in, size_t count, float* out) {
  const size_t i = Index();
  if (i < count) out[i] = Sum(out[i], in[i]);
}

template <class Half>
__global__ void EncodeHalves(const float* in, size_t count, uint16_t* out) {
  const size_t i = Index();
  if (i < count) out[i] = Half::To(in[i]);
}

template <class Half, bool kAdd>
__global__ void DecodeHalves(const uint16_t* in, size_t count, float* out) {
  const size_t i = Index();
  if (i >= count) return;
  const float value = Half::From(in[i]);
  out[i] = kAdd ? Sum(out[i], value) : value;
}

template <class Ints>
__global__ void EncodeBlocks(const float* in, size_t count, uint8_t* out) {
  const size_t block = Index() / kLanes;
  const unsigned lane = threadIdx.x % kLanes;
  const size_t begin = block * Ints::kBlock;
  if (begin >= count) return;  // the whole warp
  const size_t elements = Least(Ints::kBlock, count - begin);
  in += begin;
  out += block * (kScaleBytes + Ints::kBytes);
  uint32_t size = 0;
  for (size_t i = lane; i < elements; i += kLanes) {
    const uint32_t bits = BitsOf(in[i]) & ~kSignMask;
    size = bits > size ? bits : size;
  }
  for (unsigned step = kLanes / 2; step > 0; step /= 2) {
    const uint32_t other = __shfl_xor_sync(0xFFFFFFFFu, size, step);
    size = other > size ? other : size;
  }
  const uint16_t scale = ScaleOf(size, Ints::kLargest);
  if (lane == 0) StoreScale(scale, out);
  // No inverse is 0: it stands for a block that is no number.
  const float inverse = IsFiniteScale(scale) ? 1.0f / FromBf16(scale) : 0.0f;
  Ints::Pack(in, inverse, elements, out + kScaleBytes, lane);
}

template <class Ints, bool kAdd>
__global__ void DecodeBlocks(const uint8_t* in, size_t count, float* out) {
  const size_t i = Index();
  if (i >= count) return;
  const uint8_t* const block = in + i / Ints::kBlock * (kScaleBytes + Ints::kBytes);
  const uint16_t scale = LoadScale(block);
  if (!IsFiniteScale(scale)) {
    out[i] = FloatOf(kQuietNanBits);
    return;
  }
  const int32_t multiple = Ints::At(block + kScaleBytes, i % Ints::kBlock);
  const float value = static_cast<float>(multiple) * FromBf16(scale);
  out[i] = kAdd ? Sum(out[i], value) : value;
}

// As in codec.h's Codec.
enum : uint8_t { kFp32 = 1, kBf16 = 2, kFp16 = 3, kInt8 = 4, kInt4 = 5 };

const char* Words(cudaError_t error) {
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

// Of `threads` threads; the grid is limited to 2^31 - 1 times kThreads of them.
unsigned Grid(size_t threads) { return static_cast<unsigned>((threads + kThreads - 1) / kThreads); }

template <class Ints>
unsigned BlockGrid(size_t count) {
  return Grid((count + Ints::kBlock - 1) / Ints::kBlock * kLanes);
}

const char* EncodeOn(uint8_t codec, const float* in, size_t count, uint8_t* out, void* stream) {
  if (count == 0) return nullptr;
  const auto queue = static_cast<cudaStream_t>(stream);
  uint16_t* const halves = reinterpret_cast<uint16_t*>(out);
  switch (codec) {
    case kFp32:
      return Words(cudaMemcpyAsync(out, in, 4 * count, cudaMemcpyDefault, queue));
    case kBf16:
      EncodeHalves<Bf16><<<Grid(count), kThreads, 0, queue>>>(in, count, halves);
      break;
    case kFp16:
      EncodeHalves<Fp16><<<Grid(count), kThreads, 0, queue>>>(in, count, halves);
      break;
    case kInt8:
      EncodeBlocks<Int8><<<BlockGrid<Int8>(count), kThreads, 0, queue>>>(in, count, out);
      break;
    case kInt4:
      EncodeBlocks<Int4><<<BlockGrid<Int4>(count), kThreads, 0, queue>>>(in, count, out);
      break;
    default:
      return "a codec that the module does not know";
  }
  return Words(cudaGetLastError());
}

template <bool kAdd>
const char* DecodeOn(uint8_t codec, const uint8_t* in, size_t count, float* out, void* stream) {
  if (count == 0) return nullptr;
  const auto queue = static_cast<cudaStream_t>(stream);
  const unsigned grid = Grid(count);
  const uint16_t* const halves = reinterpret_cast<const uint16_t*>(in);
  switch (codec) {
    case kFp32:
      if (!kAdd) return Words(cudaMemcpyAsync(out, in, 4 * count, cudaMemcpyDefault, queue));
      AddKernel<<<grid, kThreads, 0, queue>>>(reinterpret_cast<const float*>(in), count, out);
      break;
    case kBf16:
      DecodeHalves<Bf16, kAdd><<<grid, kThreads, 0, queue>>>(halves, count, out);
      break;
    case kFp16:
      DecodeHalves<Fp16, kAdd><<<grid, kThreads, 0, queue>>>(halves, count, out);
      break;
    case kInt8:
      DecodeBlocks<Int8, kAdd><<<grid, kThreads, 0, queue>>>(in, count, out);
      break;
    case kInt4:
      DecodeBlocks<Int4, kAdd><<<grid, kThreads, 0, queue>>>(in, count, out);
      break;
    default:
      return "a codec that the module does not know";
  }
  return Words(cudaGetLastError());
}

const char* AddOn(const float* in, size_t count, float* out, void* stream) {
  return DecodeOn<true>(kFp32, reinterpret_cast<const uint8_t*>(in), count, out, stream);
}

const char* Usable() {
  int version = 0;
  if (cudaDriverGetVersion(&version) != cudaSuccess || version == 0) {
    return "there is no NVIDIA driver on this machine";
  }
  int devices = 0;
  if (const char* error = Words(cudaGetDeviceCount(&devices))) return error;
  return devices > 0 ? nullptr : "there is no CUDA device";
}

const char* Allocate(size_t bytes, void** memory) { return Words(cudaMalloc(memory, bytes)); }
void Release(void* memory) { cudaFree(memory); }
const char* Copy(void* to, const void* from, size_t bytes, void* stream) {
  return Words(
      cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, static_cast<cudaStream_t>(stream)));
}
const char* Wait(void* stream) {
  return Words(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)));
}

}  // namespace
}  // namespace atl::codec

extern "C" __attribute__((visibility("default"))) const atl::DeviceCodecModule*
atoll_codec_cuda_entry() {
  namespace codec = atl::codec;
  static constexpr atl::DeviceCodecModule kModule = {atl::kDeviceCodecModuleVersion,
                                                     codec::Usable,
                                                     codec::EncodeOn,
                                                     codec::DecodeOn<false>,
                                                     codec::DecodeOn<true>,
                                                     codec::AddOn,
                                                     codec::Allocate,
                                                     codec::Release,
                                                     codec::Copy,
                                                     codec::Wait};
  return &kModule;
}
