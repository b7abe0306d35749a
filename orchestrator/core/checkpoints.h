// Which checkpoint a job goes on from. Pure.
//
// 1. A state is (round, digest, ledger cursor, inner steps). A region has it if it lists a complete
//    checkpoint of it that it has not failed to load.
// 2. The choice is the newest state that every region has. Of two states of the same round, the one
//    that more regions wrote themselves wins.
// 3. Of several copies, a region takes its own first (its inner optimizer state is inside), then
//    the first by path.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/range.h"
#include "proto/control.pb.h"

namespace atl {

struct RegionCheckpoints {
  std::vector<pb::CheckpointOnDisk> listed;
  std::set<std::string> unusable;  // paths that could not be loaded
};

struct ResumePoint {
  int64_t round = 0;
  std::string digest;
  int64_t next_sample = 0;
  int64_t inner_steps = 0;
  std::vector<Range> returned;                              // before next_sample, but not committed
  std::map<std::string, pb::CheckpointOnDisk> checkpoints;  // by region: which copy it loads
};

std::optional<ResumePoint> ChooseResumePoint(
    const std::map<std::string, RegionCheckpoints>& regions);

// The same where one region is enough: the newest state that any has, and the copies of those that
// have it. States that are known to be committed (round -> digest) come before all others, since a
// newer one may be of a round that was done again. Of two states of one round, the one that more
// regions have wins.
std::optional<ResumePoint> ChooseAnyResumePoint(
    const std::map<std::string, RegionCheckpoints>& regions,
    const std::map<int64_t, std::string>& committed);

// True if any region lists any checkpoint, loadable or not.
bool AnyCheckpoint(const std::map<std::string, RegionCheckpoints>& regions);

// Why there is no common one, region by region: "a has rounds 10 and 5; b has none; c has round 10
// with another digest", for an error message.
std::string ExplainNoCommonCheckpoint(const std::map<std::string, RegionCheckpoints>& regions);

}  // namespace atl
