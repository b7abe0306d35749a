// Runs whole regions inside one process: a thread per worker, in-process communicators, real
// trainers, real data, real sockets between regions. The test plays the leader's part and hands
// every worker the same commands.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "proto/region.pb.h"
#include "worker/region/region_worker.h"

namespace atl {

// One region: its workers follow rank 0, which the test drives through Do().
class HarnessRegion {
 public:
  HarnessRegion(const std::string& run_dir, const std::string& name, int workers);
  ~HarnessRegion();

  const std::string& name() const { return name_; }
  int workers() const { return static_cast<int>(workers_.size()); }
  std::vector<pb::RegionAnswer> Do(const pb::RegionCommand& command);
  // The command under way.
  void Interrupt() { workers_[0]->Interrupt(commands_.load()); }
  void InterruptNext() { workers_[0]->Interrupt(commands_.load() + 1); }
  std::string doing() const { return workers_[0]->doing(); }

 private:
  static void Abort(const pb::RegionAnswer& answer);

  const std::string name_;
  std::atomic<int64_t> commands_ = 0;
  std::vector<std::unique_ptr<Communicator>> communicators_, saves_;
  std::vector<std::unique_ptr<RegionWorker>> workers_;
  std::vector<std::thread> threads_;
};

struct HarnessOptions {
  pb::Job job;
  std::vector<int> workers;  // of each region
  std::string run_dir;
  std::string checkpoint_of_round;  // "round-000002": load it; empty: start afresh
  int64_t first_round = 1;
};

struct HarnessResult {
  std::vector<double> losses;                         // mean of each round, over all regions
  std::vector<std::vector<std::string>> digests;      // by round, by region
  std::vector<std::vector<int64_t>> optimizer_bytes;  // by region, by worker
  std::vector<double> validation;                     // before and after
  std::string error;
};

// Rounds first_round..job.train.rounds; saves a checkpoint after every checkpoint.every rounds.
HarnessResult RunRegions(const HarnessOptions& options);

// A job on the test-1m shape made smaller, over a token file written to `directory`.
pb::Job SmallJob(const std::string& directory);

}  // namespace atl
