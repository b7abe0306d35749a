// What an all-reduce has to give: the documented sum, and how near to the true one it must be.
//
// Each of the roundings on a number's way may add an `error` (docs/formats/codecs.md) of what it
// rounds, of the largest of its block: k of them at most (1 + error)^k - 1 of the sum of these
// over the members. A star rounds twice. On the longest way, a path of all members, own numbers are
// rounded once, sums on their way up N - 2 times, the result once: N times.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/random.h"
#include "collectives/codec/codec.h"
#include "collectives/wan/plan/tree_plan.h"

namespace atl::wan {

// Regions weigh their numbers before they give them to the engine: by tokens, which differ.
inline double Weight(int member, int members) {
  return (member + 1) / (0.5 * members * (members + 1));
}

// Of several orders of magnitude within each block.
inline std::vector<std::vector<float>> WeighedInputs(int members, size_t elements, uint64_t seed) {
  constexpr double kOrders[] = {1, 10, 100, 1000};
  std::vector<std::vector<float>> inputs(members, std::vector<float>(elements));
  for (int member = 0; member < members; ++member) {
    const double weight = Weight(member, members);
    for (size_t i = 0; i < elements; ++i) {
      const uint64_t bits = Mix64(seed * 0x9E3779B97F4A7C15ull + i * 16 + member);
      const double unit = static_cast<double>(bits >> 11) * 0x1p-52 - 1;
      inputs[member][i] = static_cast<float>(weight * unit * kOrders[bits % 4]);
    }
  }
  return inputs;
}

// Of the number, or of the largest of its block.
inline double RoundingError(Codec codec) {
  switch (codec) {
    case Codec::kFp32:
      return 0;
    case Codec::kBf16:
      return 0x1p-8;
    case Codec::kFp16:
      return 0x1p-11;
    case Codec::kInt8:
      return 1 / 253.0;
    case Codec::kInt4:
      return 1 / 13.9;
  }
  return 0;
}

inline double SmallestError(Codec codec) { return codec == Codec::kFp16 ? 0x1p-25 : 0x1p-127; }

// The first number that is beyond its bound, in words; empty: none is.
inline std::string BeyondBound(const std::vector<std::vector<float>>& inputs,
                               const std::vector<float>& result, Codec codec, int roundings) {
  const int members = static_cast<int>(inputs.size());
  const size_t block = BlockElements(codec);
  const double codec_error = std::pow(1 + RoundingError(codec), roundings);
  const double add_error = std::pow(1 + 0x1p-24, members);
  for (size_t begin = 0; begin < result.size(); begin += block) {
    const size_t end = std::min(begin + block, result.size());
    std::vector<double> sums(end - begin);
    double largest = 0;  // of every member's block, together
    for (const auto& input : inputs) {
      double of_member = 0;
      for (size_t i = begin; i < end; ++i) {
        sums[i - begin] += input[i];
        of_member = std::max(of_member, std::abs(static_cast<double>(input[i])));
      }
      largest += of_member;
    }
    const double bound =
        largest * (codec_error * add_error - 1) + SmallestError(codec) * (members + roundings);
    for (size_t i = begin; i < end; ++i) {
      if (std::abs(result[i] - sums[i - begin]) <= bound) continue;
      return absl::StrCat("element ", i, " is ", result[i], ", the sum is ", sums[i - begin],
                          ", allowed are ", bound);
    }
  }
  return "";
}

// Every member's numbers through the codec, added in member order in fp32, the sum through it too.
inline std::vector<float> Reference(const std::vector<std::vector<float>>& inputs, Codec codec) {
  std::vector<float> sum(inputs[0].size()), value(sum.size());
  std::vector<uint8_t> bytes(EncodedSize(codec, sum.size()));
  for (size_t member = 0; member < inputs.size(); ++member) {
    Encode(codec, inputs[member], bytes.data());
    Decode(codec, bytes.data(), value);
    if (member == 0) {
      sum = value;
    } else {
      Add(value, sum);
    }
  }
  Encode(codec, sum, bytes.data());
  Decode(codec, bytes.data(), sum);
  return sum;
}

inline bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

// What is wrong with a result under a plan of this kind, in words; empty: nothing.
inline std::string WrongIn(const std::vector<std::vector<float>>& inputs,
                           const std::vector<float>& result, Codec codec, ScheduleKind kind) {
  const bool order_stable = kind == ScheduleKind::kEqual || kind == ScheduleKind::kDirect;
  if (order_stable && !SameBits(result, Reference(inputs, codec))) {
    return "not the bits of the sum in member order";
  }
  return BeyondBound(inputs, result, codec, order_stable ? 2 : static_cast<int>(inputs.size()));
}

}  // namespace atl::wan
