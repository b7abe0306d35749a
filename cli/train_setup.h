// What `atoll train` does before it starts anything: everything that can be found wrong now is,
// with a message that says what to do, so that a user never waits for a job that can't run.
//
//   1. load the job, its regions and overrides; check it and the files it names (exit code 2)
//   2. find the programs: atoll-orchestrator and atoll-worker beside this one, mpirun on PATH (4)
//   3. take the run directory: locked by a running job is an error (4). With state of another job
//      in it: refused (2). With --resume=never: the former files are moved to DIR/former-N, so that
//      two histories never mix. A job that is already done is not started again.
//   4. compare the free disk space with what checkpoints will take (4)
//   5. write DIR/job.yaml: the job as it runs
//
// Thread rule: one thread.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/flags.h"
#include "base/status.h"
#include "cli/output.h"
#include "proto/job.pb.h"

namespace atl {

// Where processes of a job run. By itself everything is on this host, reached at 127.0.0.1.
struct Place {
  std::vector<std::string> prefix;  // words before the program: they enter the place and exec it
  std::string host = "127.0.0.1";   // at which others reach what runs there
};
// Places of their own for the regions (cli/rehearse.h); the orchestrator is in the first one.
struct Stage {
  std::vector<std::pair<std::string, Place>> regions;  // these are the job's regions then
  std::string run_dir_suffix;                          // of the default run directory
};

// Where the orchestrator keeps the job; by itself in the run directory.
struct OrchestratorStore {
  std::vector<std::string> words;  // for the orchestrator: --store=... and what belongs to it
  bool is_etcd = false;
  bool standby = false;  // a second orchestrator runs beside the one that leads
};
// From the flags of StoreFlags(). Errors (2): they contradict one another.
StatusOr<OrchestratorStore> OrchestratorStoreOf(const ParsedFlags& flags);
std::vector<FlagSpec> StoreFlags();

struct TrainSetup {
  pb::Job job;  // complete, with its regions
  int workers = 1;
  int64_t restarts = 0;  // of each process, in a row
  std::string run_dir;   // absolute
  std::string orchestrator_program;
  std::string worker_program;
  std::string mpirun_program;
  std::vector<std::string> worker_words;  // more that atoll-worker is told
  bool already_done = false;              // nothing is left to train
  Stage stage;
  OrchestratorStore store;

  Place PlaceOf(const std::string& region) const;
  Place OrchestratorPlace() const;
};

// `flags` are train's, or with a stage rehearse's.
StatusOr<TrainSetup> PrepareTraining(const ParsedFlags& flags, Output* output,
                                     const Stage& stage = {});

// The parts, for tests.
// The first `name` in the directories of `path` (as in $PATH) that can be executed; empty if none.
std::string FindProgram(const std::string& name, const std::string& path);
// The job's regions are these. What the job file says of a region of that name, such as its lease,
// holds; where it gives its checkpoints does not: that is an address of its real place.
void SetRegions(const std::vector<std::string>& names, pb::Job* job);
// Keys by which `job` trains another model or on other data than `former`: "model.layers", "seed".
std::vector<std::string> KeysOfAnotherJob(const pb::Job& former, const pb::Job& job);
// Moves what a former job left in `run_dir` to "run_dir/former-N"; returns that directory. Keys and
// files that are not a job's stay.
StatusOr<std::string> SetFormerJobAside(const std::string& run_dir);
// Error (exit code 4) if `run_dir`'s disk can't hold the checkpoints that `job` will keep.
Status CheckFreeSpace(const std::string& run_dir, const pb::Job& job, double checkpoint_bytes);

}  // namespace atl
