// `atoll checkpoint ls`: which checkpoints there are, newest first, and what is there besides.
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/units.h"
#include "cli/checkpoint.h"
#include "cli/checkpoint_s3.h"

namespace atl {
namespace {

using checkpoint::Found;
using checkpoint::Manifest;

// One line, or one object, of the answer. A manifest that vanished since List saw it: left out.
void Add(const Found& found, nlohmann::json* objects, std::string* text) {
  const StatusOr<Manifest> manifest = ReadManifestOf(found.path);
  if (!manifest.ok()) return;
  const checkpoint::Description& described = manifest->description;
  std::vector<std::string> sections;
  for (const auto& section : manifest->sections) sections.push_back(section.prefix);
  objects->push_back({{"path", found.path},
                      {"round", described.round},
                      {"region", described.region},
                      {"job", described.job},
                      {"bytes", BytesOf(*manifest)},
                      {"files", manifest->files.size()},
                      {"sections", sections},
                      {"inner_steps", described.inner_steps},
                      {"next_sample", described.next_sample},
                      {"digest", described.digest},
                      {"root", RootOf(*manifest, false)},
                      {"replicated_root", RootOf(*manifest, true)}});
  absl::StrAppendFormat(text, " %8d  %-16s %-16s %10s %10d  %s  %s\n", described.round,
                        Readable(described.region), Readable(described.job),
                        FormatBytes(static_cast<double>(BytesOf(*manifest))), described.inner_steps,
                        RootOf(*manifest, true).substr(0, 12), found.path);
}

StatusOr<ExitCode> Run(const ParsedFlags& flags, Output& output) {
  const std::string path = WithoutSlash(flags.positional()[0]);
  if (IsS3(path)) return ListInS3(path, output);
  std::vector<std::string> ignored;
  nlohmann::json objects = nlohmann::json::array();
  std::string text;
  if (IsOneCheckpoint(path)) {
    ASSIGN_OR_RETURN(const auto opened, checkpoint::Checkpoint::Open(path));
    Add({path, opened->description(), opened->key_id()}, &objects, &text);
  } else {
    ASSIGN_OR_RETURN(const std::vector<std::string> directories, CheckpointDirectories(path));
    for (const std::string& directory : directories) {
      for (const Found& found : checkpoint::List(directory, &ignored)) Add(found, &objects, &text);
    }
  }
  output.Answer({{"checkpoints", objects}, {"ignored", ignored}});
  if (!text.empty()) {
    output.Print(output.PaintAnswer(
        Colour::kBold, absl::StrFormat(" %8s  %-16s %-16s %10s %10s  %-12s  %s\n", "ROUND",
                                       "REGION", "JOB", "SIZE", "STEPS", "REPLICATED", "PATH")));
    output.Print(text);
  } else {
    output.Print(absl::StrCat("no complete checkpoint in ", path, "\n"));
  }
  for (const std::string& line : ignored) output.Print(absl::StrCat(" not used: ", line, "\n"));
  return ExitCode::kDone;
}

}  // namespace

Verb CheckpointLsVerb() {
  return {
      "checkpoint ls",
      {.command = "atoll checkpoint ls",
       .arguments = "DIR",
       .summary = "list checkpoints",
       .details = "DIR is a run directory (the checkpoints of all of its regions), a directory of "
                  "checkpoints, or one checkpoint; or s3://BUCKET/PREFIX. REPLICATED is the "
                  "beginning of the hash over what "
                  "all regions hold alike: it is the same for the same round of one job. What is "
                  "there but can't be used is told with its reason. Contents are not read: `atoll "
                  "checkpoint verify` does.",
       .flags = {JsonFlag()},
       .min_positional = 1,
       .max_positional = 1},
      Run};
}

}  // namespace atl
