#include "orchestrator/core/checkpoints.h"

#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace atl {
namespace {

// (round, digest, ledger cursor, inner steps)
using Key = std::tuple<int64_t, std::string, int64_t, int64_t>;

bool IsUsable(const RegionCheckpoints& region, const pb::CheckpointOnDisk& checkpoint) {
  return checkpoint.round() >= 1 && checkpoint.next_sample() >= 0 &&
         checkpoint.inner_steps() >= 0 && !checkpoint.digest().empty() &&
         !region.unusable.contains(checkpoint.path());
}

// The copy of each state that the region would load.
std::map<Key, pb::CheckpointOnDisk> BestCopies(const RegionCheckpoints& region) {
  std::map<Key, pb::CheckpointOnDisk> best;
  for (const pb::CheckpointOnDisk& checkpoint : region.listed) {
    if (!IsUsable(region, checkpoint)) continue;
    const Key key(checkpoint.round(), checkpoint.digest(), checkpoint.next_sample(),
                  checkpoint.inner_steps());
    const auto [at, is_new] = best.emplace(key, checkpoint);
    const auto rank = [](const pb::CheckpointOnDisk& c) { return std::pair(!c.own(), c.path()); };
    if (!is_new && rank(checkpoint) < rank(at->second)) at->second = checkpoint;
  }
  return best;
}

}  // namespace

std::optional<ResumePoint> ChooseResumePoint(
    const std::map<std::string, RegionCheckpoints>& regions) {
  std::map<Key, std::map<std::string, pb::CheckpointOnDisk>> states;
  for (const auto& [name, region] : regions) {
    for (const auto& [key, checkpoint] : BestCopies(region)) states[key][name] = checkpoint;
  }
  std::optional<ResumePoint> chosen;
  int chosen_own = 0;
  for (const auto& [key, copies] : states) {
    if (copies.size() != regions.size()) continue;
    int own = 0;
    for (const auto& [name, checkpoint] : copies) own += checkpoint.own() ? 1 : 0;
    const auto& [round, digest, next_sample, inner_steps] = key;
    if (chosen && (round < chosen->round || (round == chosen->round && own <= chosen_own))) {
      continue;
    }
    chosen = ResumePoint{round, digest, next_sample, inner_steps, copies};
    chosen_own = own;
  }
  return chosen;
}

bool AnyCheckpoint(const std::map<std::string, RegionCheckpoints>& regions) {
  for (const auto& [name, region] : regions) {
    if (!region.listed.empty()) return true;
  }
  return false;
}

std::string ExplainNoCommonCheckpoint(const std::map<std::string, RegionCheckpoints>& regions) {
  constexpr size_t kMostListed = 5;
  std::vector<std::string> lines;
  for (const auto& [name, region] : regions) {
    const auto copies = BestCopies(region);
    std::vector<std::string> rounds;
    for (auto at = copies.rbegin(); at != copies.rend() && rounds.size() < kMostListed; ++at) {
      const auto& [round, digest, next_sample, inner_steps] = at->first;
      rounds.push_back(absl::StrCat(round, " (digest ", digest.substr(0, 8), ")"));
    }
    if (copies.size() > kMostListed) rounds.push_back("older ones");
    std::string line =
        rounds.empty() ? absl::StrCat("region ", name, " has none")
                       : absl::StrCat("region ", name, " has round ", absl::StrJoin(rounds, ", "));
    if (!region.unusable.empty()) {
      absl::StrAppend(&line, " and could not load ", absl::StrJoin(region.unusable, ", "));
    }
    lines.push_back(line);
  }
  return absl::StrJoin(lines, "; ");
}

}  // namespace atl
