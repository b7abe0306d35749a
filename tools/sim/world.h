// One made-up world: the orchestrator's core and a leader's agent for each region, unchanged, in
// one thread on a made-up clock; between them networks, disks and regions that are models
// (keeper.h, region.h, sea.h), and faults (faults.cc). Everything follows from Settings::seed.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "proto/control.pb.h"
#include "proto/job.pb.h"
#include "tools/sim/events.h"
#include "tools/sim/promises.h"
#include "tools/sim/settings.h"

namespace atl::sim {

class Keeper;
class Region;
class Sea;

struct Outcome {
  std::string broken;  // empty: all promises were kept
  std::vector<std::string> transcript;
  std::map<std::string, int64_t> counts;  // faults by kind, events of the core, rare states
  int64_t events = 0;
  double made_up_seconds = 0;
  int64_t rounds = 0;
  double core_seconds = 0;  // CPU time spent in the orchestrator's core
  // Of these up to the first committed round.
  double begin_seconds = 0;
  int64_t begin_steps = 0;
  int64_t begin_bytes = 0;
  int64_t core_steps = 0;
  int64_t core_bytes = 0;  // of messages sent by it
};

class World {
 public:
  World(const Settings& settings, bool measures);
  ~World();

  // Until the job has ended, a promise is broken or nothing happens any more.
  Outcome Run();

  const Settings& settings() const { return settings_; }
  const pb::Job& job() const { return job_; }
  double now() const { return events_.now(); }
  Dice& dice() { return dice_; }
  EventQueue& events() { return events_; }
  Promises& promises() { return promises_; }
  Keeper& keeper() { return *keeper_; }
  Sea& sea() { return *sea_; }
  Region& region(int index) { return *regions_[index]; }
  int regions() const { return static_cast<int>(regions_.size()); }
  int IndexOf(const std::string& name) const { return indices_.at(name); }
  bool measures() const { return measures_; }

  // The control network. Messages are lost, late, repeated; a cut loses all that go one way.
  void ToOrchestrator(int region, const pb::LeaderMessage& message);
  void ToRegion(const std::string& name, const pb::OrchestratorMessage& message);
  void CutControl(int region, bool up, double seconds);

  void Count(const std::string& what) { ++counts_[what]; }
  void Say(const std::string& text);
  // A region's state after `round` is not what it should be.
  void NoteDamage(int64_t round);
  void Finish() { finished_ = true; }
  // Members' states against what is committed: of one region, of all (-1).
  void CheckMembers(int only);
  // Nothing has gone wrong yet.
  bool calm() const { return calm_; }
  void Trouble() { calm_ = false; }
  Outcome& outcome() { return outcome_; }

 private:
  double Delay();
  void Transmit(double delay, std::function<void()> deliver);
  void DrawFaults();
  bool AnyIsDamaged() const;
  // How much longer a region's steps take just now, but for faults.
  double SlownessOf(int region) const;
  void DoFault(const Fault& fault);

  const Settings settings_;
  const bool measures_;
  pb::Job job_;
  EventQueue events_;
  Dice dice_;
  Promises promises_;
  std::unique_ptr<Keeper> keeper_;
  std::unique_ptr<Sea> sea_;
  std::vector<std::unique_ptr<Region>> regions_;
  std::map<std::string, int> indices_;
  std::set<std::pair<int, bool>> control_cuts_;
  std::map<std::string, int64_t> counts_;
  std::set<int64_t> damaged_rounds_;
  std::deque<std::string> transcript_;
  Outcome outcome_;
  bool finished_ = false;
  bool calm_ = true;
};

std::string NameOf(int region);
// The state before the first round.
std::string SeedDigest();

}  // namespace atl::sim
