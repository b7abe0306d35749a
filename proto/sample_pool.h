// Samples that nobody has: what was returned (ranges, in order) and everything from `next` on.
//
// A round takes from the front: returned samples first, then from `next`. Invariant: `returned` is
// sorted, its ranges are not empty, touch neither one another nor `next`, and lie before it. Pure
// value.
#pragma once

#include <cstdint>
#include <vector>

#include "base/range.h"
#include "google/protobuf/repeated_ptr_field.h"
#include "proto/control.pb.h"

namespace atl {

class SamplePool {
 public:
  SamplePool() = default;
  // Ranges in any order; overlaps are a programmer error (CHECK).
  SamplePool(const std::vector<Range>& returned, int64_t next);

  const std::vector<Range>& returned() const { return returned_; }
  int64_t next() const { return next_; }
  int64_t returned_size() const;

  // The first `count` samples, in order; they leave the pool.
  std::vector<Range> Take(int64_t count);
  // Samples before next() that are not in the pool (CHECK).
  void Return(const Range& samples);
  // Samples that are all in the pool (CHECK).
  void Remove(const Range& samples);

  friend bool operator==(const SamplePool&, const SamplePool&) = default;

 private:
  std::vector<Range> returned_;
  int64_t next_ = 0;
};

int64_t SizeOf(const std::vector<Range>& ranges);
// The first `count` samples of the ranges, and the rest.
std::vector<Range> Prefix(const std::vector<Range>& ranges, int64_t count);
std::vector<Range> Suffix(const std::vector<Range>& ranges, int64_t count);

using SampleRanges = google::protobuf::RepeatedPtrField<pb::SampleRange>;
std::vector<Range> FromProto(const SampleRanges& ranges);
void ToProto(const std::vector<Range>& ranges, SampleRanges* out);

}  // namespace atl
