// Geometry of the flat parameter vector: who owns which elements.
//
// The vector is cut into segments (whole tensors, in the order of the vector; a segment is a
// gradient bucket, and a fragment is some segments). Lane k of L owns the k-th slice of every
// segment, so that each bucket's reduce-scatter gives every worker its part as soon as the bucket
// is ready. A region of W workers gives lanes [w L / W, (w+1) L / W) to worker w: with W = L one
// each, with fewer workers several, with more some workers have none. What a worker owns is at once
// its ZeRO-1 optimizer shard and what it carries over the sea.
//
// Invariants: every boundary is a multiple of kDigestBlock; the slices of a segment are adjacent
// and ascending by lane; lane sizes differ by one block at most. A lane buffer is the concatenation
// of the lane's slices.
#pragma once

#include <vector>

#include "base/digest.h"
#include "base/range.h"

namespace atl {

class Lanes {
 public:
  // `segments`: adjacent, ascending, from 0, each a multiple of kDigestBlock long. `lanes` >= 1.
  Lanes(std::vector<Range> segments, int lanes);

  int lanes() const { return lanes_; }
  const std::vector<Range>& segments() const { return segments_; }
  int64_t size() const { return segments_.empty() ? 0 : segments_.back().end; }

  // Elements of the flat vector that `lane` owns in `segment`; may be empty.
  Range Slice(int segment, int lane) const;
  // Sum of the lane's slices: length of its lane buffer.
  int64_t LaneSize(int lane) const;

  // Lanes [begin, end) of worker `worker` of `workers`.
  Range LanesOfWorker(int worker, int workers) const;
  int WorkerOfLane(int lane, int workers) const;
  // The worker's elements in `segment`: its lanes' slices, which are adjacent.
  Range WorkerSlice(int segment, int worker, int workers) const;
  // WorkerSlice of every worker, as ReduceScatter and AllGather take it.
  std::vector<Range> WorkerSlices(int segment, int workers) const;

 private:
  // Where `lane`'s slice begins; lane == lanes() gives the segment's end.
  int64_t Boundary(int segment, int lane) const;

  std::vector<Range> segments_;
  std::vector<int64_t> first_extra_;  // by segment: the lane that gets its first left-over block
  int lanes_;
};

}  // namespace atl
