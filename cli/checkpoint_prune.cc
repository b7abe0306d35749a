// `atoll checkpoint prune`: removes older checkpoints.
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/units.h"
#include "checkpoint/retention.h"
#include "cli/bar.h"
#include "cli/checkpoint.h"
#include "cli/checkpoint_s3.h"

namespace atl {
namespace {

using checkpoint::Found;
using checkpoint::PruneResult;
using nlohmann::json;

json Paths(const std::vector<Found>& found) {
  json paths = json::array();
  for (const Found& each : found) paths.push_back(each.path);
  return paths;
}

void Tell(const PruneResult& result, bool dry_run, Output& output) {
  for (const Found& each : result.kept) output.Print(absl::StrCat("kept     ", each.path, "\n"));
  for (const Found& each : result.removed) {
    output.Print(absl::StrCat(dry_run ? "would go " : "removed  ", each.path, "\n"));
  }
  for (const std::string& line : result.failures)
    output.Print(absl::StrCat("STAYS    ", line, "\n"));
  for (const std::string& line : result.ignored)
    output.Print(absl::StrCat("not used ", line, "\n"));
}

StatusOr<ExitCode> Run(const ParsedFlags& flags, Output& output) {
  const std::string path = WithoutSlash(flags.positional()[0]);
  if (IsS3(path)) {
    if (flags.Switch("verify")) return UsageError("--verify reads disks only");
    return PruneInS3(path, flags.Count("keep"), flags.Count("keep_every"), flags.Switch("dry_run"),
                     output);
  }
  if (IsOneCheckpoint(path)) {
    return UsageError(absl::StrCat(path, " is one checkpoint; give the directory that holds it"));
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> directories, CheckpointDirectories(path));
  checkpoint::PruneOptions options;
  options.keep = flags.Count("keep");
  options.keep_every = flags.Count("keep_every");
  options.dry_run = flags.Switch("dry_run");
  options.verify = flags.Switch("verify");
  // Who has read for an hour is not to begin anew because a save runs just then.
  if (options.verify) options.lock_seconds = 600;
  json objects = json::array();
  int64_t bytes = 0;
  bool failed = false;
  for (const std::string& directory : directories) {
    options.directory = directory;
    Bar bar("verify  " + directory, &output);
    options.progress = [&](int64_t done, int64_t total) { bar.Update(done, total); };
    ASSIGN_OR_RETURN(const PruneResult result, Prune(options));
    bytes += result.bytes_removed;
    failed = failed || !result.failures.empty();
    objects.push_back({{"directory", directory},
                       {"kept", Paths(result.kept)},
                       {"removed", Paths(result.removed)},
                       {"failures", result.failures},
                       {"ignored", result.ignored},
                       {"bytes_removed", result.bytes_removed}});
    Tell(result, options.dry_run, output);
  }
  output.Answer({{"dry_run", options.dry_run}, {"bytes_removed", bytes}, {"directories", objects}});
  output.Print(absl::StrCat(options.dry_run ? "would free " : "freed ",
                            FormatBytes(static_cast<double>(bytes)), "\n"));
  return failed ? ExitCode::kEnvironment : ExitCode::kDone;
}

}  // namespace

Verb CheckpointPruneVerb() {
  return {
      "checkpoint prune",
      {.command = "atoll checkpoint prune",
       .arguments = "DIR",
       .summary = "remove older checkpoints",
       .details =
           "DIR is a directory of checkpoints, or a run directory (each region's on its own), or "
           "s3://BUCKET/PREFIX. "
           "What can't be used counts for nothing and is never removed. Refused while a save "
           "runs there; with --verify, which reads beside saves, it waits for the save's end. "
           "Killed at any moment, it leaves whole checkpoints only.",
       .flags = {{.name = "keep",
                  .kind = FlagKind::kCount,
                  .placeholder = "N",
                  .help = "the newest that stay",
                  .default_value = "3",
                  .min = 1,
                  .max = 1'000'000},
                 {.name = "keep_every",
                  .kind = FlagKind::kCount,
                  .placeholder = "ROUNDS",
                  .help = "rounds that are a multiple of this stay as well; 0: none",
                  .default_value = "0",
                  .max = 1'000'000'000'000},
                 {.name = "verify",
                  .kind = FlagKind::kSwitch,
                  .placeholder = "",
                  .help = "read the newest first: one that is damaged does not count"},
                 {.name = "dry_run",
                  .kind = FlagKind::kSwitch,
                  .placeholder = "",
                  .help = "say what would go, remove nothing"},
                 JsonFlag()},
       .min_positional = 1,
       .max_positional = 1},
      Run};
}

}  // namespace atl
