// Runs whole regions inside one process: a thread per worker, in-process communicators, real
// trainers, real data, real sockets between regions. The test plays the leader's part and hands
// every worker the same commands.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "proto/region.pb.h"
#include "worker/region/region_worker.h"

namespace atl {

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
