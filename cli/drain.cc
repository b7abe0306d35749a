// Leaves a request in the run directory, where the orchestrator looks once a second
// (orchestrator/server/daemon.h). Who may write there may stop the job anyway: no other key is
// needed. The region contributes the inner steps that it has finished, and its workers exit with
// 75.
#include "cli/drain.h"

#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/suggest.h"
#include "cli/run_directory.h"

namespace atl {
namespace {

constexpr double kTakeSeconds = 5;

CommandSpec Spec() {
  CommandSpec spec;
  spec.command = "atoll drain";
  spec.arguments = "REGION DIR";
  spec.summary = "have a region leave a running job, while the others go on";
  spec.details =
      "DIR is the job's run directory, on the orchestrator's host. The region ends with the inner "
      "step under way; what it has finished counts, samples that it did not get to come again "
      "elsewhere, and its workers exit with 75. If it is the last one, the job stops with a "
      "checkpoint.";
  spec.min_positional = 2;
  spec.max_positional = 2;
  spec.flags = {
      {.name = "reason",
       .placeholder = "TEXT",
       .help = "for log and status",
       .default_value = "drained by hand"},
      JsonFlag(),
  };
  return spec;
}

StatusOr<ExitCode> Drain(const ParsedFlags& flags, Output& output) {
  const std::string& region = flags.positional()[0];
  const std::string& run_dir = flags.positional()[1];
  const nlohmann::json summary = ReadSummary(run_dir);
  const auto info = ReadOrchestratorInfo(run_dir);
  if (!info || !info->alive || !summary.is_object()) {
    return EnvironmentError(absl::StrCat("no orchestrator runs in ", run_dir, " on this host"));
  }
  std::vector<std::string> names;
  if (const auto regions = summary.find("regions"); regions != summary.end()) {
    for (const nlohmann::json& entry : *regions) {
      if (entry.is_object()) names.push_back(TextOr(entry, "name", ""));
    }
  }
  if (std::find(names.begin(), names.end(), region) == names.end()) {
    return UsageError(absl::StrCat("the job has no region '", region, "'",
                                   DidYouMean(region, names), "; it has ",
                                   absl::StrJoin(names, ", ")));
  }
  const std::string directory = run_dir + "/drain";
  const std::string path = absl::StrCat(directory, "/", region);
  RETURN_IF_ERROR(MakeDirectories(directory, 0700));
  RETURN_IF_ERROR(WriteFileAtomically(path, flags.Text("reason") + "\n", 0600));
  const double deadline = Clock::Real()->MonotonicSeconds() + kTakeSeconds;
  bool taken = false;
  while (!taken && Clock::Real()->MonotonicSeconds() < deadline) {
    Clock::Real()->SleepFor(absl::Milliseconds(50));
    taken = access(path.c_str(), F_OK) != 0;
  }
  if (!taken) {
    return EnvironmentError(absl::StrCat("the orchestrator has not taken the request within ",
                                         kTakeSeconds, " s; it is in ", path));
  }
  output.Print(
      absl::StrCat("region ", region, " is asked to leave; see `atoll status ", run_dir, "`\n"));
  output.Answer({{"region", region}, {"run_dir", run_dir}, {"asked", true}});
  return ExitCode::kDone;
}

}  // namespace

Verb DrainVerb() { return {"drain", Spec(), Drain}; }

}  // namespace atl
