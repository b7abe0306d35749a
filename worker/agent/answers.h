// What the answers of a region's ranks say together.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "proto/region.pb.h"

namespace atl {

// The first rank that failed, if any; a rank that only follows from a peer's failure comes last.
const pb::RegionAnswer* FirstFailure(const std::vector<pb::RegionAnswer>& answers, int* rank);
StatusOr<std::string> SumOfDigests(const std::vector<pb::RegionAnswer>& answers);
// The notes of a reduction: of a rank that carries a lane.
std::vector<pb::RoundNote> NotesOf(const std::vector<pb::RegionAnswer>& answers);

}  // namespace atl
