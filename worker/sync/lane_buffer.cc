#include "worker/sync/lane_buffer.h"

#include "base/log.h"

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

// The optimizer's vectors are the owned ranges, ascending, one after the other.
int64_t PlaceOf(const std::vector<Range>& owned, Range slice) {
  int64_t place = 0;
  for (const Range& range : owned) {
    if (range.begin <= slice.begin && slice.end <= range.end) {
      return place + slice.begin - range.begin;
    }
    place += range.size();
  }
  LOG(FATAL) << "[" << slice.begin << ", " << slice.end << ") is not this worker's";
  return place;
}

constexpr Vector kMoments[] = {Vector::kExpAvg, Vector::kExpAvgSq};

}  // namespace

Status ReadLane(Trainer& trainer, Vector vector, const Lanes& lanes, int lane,
                std::vector<float>* buffer) {
  buffer->resize(lanes.LaneSize(lane));
  return ReadLane(trainer, vector, lanes, lane, std::span(*buffer));
}

Status ReadLane(Trainer& trainer, Vector vector, const Lanes& lanes, int lane,
                std::span<float> buffer) {
  return ForEachSlice(lanes, lane, [&](Range slice, int64_t offset) {
    return trainer.Read(vector, slice.begin, buffer.subspan(offset, slice.size()));
  });
}

Status WriteLane(Trainer& trainer, Vector vector, const Lanes& lanes, int lane,
                 const std::vector<float>& buffer) {
  return ForEachSlice(lanes, lane, [&](Range slice, int64_t offset) {
    return trainer.Write(vector, slice.begin, std::span(buffer).subspan(offset, slice.size()));
  });
}

Status ReadMoments(Trainer& trainer, const std::vector<Range>& owned, const Lanes& lanes, int lane,
                   std::span<float> moments) {
  int64_t base = 0;
  for (const Vector vector : kMoments) {
    RETURN_IF_ERROR(ForEachSlice(lanes, lane, [&](Range slice, int64_t offset) {
      return trainer.Read(vector, PlaceOf(owned, slice),
                          moments.subspan(base + offset, slice.size()));
    }));
    base += lanes.LaneSize(lane);
  }
  return OkStatus();
}

Status WriteMoments(Trainer& trainer, const std::vector<Range>& owned, const Lanes& lanes, int lane,
                    std::span<const float> moments) {
  int64_t base = 0;
  for (const Vector vector : kMoments) {
    RETURN_IF_ERROR(ForEachSlice(lanes, lane, [&](Range slice, int64_t offset) {
      return trainer.Write(vector, PlaceOf(owned, slice),
                           moments.subspan(base + offset, slice.size()));
    }));
    base += lanes.LaneSize(lane);
  }
  return OkStatus();
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
