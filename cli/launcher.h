// Which launcher started this process, from its environment. First match wins:
//   ATOLL_RANK/ATOLL_WORLD_SIZE · torchrun · Open MPI · Slurm (inside a step) · PMIx · PMI ·
//   RANK/WORLD_SIZE · Kubernetes · alone
// Open MPI comes before Slurm, because under mpirun in a Slurm allocation every rank carries
// SLURM_PROCID=0; Slurm counts only with a step id, because a batch shell has SLURM_PROCID=0 and no
// step. Pure; any thread.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"

namespace atl {

struct Launcher {
  std::string name;  // "open-mpi", "slurm", ..., "none"
  std::optional<int64_t> rank;
  std::optional<int64_t> world_size;
  // The variables that decided, with their values.
  std::vector<std::pair<std::string, std::string>> found;
};

using EnvironmentLookup = std::function<std::optional<std::string>(const std::string& name)>;

// Errors (exit code 2): the launcher's variables are incomplete, are no numbers, a rank lies
// outside its world, or ATOLL_RANK and ATOLL_WORLD_SIZE contradict the launcher that is there.
StatusOr<Launcher> DetectLauncher(const EnvironmentLookup& lookup);

}  // namespace atl
