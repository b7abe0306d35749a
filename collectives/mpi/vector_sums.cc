#include "collectives/mpi/vector_sums.h"

#include <algorithm>
#include <cstring>

#include "base/log.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace atl {
namespace {

// Stays in the first-level cache beside a row's block.
constexpr int64_t kBlock = 1024;

// sum and copy may be a and b: each element is read before it is written, hence ivdep.
[[gnu::always_inline]] inline void Add(const float* a, const float* b, int64_t count, float* sum) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) sum[i] = a[i] + b[i];
}

[[gnu::always_inline]] inline void AddIntoTwo(const float* a, const float* b, int64_t count,
                                              float* sum, float* copy) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const float value = a[i] + b[i];
    sum[i] = value;
    copy[i] = value;
  }
}

[[gnu::always_inline]] inline void SumBlocks(const float* const* rows, int row_count, int64_t count,
                                             float* sum, float* copy) {
  float block[kBlock];
  for (int64_t done = 0; done < count; done += kBlock) {
    const int64_t size = std::min(kBlock, count - done);
    const float* so_far = rows[0] + done;
    for (int row = 1; row + 1 < row_count; ++row) {
      Add(so_far, rows[row] + done, size, block);
      so_far = block;
    }
    const float* last = rows[row_count - 1] + done;
    if (copy == nullptr) {
      Add(so_far, last, size, sum + done);
    } else {
      AddIntoTwo(so_far, last, size, sum + done, copy + done);
    }
  }
}

// The same loops for processors with longer vectors: elementwise, so the bits are the same.
#if defined(__x86_64__)
[[gnu::target("avx2")]] void SumBlocksAvx2(const float* const* rows, int row_count, int64_t count,
                                           float* sum, float* copy) {
  SumBlocks(rows, row_count, count, sum, copy);
}
const bool has_avx2 = __builtin_cpu_supports("avx2");
#endif

}  // namespace

void SumRows(const float* const* rows, int row_count, int64_t count, float* sum, float* copy) {
  if (row_count == 1) {
    if (sum != rows[0]) std::memcpy(sum, rows[0], count * sizeof(float));
    if (copy != nullptr) std::memcpy(copy, rows[0], count * sizeof(float));
    return;
  }
#if defined(__x86_64__)
  if (has_avx2) return SumBlocksAvx2(rows, row_count, count, sum, copy);
#endif
  SumBlocks(rows, row_count, count, sum, copy);
}

void SumRowsIntoAll(const float* const* rows, int row_count, int64_t count, float* const* sums,
                    int sum_count) {
  if (sum_count <= 2) {
    return SumRows(rows, row_count, count, sums[0], sum_count == 2 ? sums[1] : nullptr);
  }
  CHECK_LE(row_count, kMostRows);
  float block[kBlock];
  const float* parts[kMostRows];
  for (int64_t done = 0; done < count; done += kBlock) {
    const int64_t size = std::min(kBlock, count - done);
    for (int row = 0; row < row_count; ++row) parts[row] = rows[row] + done;
    SumRows(parts, row_count, size, block, nullptr);
    for (int i = 0; i < sum_count; ++i) {
      std::memcpy(sums[i] + done, block, size * sizeof(float));
    }
  }
}

void CopyPastCaches(float* to, const float* from, int64_t count) {
#if defined(__SSE2__)
  constexpr int64_t kLine = 16;  // floats in a cache line
  const int64_t into_line = static_cast<int64_t>(reinterpret_cast<uintptr_t>(to) / 4 % kLine);
  const int64_t before = std::min(count, (kLine - into_line) % kLine);
  std::memcpy(to, from, before * sizeof(float));
  int64_t i = before;
  for (; i + kLine <= count; i += kLine) {
    // What comes 2 KiB later may be on its way from another core's cache.
    _mm_prefetch(reinterpret_cast<const char*>(from + i) + 2048, _MM_HINT_T1);
    const __m128 a = _mm_loadu_ps(from + i), b = _mm_loadu_ps(from + i + 4);
    const __m128 c = _mm_loadu_ps(from + i + 8), d = _mm_loadu_ps(from + i + 12);
    _mm_stream_ps(to + i, a);
    _mm_stream_ps(to + i + 4, b);
    _mm_stream_ps(to + i + 8, c);
    _mm_stream_ps(to + i + 12, d);
  }
  std::memcpy(to + i, from + i, (count - i) * sizeof(float));
  _mm_sfence();
#else
  std::memcpy(to, from, count * sizeof(float));
#endif
}

}  // namespace atl
