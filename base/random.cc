#include "base/random.h"

#include <sys/random.h>

#include <cmath>
#include <cstdlib>
#include <numbers>

namespace atl {

uint64_t Mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

uint64_t DeriveSeed(uint64_t seed, absl::string_view purpose) {
  uint64_t hash = Mix64(seed ^ 0x6A09E667F3BCC909ull);
  for (unsigned char c : purpose) hash = Mix64(hash ^ c) + 0x9E3779B97F4A7C15ull;
  return Mix64(hash);
}

double CounterRandom::Normal(uint64_t index) const {
  const double u = 1.0 - Uniform(2 * index);  // (0, 1]: the logarithm stays finite
  const double v = Uniform(2 * index + 1);
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
}

void FillWithSystemRandom(void* bytes, size_t size) {
  auto* out = static_cast<unsigned char*>(bytes);
  while (size > 0) {
    const ssize_t got = getrandom(out, size, 0);
    if (got < 0) continue;  // EINTR: the only error for a valid buffer
    out += got;
    size -= static_cast<size_t>(got);
  }
}

}  // namespace atl
