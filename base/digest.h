// Digest of a flat fp32 vector, equal for equal contents however the vector is cut among workers
// and lanes.
//
// The vector is cut into blocks of kDigestBlock elements at fixed places. Each block is hashed
// (XXH3, 128 bits), the hash is mixed with (domain, block number), and the mixed hashes are added
// modulo 2^64 in each half. Addition commutes, so each owner of some blocks adds its own and the
// sums are added in any order. Detects corruption and divergence; it is no defence against a
// forger.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"

namespace atl {

inline constexpr int64_t kDigestBlock =
    256;  // elements; every slice of a flat vector begins and ends on this grid

struct Digest {
  uint64_t low = 0;
  uint64_t high = 0;
  void Add(const Digest& other) { low += other.low, high += other.high; }
  std::string Hex() const;  // 32 characters
  static StatusOr<Digest> FromHex(const std::string& hex);
  friend bool operator==(const Digest&, const Digest&) = default;
};

// Digest of elements [offset, offset + count) of vector number `domain` (parameters 0, momentum 1,
// ...). `offset` and `count` are multiples of kDigestBlock; `data` points at element `offset`.
Digest DigestOfSlice(const float* data, int64_t offset, int64_t count, uint64_t domain);

}  // namespace atl
