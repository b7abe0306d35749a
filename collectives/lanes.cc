// Slices of a segment of B blocks (a block is kDigestBlock elements) over L lanes:
// 1. Every lane gets B / L blocks; B mod L blocks are left over.
// 2. The left-over blocks go one each to the lanes from `first_extra_[segment]` on, cyclically.
// 3. The next segment's left-over blocks begin at the lane after the last that got one.
// So the blocks of all segments are dealt like cards: lane sizes differ by one block at most,
// however many small segments there are.
#include "collectives/lanes.h"

#include <algorithm>
#include <utility>

#include "base/log.h"

namespace atl {

Lanes::Lanes(std::vector<Range> segments, int lanes)
    : segments_(std::move(segments)), lanes_(lanes) {
  CHECK_GE(lanes_, 1);
  first_extra_.reserve(segments_.size());
  int64_t end = 0;
  int64_t next_extra = 0;
  for (const Range& segment : segments_) {
    CHECK_EQ(segment.begin, end) << "segments are adjacent, ascending, from 0";
    CHECK_GE(segment.end, segment.begin);
    CHECK_EQ(segment.size() % kDigestBlock, 0) << "segments lie on the digest grid";
    end = segment.end;
    first_extra_.push_back(next_extra);
    next_extra = (next_extra + segment.size() / kDigestBlock) % lanes_;
  }
}

int64_t Lanes::Boundary(int segment, int lane) const {
  const Range& whole = segments_[segment];
  const int64_t blocks = whole.size() / kDigestBlock;
  const int64_t extras = blocks % lanes_;
  // Extras lie on lanes [first, first + extras), of which those past the last lane wrap to lane 0.
  const int64_t first = first_extra_[segment];
  const int64_t wrapped = std::max<int64_t>(0, first + extras - lanes_);
  const int64_t before =
      std::clamp<int64_t>(lane - first, 0, extras - wrapped) + std::min<int64_t>(lane, wrapped);
  return whole.begin + (lane * (blocks / lanes_) + before) * kDigestBlock;
}

Range Lanes::Slice(int segment, int lane) const {
  CHECK_GE(segment, 0);
  CHECK_LT(segment, static_cast<int>(segments_.size()));
  CHECK_GE(lane, 0);
  CHECK_LT(lane, lanes_);
  return {Boundary(segment, lane), Boundary(segment, lane + 1)};
}

int64_t Lanes::LaneSize(int lane) const {
  int64_t size = 0;
  for (int segment = 0; segment < static_cast<int>(segments_.size()); ++segment) {
    size += Slice(segment, lane).size();
  }
  return size;
}

Range Lanes::LanesOfWorker(int worker, int workers) const {
  CHECK_GE(worker, 0);
  CHECK_LT(worker, workers);
  const int64_t lanes = lanes_;
  return {worker * lanes / workers, (worker + 1) * lanes / workers};
}

int Lanes::WorkerOfLane(int lane, int workers) const {
  CHECK_GE(lane, 0);
  CHECK_LT(lane, lanes_);
  CHECK_GE(workers, 1);
  // The last worker w with floor(w L / W) <= lane, which is w L / W < lane + 1.
  return static_cast<int>(((lane + 1) * static_cast<int64_t>(workers) - 1) / lanes_);
}

Range Lanes::WorkerSlice(int segment, int worker, int workers) const {
  CHECK_GE(segment, 0);
  CHECK_LT(segment, static_cast<int>(segments_.size()));
  const Range owned = LanesOfWorker(worker, workers);
  return {Boundary(segment, static_cast<int>(owned.begin)),
          Boundary(segment, static_cast<int>(owned.end))};
}

std::vector<Range> Lanes::WorkerSlices(int segment, int workers) const {
  std::vector<Range> slices;
  slices.reserve(workers);
  for (int worker = 0; worker < workers; ++worker) {
    slices.push_back(WorkerSlice(segment, worker, workers));
  }
  return slices;
}

}  // namespace atl
