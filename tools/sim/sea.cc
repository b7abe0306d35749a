#include "tools/sim/sea.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tools/sim/region.h"
#include "tools/sim/world.h"

namespace atl::sim {
namespace {

constexpr double kSilenceSeconds = 2.5;
constexpr double kPatienceSeconds = 30;

}  // namespace

void Sea::Cut(int one, int other, double seconds) {
  const auto pair = std::minmax(one, other);
  cuts_.insert(pair);
  if (seconds <= 0) return;
  world_->events().In(seconds, [this, pair = std::pair<int, int>(pair)] { cuts_.erase(pair); });
}

bool Sea::Reaches(int one, int other) const {
  if (!world_->region(one).IsRunning() || !world_->region(other).IsRunning()) return false;
  return cuts_.empty() || !cuts_.contains(std::minmax(one, other));
}

void Sea::BeginJoin(int region, const pb::View& view) {
  Group& group = groups_[view.id()];
  if (group.members.empty()) {
    for (const pb::Member& member : view.members()) {
      const std::vector<std::string> parts = absl::StrSplit(member.gateways(0), ':');
      int64_t life = 0;
      (void)absl::SimpleAtoi(parts.at(1), &life);
      group.members.push_back(world_->IndexOf(member.region()));
      group.lives.push_back(life / 1000);
      if (member.role() == pb::Member::FULL) group.full.insert(group.members.back());
    }
  }
  group.begun.insert(region);
}

bool Sea::HasJoined(int region, int64_t view) const {
  const auto found = groups_.find(view);
  if (found == groups_.end()) return false;
  const Group& group = found->second;
  if (group.begun.size() < group.members.size()) return false;
  for (const int member : group.members) {
    if (member != region && !Reaches(region, member)) return false;
  }
  return true;
}

void Sea::Forget(int region, int64_t below) {
  (void)region;
  // Groups are small and few; those that nobody can need go.
  while (!groups_.empty() && groups_.begin()->first + 16 < below) groups_.erase(groups_.begin());
  while (!operations_.empty() && operations_.begin()->first.first + 16 < below) {
    operations_.erase(operations_.begin());
  }
}

void Sea::Begin(int region, int64_t view, const pb::ReduceRound& command,
                const Contribution& contribution, ResultPtr given) {
  const Key key(view, command.position());
  Operation& operation = operations_[key];
  operation.view = view;
  const int64_t life = world_->region(region).life();
  if (const auto mine = operation.parts.find(region);
      mine != operation.parts.end() && mine->second.life == life) {
    // What it gave up once is broken here, in this view.
    return world_->events().In(0.01, [this, region] {
      world_->region(region).OnBroken(NameOf(region), false, "this region has given the view up");
    });
  }
  operation.parts[region] = {command, contribution, std::move(given), false, life};
  under_way_[region] = key;
  if (operation.parts.size() == groups_.at(view).members.size()) Complete(key);
}

void Sea::Complete(const Key& key) {
  Operation& operation = operations_.at(key);
  Result result;
  bool takes = false;
  bool given = false;
  for (const int member : groups_.at(key.first).members) {
    const Part& part = operation.parts.at(member);
    operation.notes.push_back(part.command.note());
    if (part.command.note().leave()) world_->Count("a leaver contributed");
    result.round = std::max(result.round, part.command.round());
    switch (part.command.mode()) {
      case pb::ReduceRound::CONTRIBUTE:
        result.sum += part.contribution.bits;
        result.tokens += part.contribution.tokens;
        result.expected_tokens = part.command.expected_tokens();
        result.samples.insert(result.samples.end(), part.contribution.samples.begin(),
                              part.contribution.samples.end());
        break;
      case pb::ReduceRound::GIVE:
        given = true;
        result = *part.given;
        break;
      case pb::ReduceRound::TAKE:
        takes = true;
        break;
      default:
        break;
    }
  }
  if (takes && !given) {
    world_->promises().Break("P4", absl::StrCat("view ", key.first,
                                                ": a round is to be taken, "
                                                "but nobody gives it"));
  }
  if (takes && given) world_->Count("a round was handed on");
  operation.result = std::make_shared<const Result>(std::move(result));
  for (const int member : groups_.at(key.first).members) {
    const double seconds = world_->settings().reduce_seconds * world_->dice().Uniform(0.7, 1.4);
    world_->events().In(seconds, [this, key, member] { EndAt(key, member); });
  }
}

void Sea::EndAt(const Key& key, int region) {
  const auto found = operations_.find(key);
  const auto mine = under_way_.find(region);
  if (found == operations_.end() || mine == under_way_.end() || mine->second != key) return;
  // Whoever is lost by now may have sent its part before.
  bool all_there = world_->region(region).IsRunning();
  for (const auto& [member, part] : found->second.parts) {
    if (member == region || part.ended) continue;
    all_there = all_there && (Reaches(region, member) || world_->dice().Chance(0.3));
  }
  if (!all_there) {
    // Once the line is back, what was lost comes again.
    world_->events().In(0.5, [this, key, region] { EndAt(key, region); });
    return;
  }
  Part& part = found->second.parts.at(region);
  part.ended = true;
  under_way_.erase(mine);
  world_->region(region).OnReduced(found->second.result, found->second.notes);
}

int Sea::Begun(int64_t view, int64_t position) const {
  const auto operation = operations_.find({view, position});
  const auto group = groups_.find(view);
  if (operation == operations_.end() || group == groups_.end()) return 0;
  int begun = 0;
  for (const auto& [member, part] : operation->second.parts) {
    begun += group->second.full.contains(member) ? 1 : 0;
  }
  return begun;
}

void Sea::GiveUp(int region) {
  const auto mine = under_way_.find(region);
  if (mine == under_way_.end()) return;
  const Key key = mine->second;
  under_way_.erase(mine);
  for (const int member : groups_.at(key.first).members) {
    const auto other = under_way_.find(member);
    if (member == region || other == under_way_.end() || other->second != key) continue;
    world_->events().In(world_->dice().Uniform(0.01, 0.3), [this, key, member, region] {
      const auto still = under_way_.find(member);
      if (still == under_way_.end() || still->second != key) return;
      under_way_.erase(still);
      world_->region(member).OnBroken(NameOf(region), false, "a member gave up");
    });
  }
}

bool Sea::IsGone(const Group& group, size_t member) const {
  const Region& region = world_->region(group.members[member]);
  return !region.alive() || region.life() != group.lives[member];
}

void Sea::WatchOne(int region, const Group& group) {
  for (size_t i = 0; i < group.members.size(); ++i) {
    const int other = group.members[i];
    if (other == region) continue;
    const std::pair pair(region, other);
    if (IsGone(group, i)) {
      under_way_.erase(region);
      return world_->region(region).OnBroken(NameOf(other), true, "its gateway refuses the call");
    }
    if (Reaches(region, other)) {
      if (silent_since_.erase(pair) > 0) world_->region(region).OnHeardAgain(NameOf(other));
      continue;
    }
    const double since = silent_since_.try_emplace(pair, world_->now()).first->second;
    const double silent = world_->now() - since;
    if (silent >= kPatienceSeconds) {
      silent_since_.erase(pair);
      under_way_.erase(region);
      return world_->region(region).OnBroken(NameOf(other), false, "silent for too long");
    }
    if (silent >= kSilenceSeconds) world_->region(region).OnSilence(NameOf(other), silent);
  }
}

void Sea::Watch() {
  if (world_->calm()) return;
  for (int region = 0; region < world_->regions(); ++region) {
    Region& one = world_->region(region);
    if (!one.IsRunning()) continue;
    const auto under_way = under_way_.find(region);
    const int64_t view = under_way != under_way_.end() ? under_way->second.first : one.joining();
    const auto group = groups_.find(view);
    if (view > 0 && group != groups_.end()) WatchOne(region, group->second);
  }
}

}  // namespace atl::sim
