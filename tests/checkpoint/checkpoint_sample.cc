// Writes the checkpoint that read_safetensors.py and the tests of the verbs look at:
// checkpoint_sample DIRECTORY [ROUND [REGION]].
#include <cstdio>

#include "absl/strings/numbers.h"
#include "tests/checkpoint/checkpoint_test_util.h"

int main(int argc, char** argv) {
  atl::checkpoint::SaveJob job;
  if (argc < 2 || argc > 4 || (argc > 2 && !absl::SimpleAtoi(argv[2], &job.round))) return 2;
  job.directory = argv[1];
  if (argc > 3) job.region = argv[3];
  job.ranks = 3;
  job.keep = 1000;
  for (const auto& result : SaveEverywhere(job)) {
    if (!result.ok()) {
      std::fprintf(stderr, "%s\n", result.status().ToString().c_str());
      return 1;
    }
  }
  return 0;
}
