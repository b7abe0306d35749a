// What the rivals have in common: the vector, its check, and what a run prints. A rank fills its
// vector with small whole numbers, so that every order of summing gives the same floats.
#pragma once

#include <sys/resource.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/units.h"

namespace atl {

struct RivalRun {
  int rank = 0;
  int size = 1;
  int64_t count = 0;  // of floats
  int iterations = 5;
  double idle_seconds = 0;  // before each iteration, as between rounds
};

inline void FillVector(const RivalRun& run, std::vector<float>* vector) {
  for (int64_t i = 0; i < run.count; ++i) {
    (*vector)[i] = static_cast<float>(i % 1000 + run.rank);
  }
}

// How many elements are not the sum over all ranks.
inline int64_t CountWrong(const RivalRun& run, const std::vector<float>& vector) {
  int64_t wrong = 0;
  const int64_t ranks = int64_t{run.size} * (run.size - 1) / 2;
  for (int64_t i = 0; i < run.count; ++i) {
    wrong += vector[i] != static_cast<float>(run.size * (i % 1000) + ranks) ? 1 : 0;
  }
  return wrong;
}

inline double CpuSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// One of "--iterations=5" and the like; ends the program where it is wrong.
inline std::string Argument(int argc, char** argv, const std::string& name,
                            const std::string& standard) {
  const std::string begin = absl::StrCat("--", name, "=");
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word.rfind(begin, 0) == 0) return word.substr(begin.size());
  }
  return standard;
}

// From --bytes, --iterations and --idle (seconds).
inline RivalRun ReadRun(int argc, char** argv) {
  RivalRun run;
  const auto bytes = ParseSizeBytes(Argument(argc, argv, "bytes", "64MiB"));
  int iterations = 0;
  if (!bytes.ok() || *bytes < 4 || *bytes % 4 != 0 ||
      !absl::SimpleAtoi(Argument(argc, argv, "iterations", "5"), &iterations) || iterations < 1 ||
      !absl::SimpleAtod(Argument(argc, argv, "idle", "0"), &run.idle_seconds)) {
    std::fprintf(stderr, "usage: %s --bytes=64MiB --iterations=5 --idle=0\n", argv[0]);
    std::exit(2);
  }
  run.count = *bytes / 4;
  run.iterations = iterations;
  return run;
}

inline void PrintRun(const RivalRun& run, const std::vector<double>& seconds, double cpu_seconds,
                     int64_t wrong) {
  std::printf("{\"bytes\": %lld, \"seconds\": [%s], \"cpu_seconds\": %.6f, \"wrong\": %lld}\n",
              static_cast<long long>(4 * run.count), absl::StrJoin(seconds, ", ").c_str(),
              cpu_seconds / run.iterations, static_cast<long long>(wrong));
}

}  // namespace atl
