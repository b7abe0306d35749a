// What must hold after a job that faults were done to, read from its run directory: it is done,
// every round committed once, all regions that took part in the last round saved the same state,
// and the ledger is exact. Reads files, changes nothing; the job is over. One thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace atl {

struct ChaosVerdict {
  std::vector<std::string> broken;  // promises, in words; none: all hold
  int64_t rounds = 0;
  int64_t samples = 0;   // committed
  int64_t returned = 0;  // times that ranges of samples went back and came again
  int64_t views = 0;
  int64_t replicas = 0;  // of the last round's state, that were compared
};

StatusOr<ChaosVerdict> CheckChaos(const std::string& run_dir);

}  // namespace atl
