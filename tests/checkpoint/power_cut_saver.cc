// The victim of power_cuts.py.
//
//   power_cut_saver save DIRECTORY ROUND   saves this round and all that follow, until it fails;
//                                          after each that is acknowledged: its number, a line
//   power_cut_saver check DIRECTORY ROUND  exit 0: that round is there, whole to the last byte
#include <cstdio>

#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"
#include "checkpoint/names.h"
#include "tests/checkpoint/checkpoint_test_util.h"

namespace atl::checkpoint {
namespace {

int SaveOn(SaveJob job) {
  for (;; ++job.round) {
    for (const auto& saved : SaveEverywhere(job)) {
      if (saved.ok()) continue;
      std::fprintf(stderr, "%s\n", saved.status().ToString().c_str());
      return 1;
    }
    std::printf("%ld\n", job.round);
    std::fflush(stdout);
  }
}

int Check(const SaveJob& job) {
  for (const Found& found : List(job.directory, nullptr)) {
    if (found.description.round != job.round) continue;
    const auto checkpoint = Checkpoint::Open(found.path);
    const Status status = checkpoint.ok() ? (*checkpoint)->Verify() : checkpoint.status();
    if (status.ok()) return 0;
    std::fprintf(stderr, "%s\n", status.ToString().c_str());
    return 1;
  }
  std::fprintf(stderr, "round %ld is not there\n", job.round);
  return 1;
}

}  // namespace
}  // namespace atl::checkpoint

int main(int argc, char** argv) {
  atl::checkpoint::SaveJob job;
  const absl::string_view verb = argc > 1 ? argv[1] : "";
  if (argc != 4 || !absl::SimpleAtoi(argv[3], &job.round)) return 2;
  job.directory = argv[2];
  job.ranks = 2;
  if (verb == "save") return atl::checkpoint::SaveOn(job);
  return verb == "check" ? atl::checkpoint::Check(job) : 2;
}
