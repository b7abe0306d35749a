#include "orchestrator/core/checkpoints.h"

#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace atl {
namespace {

// (round, digest, ledger cursor, inner steps, samples returned)
using Ranges = std::vector<std::pair<int64_t, int64_t>>;
using Key = std::tuple<int64_t, std::string, int64_t, int64_t, Ranges>;

// What was returned lies before the cursor, in order.
bool IsSound(const pb::CheckpointOnDisk& checkpoint) {
  int64_t end = 0;
  for (const pb::SampleRange& range : checkpoint.returned()) {
    if (range.begin() < end || range.end() <= range.begin()) return false;
    end = range.end();
  }
  return end <= checkpoint.next_sample();
}

bool IsUsable(const RegionCheckpoints& region, const pb::CheckpointOnDisk& checkpoint) {
  return checkpoint.round() >= 0 && checkpoint.next_sample() >= 0 &&
         checkpoint.inner_steps() >= 0 && !checkpoint.digest().empty() && IsSound(checkpoint) &&
         !region.unusable.contains(checkpoint.path());
}

// The copy of each state that the region would load.
std::map<Key, pb::CheckpointOnDisk> BestCopies(const RegionCheckpoints& region) {
  std::map<Key, pb::CheckpointOnDisk> best;
  for (const pb::CheckpointOnDisk& checkpoint : region.listed) {
    if (!IsUsable(region, checkpoint)) continue;
    Ranges returned;
    for (const pb::SampleRange& range : checkpoint.returned()) {
      returned.emplace_back(range.begin(), range.end());
    }
    const Key key(checkpoint.round(), checkpoint.digest(), checkpoint.next_sample(),
                  checkpoint.inner_steps(), returned);
    const auto [at, is_new] = best.emplace(key, checkpoint);
    const auto rank = [](const pb::CheckpointOnDisk& c) { return std::pair(!c.own(), c.path()); };
    if (!is_new && rank(checkpoint) < rank(at->second)) at->second = checkpoint;
  }
  return best;
}

}  // namespace

namespace {

using States = std::map<Key, std::map<std::string, pb::CheckpointOnDisk>>;

std::optional<ResumePoint> Newest(const States& states, size_t least_copies, bool own_counts) {
  std::optional<ResumePoint> chosen;
  int best = 0;
  for (const auto& [key, copies] : states) {
    if (copies.size() < least_copies) continue;
    int count = 0;
    for (const auto& [name, checkpoint] : copies) count += checkpoint.own() || !own_counts ? 1 : 0;
    const auto& [round, digest, next_sample, inner_steps, returned] = key;
    if (chosen && (round < chosen->round || (round == chosen->round && count <= best))) continue;
    chosen = ResumePoint{round, digest, next_sample, inner_steps, {}, copies};
    for (const auto& [begin, end] : returned) chosen->returned.push_back({begin, end});
    best = count;
  }
  return chosen;
}

States StatesOf(const std::map<std::string, RegionCheckpoints>& regions) {
  States states;
  for (const auto& [name, region] : regions) {
    for (const auto& [key, checkpoint] : BestCopies(region)) states[key][name] = checkpoint;
  }
  return states;
}

}  // namespace

std::optional<ResumePoint> ChooseResumePoint(
    const std::map<std::string, RegionCheckpoints>& regions) {
  return Newest(StatesOf(regions), regions.size(), true);
}

std::optional<ResumePoint> ChooseAnyResumePoint(
    const std::map<std::string, RegionCheckpoints>& regions,
    const std::map<int64_t, std::string>& committed) {
  States all = StatesOf(regions);
  States known;
  for (const auto& [key, copies] : all) {
    const auto digest = committed.find(std::get<0>(key));
    if (digest != committed.end() && digest->second == std::get<1>(key)) known[key] = copies;
  }
  return Newest(known.empty() ? all : known, 1, false);
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
      const auto& [round, digest, next_sample, inner_steps, returned] = at->first;
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
