#include "worker/sync/lane_buffer.h"

namespace atl {
namespace {

// Calls visit(slice, offset in the lane buffer) for each slice of the lane.
template <typename Visit>
Status ForEachSlice(const Lanes& lanes, int lane, Visit visit) {
  int64_t offset = 0;
  for (size_t segment = 0; segment < lanes.segments().size(); ++segment) {
    const Range slice = lanes.Slice(static_cast<int>(segment), lane);
    if (slice.empty()) continue;
    RETURN_IF_ERROR(visit(slice, offset));
    offset += slice.size();
  }
  return OkStatus();
}

}  // namespace

Status ReadLane(Trainer& trainer, Vector vector, const Lanes& lanes, int lane,
                std::vector<float>* buffer) {
  buffer->resize(lanes.LaneSize(lane));
  return ForEachSlice(lanes, lane, [&](Range slice, int64_t offset) {
    return trainer.Read(vector, slice.begin, std::span(*buffer).subspan(offset, slice.size()));
  });
}

Status WriteLane(Trainer& trainer, Vector vector, const Lanes& lanes, int lane,
                 const std::vector<float>& buffer) {
  return ForEachSlice(lanes, lane, [&](Range slice, int64_t offset) {
    return trainer.Write(vector, slice.begin, std::span(buffer).subspan(offset, slice.size()));
  });
}

Digest DigestOfLane(const Lanes& lanes, int lane, const std::vector<float>& buffer,
                    uint64_t domain) {
  Digest digest;
  ForEachSlice(lanes, lane, [&](Range slice, int64_t offset) {
    digest.Add(DigestOfSlice(buffer.data() + offset, slice.begin, slice.size(), domain));
    return OkStatus();
  }).IgnoreError();
  return digest;
}

}  // namespace atl
