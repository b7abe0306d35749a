// Measures the all-reduce between regions: one engine a region, each in its region's network
// namespace if there is a lab, all in this process.
//
// 1. Every region joins; the first operations warm the links up and teach the tuner.
// 2. Each measured operation begins everywhere at one moment and ends when the last region has its
//    result. Before it the links may rest, as they do between rounds.
// 3. After every operation each region compares its result with the sum computed locally (exactly
//    where the codec is exact, else within the codec's error) and all compare theirs to the bit.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "collectives/codec/codec.h"
#include "collectives/wan/engine.h"
#include "tools/wanlab/lab.h"

namespace atl {

struct AllReduceBench {
  const RunningLab* lab = nullptr;  // null: loopback
  int regions = 2;                  // of loopback
  int64_t bytes = 64 << 20;         // of fp32 data
  Codec codec = Codec::kFp32;
  wan::EngineOptions engine;  // listen is set by the bench
  double idle_seconds = 0;
  int warmup = 3;
  int iterations = 5;
  // Called between operations by one thread: (operation from 0, begun or ended).
  std::function<void(int iteration)> before;
};

struct AllReduceBenchResult {
  std::vector<double> seconds;  // of the measured operations
  double join_seconds = 0;
  double cpu_seconds = 0;              // of this process, an operation
  int64_t wrong = 0;                   // elements, over all regions and operations
  std::string schedule;                // of the last operation
  std::vector<wan::LinkStatus> links;  // as region 0 saw them at the end
  std::optional<wan::LinkMatrix> matrix;
};

StatusOr<AllReduceBenchResult> RunAllReduceBench(const AllReduceBench& bench);

}  // namespace atl
