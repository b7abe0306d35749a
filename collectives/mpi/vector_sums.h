// Loops over floats that the collectives of a host are made of. Elementwise: no bit depends on how
// a vector is cut. Thread rule: any.
#pragma once

#include <cstdint>

namespace atl {

// sum[i] = ((rows[0][i] + rows[1][i]) + rows[2][i]) + ..., and the same into `copy` unless it is
// null. `sum` and `copy` may be rows (the same pointers), no other overlap. rows >= 1.
void SumRows(const float* const* rows, int row_count, int64_t count, float* sum, float* copy);

// The most rows that SumRowsIntoAll takes.
inline constexpr int kMostRows = 16;

// The same sum into each of `sums`, all of which may be rows: not past the caches, as what has just
// been read is in them.
void SumRowsIntoAll(const float* const* rows, int row_count, int64_t count, float* const* sums,
                    int sum_count);

// As std::memcpy, but past the caches: for a destination that is read only after much else.
// Copying into memory that is not in the cache, it is up to three times as fast, because the lines
// need not be read before they are written.
void CopyPastCaches(float* to, const float* from, int64_t count);

}  // namespace atl
