// Writes the checkpoint that read_safetensors.py checks: checkpoint_sample DIRECTORY.
#include <cstdio>

#include "tests/checkpoint/checkpoint_test_util.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  atl::checkpoint::SaveJob job;
  job.directory = argv[1];
  job.ranks = 3;
  for (const auto& result : SaveEverywhere(job)) {
    if (!result.ok()) {
      std::fprintf(stderr, "%s\n", result.status().ToString().c_str());
      return 1;
    }
  }
  return 0;
}
