// Counter-based random numbers: the i-th number of a stream is a pure function of (seed, stream,
// i), so that any worker can make any part of a random tensor, in any order, and get the same bits.
// Source: SplitMix64 finalizer over a Weyl sequence (Steele, Lea, Flood: "Fast splittable
// pseudorandom number generators", 2014).
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace atl {

// Mixes 64 bits so that every input bit changes about half of the output bits.
uint64_t Mix64(uint64_t x);

// A seed for a named purpose ("init:model.norm.weight", "data:epoch:3") from a job's seed.
uint64_t DeriveSeed(uint64_t seed, absl::string_view purpose);

class CounterRandom {
 public:
  explicit CounterRandom(uint64_t seed) : seed_(seed) {}
  uint64_t Bits(uint64_t index) const { return Mix64(seed_ + (index + 1) * 0x9E3779B97F4A7C15ull); }
  // In [0, 1), 53 random bits.
  double Uniform(uint64_t index) const {
    return static_cast<double>(Bits(index) >> 11) * 0x1.0p-53;
  }
  // Standard normal (Box-Muller over Uniform(2i) and Uniform(2i+1)).
  double Normal(uint64_t index) const;

 private:
  uint64_t seed_;
};

// 32 bytes from the operating system, for keys and nonces. Never for anything that must repeat.
void FillWithSystemRandom(void* bytes, size_t size);

}  // namespace atl
