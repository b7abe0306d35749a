// First failure: which worker of which region failed first, why, and what to do, as one block. The
// evidence is what the workers and mpirun left in this run's attempt directories.
//
// Order of causes: a process that died by a signal (mpirun saw it; the dead leave no words) before
// a worker's own last words with `cause` true, the earliest first, before an mpirun that ended
// badly without either, before what the orchestrator gave as its reason. Words with `cause` false
// follow from another's failure: they are counted as victims and never shown as the culprit.
//
// Reads files, changes nothing. Thread rule: one thread.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "cli/process.h"

namespace atl {

// What is known of a region that this run started.
struct RegionEvidence {
  std::string name;
  std::string directory;  // "DIR/oslo/attempt-2"
  int workers = 1;
  std::optional<ProcessEnd> end;  // of its mpirun, if it ended before it was told to
};

struct Failure {
  std::string region;  // empty: of the job
  std::string host;
  int rank = -1;  // -1: of none
  int pid = 0;
  std::string what;  // "died: killed by SIGKILL", or the error's text
  std::string doing;
  std::string log;  // a path; empty if there is none
  std::vector<std::string> log_lines;
  int exit_code = 1;  // what the job's should be: 1, or the worker's 2, 4 or 5
  int victims = 0;    // workers that ended because of it
  absl::Time time = absl::InfinitePast();
};

// Nothing if no region failed.
std::optional<Failure> FindFailure(const std::vector<RegionEvidence>& regions);

// The block that users see, and the same for --json. `run_dir` and `summary` (summary.json, may be
// null) say what was lost.
struct FailureContext {
  std::string run_dir;
  std::string job;
  int64_t oom_kills = 0;    // by the kernel since the start
  std::string next;         // what to do, or what happens
  int64_t inner_steps = 0;  // of a round; 0: not known
  // A region failed and the job goes on: with these.
  bool goes_on = false;
  std::vector<std::string> others;
  int workers = 1;  // of that region
};
std::string FailureText(const Failure& failure, const nlohmann::json& summary,
                        const FailureContext& context);
nlohmann::json FailureJson(const Failure& failure);

// The kernel's count of processes killed for memory, on this host or in this container; 0 if
// unknown.
int64_t OutOfMemoryKills();

}  // namespace atl
