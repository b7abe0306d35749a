// Strong identifiers: a RegionIndex can't be passed where a worker rank is meant.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>

namespace atl {

template <typename Tag>
struct StrongId {
  int64_t value = 0;
  friend constexpr auto operator<=>(StrongId, StrongId) = default;
};

using ViewId = StrongId<struct ViewTag>;  // one numbered membership, from 1
using RoundId =
    StrongId<struct RoundTag>;  // rounds count from 1; round 0 is the state before the first
using LaneId = StrongId<struct LaneTag>;         // from 0
using MemberIndex = StrongId<struct MemberTag>;  // a region's place in a view's order, from 0

}  // namespace atl

template <typename Tag>
struct std::hash<atl::StrongId<Tag>> {
  size_t operator()(atl::StrongId<Tag> id) const { return std::hash<int64_t>()(id.value); }
};
