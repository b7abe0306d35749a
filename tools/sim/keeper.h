// The orchestrator as a process: its core, a made-up store, and crashes at any point of a step:
// before the step is stored, after that and before its messages, after both.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "orchestrator/core/core.h"

namespace atl::sim {

class World;

// What survives a crash: the records, as a database would keep them.
class MadeUpStore {
 public:
  void Apply(const std::vector<Record>& records);
  History history() const;

 private:
  History history_;
  std::map<std::string, RegionRecord> regions_;
  std::map<std::tuple<int64_t, int64_t, std::string>, SampleRecord> samples_;
  std::vector<EvaluationRecord> evaluations_;  // not by all members yet
};

class Keeper {
 public:
  explicit Keeper(World* world) : world_(world) {}

  void Start();
  void OnMessage(const std::string& region, const pb::LeaderMessage& message);
  // Goes down in its next step, before (0) or after (1) it is stored, or after it (2).
  void CrashIn(int point, double seconds_away);
  void Drain(const std::string& region);
  bool alive() const { return core_ != nullptr; }
  const Core* core() const { return core_.get(); }
  bool ended() const { return ended_.has_value(); }
  const std::optional<Ended>& end() const { return ended_; }

 private:
  template <typename Step>
  void Do(Step step);
  void Take(Actions actions);
  void GoDown();
  void Wake();

  World* const world_;
  MadeUpStore store_;
  std::unique_ptr<Core> core_;
  int64_t life_ = 0;
  std::optional<double> wake_at_;
  int crash_point_ = -1;
  double away_seconds_ = 0;
  std::string durable_;  // what the core was after its last stored step
  std::optional<Ended> ended_;
  std::map<std::string, int64_t> kinds_;
};

}  // namespace atl::sim
