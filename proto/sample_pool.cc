#include "proto/sample_pool.h"

#include <algorithm>

#include "base/log.h"

namespace atl {

SamplePool::SamplePool(const std::vector<Range>& returned, int64_t next) : next_(next) {
  for (const Range& range : returned) Return(range);
}

int64_t SamplePool::returned_size() const { return SizeOf(returned_); }

std::vector<Range> SamplePool::Take(int64_t count) {
  CHECK_GE(count, 0);
  std::vector<Range> taken;
  size_t used = 0;
  while (count > 0 && used < returned_.size()) {
    Range& front = returned_[used];
    const int64_t size = std::min(count, front.size());
    taken.push_back({front.begin, front.begin + size});
    front.begin += size;
    count -= size;
    if (front.empty()) ++used;
  }
  returned_.erase(returned_.begin(), returned_.begin() + static_cast<int64_t>(used));
  if (count > 0) {
    taken.push_back({next_, next_ + count});
    next_ += count;
  }
  return taken;
}

void SamplePool::Return(const Range& samples) {
  if (samples.empty()) return;
  CHECK(samples.begin >= 0 && samples.end <= next_) << "samples that were never taken";
  auto at =
      std::upper_bound(returned_.begin(), returned_.end(), samples,
                       [](const Range& one, const Range& two) { return one.begin < two.begin; });
  CHECK(at == returned_.end() || samples.end <= at->begin) << "samples returned twice";
  CHECK(at == returned_.begin() || (at - 1)->end <= samples.begin) << "samples returned twice";
  at = returned_.insert(at, samples);
  if (at + 1 != returned_.end() && at->end == (at + 1)->begin) {
    at->end = (at + 1)->end;
    returned_.erase(at + 1);
  }
  if (at != returned_.begin() && (at - 1)->end == at->begin) {
    (at - 1)->end = at->end;
    at = returned_.erase(at) - 1;
  }
  if (at->end == next_) {
    next_ = at->begin;
    returned_.erase(at);
  }
}

void SamplePool::Remove(const Range& samples) {
  if (samples.empty()) return;
  if (samples.begin >= next_) {
    if (samples.begin > next_) returned_.push_back({next_, samples.begin});
    next_ = samples.end;
    return;
  }
  for (auto at = returned_.begin(); at != returned_.end(); ++at) {
    if (samples.begin < at->begin || samples.end > at->end) continue;
    const Range after{samples.end, at->end};
    at->end = samples.begin;
    if (!after.empty()) at = returned_.insert(at + 1, after) - 1;
    if (at->empty()) returned_.erase(at);
    return;
  }
  LOG(FATAL) << "samples " << samples.begin << " to " << samples.end << " are not in the pool";
}

int64_t SizeOf(const std::vector<Range>& ranges) {
  int64_t size = 0;
  for (const Range& range : ranges) size += range.size();
  return size;
}

std::vector<Range> Prefix(const std::vector<Range>& ranges, int64_t count) {
  std::vector<Range> prefix;
  for (const Range& range : ranges) {
    if (count <= 0) break;
    const int64_t size = std::min(count, range.size());
    prefix.push_back({range.begin, range.begin + size});
    count -= size;
  }
  return prefix;
}

std::vector<Range> Suffix(const std::vector<Range>& ranges, int64_t count) {
  std::vector<Range> suffix;
  for (const Range& range : ranges) {
    const int64_t size = std::clamp<int64_t>(count, 0, range.size());
    if (size < range.size()) suffix.push_back({range.begin + size, range.end});
    count -= size;
  }
  return suffix;
}

std::vector<Range> FromProto(const SampleRanges& ranges) {
  std::vector<Range> result;
  for (const pb::SampleRange& range : ranges) result.push_back({range.begin(), range.end()});
  return result;
}

void ToProto(const std::vector<Range>& ranges, SampleRanges* out) {
  out->Clear();
  for (const Range& range : ranges) {
    pb::SampleRange* one = out->Add();
    one->set_begin(range.begin);
    one->set_end(range.end);
  }
}

}  // namespace atl
