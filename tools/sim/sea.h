// The data plane, as a model: who can reach whom, joining a view, all-reduces. What it promises is
// what collectives/wan promises: a reduction ends at a member only after all have begun it; all
// that end it have the same result; a member that is gone, silent or gives up breaks it for those
// that have not ended it yet.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/range.h"
#include "proto/control.pb.h"
#include "proto/region.pb.h"

namespace atl::sim {

class World;

// What a region brings to a round.
struct Contribution {
  uint64_t bits = 0;
  int64_t tokens = 0;
  std::vector<Range> samples;
};

// What a round's reduction gives.
struct Result {
  int64_t round = 0;
  uint64_t sum = 0;
  int64_t tokens = 0;
  int64_t expected_tokens = 0;
  std::vector<Range> samples;
};
using ResultPtr = std::shared_ptr<const Result>;

class Sea {
 public:
  explicit Sea(World* world) : world_(world) {}

  void Cut(int one, int other, double seconds);
  bool Reaches(int one, int other) const;

  // The region begins to connect to the view's members. A new view is told whose gateways it means.
  void BeginJoin(int region, const pb::View& view);
  bool HasJoined(int region, int64_t view) const;
  void Forget(int region, int64_t below);

  // Begins a reduction at one member. Its end comes by Region::OnReduced, a break by OnBroken.
  void Begin(int region, int64_t view, const pb::ReduceRound& command,
             const Contribution& contribution, ResultPtr given);
  // The member gives up: so do the others, but for those that have ended it.
  // Full members that have begun the reduction at this place of the view.
  int Begun(int64_t view, int64_t position) const;
  void GiveUp(int region);
  // Looks after whoever waits: silent, gone peers.
  void Watch();

 private:
  struct Group {
    std::set<int> full;
    std::vector<int> members;
    std::vector<int64_t> lives;  // of the gateways
    std::set<int> begun;
    std::map<int, double> joined_at;
  };
  struct Part {
    pb::ReduceRound command;
    Contribution contribution;
    ResultPtr given;
    bool ended = false;
    int64_t life = 0;
  };
  struct Operation {
    int64_t view = 0;
    std::map<int, Part> parts;
    ResultPtr result;
    std::vector<pb::RoundNote> notes;
  };
  using Key = std::pair<int64_t, int64_t>;  // (view, position)

  void Complete(const Key& key);
  void EndAt(const Key& key, int region);
  bool IsGone(const Group& group, size_t member) const;
  void WatchOne(int region, const Group& group);

  World* const world_;
  std::map<int64_t, Group> groups_;
  std::map<Key, Operation> operations_;
  std::map<int, Key> under_way_;  // by region
  std::set<std::pair<int, int>> cuts_;
  std::map<std::pair<int, int>, double> silent_since_;  // (who waits, for whom)
};

}  // namespace atl::sim
