// `atoll checkpoint repair`: makes damaged checkpoints whole from other replicas.
//
//   1. DIR is one checkpoint or a directory of them; each --from is one too, and stands for the
//      same round in it;
//   2. each is repaired on its own (checkpoint/repair.h);
//   3. what no source has is named; then nothing of that checkpoint was changed: exit code 2.
#include <filesystem>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/exit_code.h"
#include "base/units.h"
#include "checkpoint/names.h"
#include "checkpoint/repair.h"
#include "checkpoint/transfer/key_file.h"
#include "checkpoint/transfer/remote_source.h"
#include "cli/bar.h"
#include "cli/checkpoint.h"
#include "cli/checkpoint_s3.h"

namespace atl {
namespace {

using checkpoint::ChunkSource;
using checkpoint::Damage;
using checkpoint::FetchedFrom;
using checkpoint::RepairResult;
using nlohmann::json;

// The copies of round `round` that `from` holds.
StatusOr<std::vector<std::unique_ptr<ChunkSource>>> SourcesIn(const std::string& from,
                                                              int64_t round,
                                                              const std::string& path) {
  std::vector<std::unique_ptr<ChunkSource>> sources;
  const auto add = [&](const std::string& candidate) {
    std::error_code error;
    if (!std::filesystem::is_directory(candidate, error)) return;
    // Its own bytes are looked at anyway.
    if (std::filesystem::equivalent(candidate, path, error)) return;
    sources.push_back(checkpoint::MakeDirectorySource(candidate));
  };
  if (IsS3(from)) {
    ASSIGN_OR_RETURN(auto source, S3SourceOf(from, round));
    sources.push_back(std::move(source));
    return sources;
  }
  if (IsOneCheckpoint(from)) {
    add(from);
    return sources;
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> directories, CheckpointDirectories(from));
  for (const std::string& directory : directories) {
    add(absl::StrCat(directory, "/", checkpoint::RoundName(round)));
  }
  return sources;
}

StatusOr<std::vector<std::string>> ToRepair(const std::string& path) {
  const bool named = checkpoint::RoundOfName(std::filesystem::path(path).filename().string())
                         .has_value();  // also one whose directory is gone
  if (named || IsOneCheckpoint(path)) return std::vector<std::string>{path};
  ASSIGN_OR_RETURN(const std::vector<std::string> directories, CheckpointDirectories(path));
  std::vector<std::string> paths, ignored;
  for (const std::string& directory : directories) {
    for (const std::string& round : RoundsIn(directory, &ignored)) paths.push_back(round);
  }
  return paths;
}

// Beside the checkpoint, unless another one is named.
std::string KeyFileOf(const std::string& path, const ParsedFlags& flags) {
  if (flags.Has("key")) return flags.Text("key");
  const std::filesystem::path place(path);
  return (place.parent_path() / checkpoint::kKeyFileName).string();
}

StatusOr<RepairResult> RepairOne(const std::string& path, const ParsedFlags& flags,
                                 Output& output) {
  checkpoint::RepairOptions options;
  options.path = path;
  options.dry_run = flags.Switch("dry_run");
  options.root = flags.Text("root");
  options.replicated_root = flags.Text("replicated_root");
  ASSIGN_OR_RETURN(const auto encryption_key, EncryptionKeyOf(flags));
  options.key = encryption_key.get();
  const auto round = checkpoint::RoundOfName(std::filesystem::path(path).filename().string());
  if (!round) {
    return UsageError(
        absl::StrCat(path, " is not named as a checkpoint (round-NNNNNN): rename it"));
  }
  for (const std::string& from : flags.List("from")) {
    absl::string_view address = from;
    if (absl::ConsumePrefix(&address, "atoll://")) {
      absl::ConsumeSuffix(&address, "/");
      ASSIGN_OR_RETURN(const Endpoint source, Endpoint::Parse(std::string(address)));
      ASSIGN_OR_RETURN(const wan::Key key, checkpoint::ReadKeyFile(KeyFileOf(path, flags)));
      ASSIGN_OR_RETURN(auto remote, checkpoint::MakeRemoteSource(source, key, *round));
      options.sources.push_back(std::move(remote));
      continue;
    }
    ASSIGN_OR_RETURN(auto sources, SourcesIn(WithoutSlash(from), *round, path));
    for (auto& source : sources) options.sources.push_back(std::move(source));
  }
  Bar bar("inspect  " + path, &output);
  options.progress = [&](int64_t done, int64_t total) { bar.Update(done, total); };
  return Repair(options);
}

json ToJson(const std::string& path, const RepairResult& result) {
  json fetched = json::array(), lost = json::array();
  for (const FetchedFrom& from : result.fetched) {
    fetched.push_back({{"source", from.source},
                       {"chunks", from.chunks},
                       {"bytes", from.bytes},
                       {"bad_chunks", from.bad}});
  }
  for (const checkpoint::ChunkId& chunk : result.lost) {
    lost.push_back({{"file", chunk.file}, {"chunk", chunk.chunk}});
  }
  return {{"path", path},
          {"whole", result.whole()},
          {"repaired", result.repaired},
          {"fetched", fetched},
          {"lost", lost},
          {"manifest_from", result.manifest_from},
          {"damages", DamagesToJson(result.damages)}};
}

void Tell(const std::string& path, const RepairResult& result, bool dry_run, Output& output) {
  const bool mendable = result.lost.empty();
  const std::string word = result.damages.empty() ? "whole   "
                           : result.repaired      ? "repaired"
                           : mendable             ? "mendable"
                                                  : "LOST    ";
  output.Print(absl::StrCat(output.PaintAnswer(mendable ? Colour::kGreen : Colour::kRed, word),
                            "  ", path, "\n"));
  for (const Damage& damage : result.damages) {
    output.Print(absl::StrCat("  ", damage.file,
                              damage.chunk >= 0 ? absl::StrCat(" chunk ", damage.chunk) : "", ": ",
                              damage.message, "\n"));
  }
  if (!result.manifest_from.empty()) {
    output.Print(absl::StrCat("  the manifest ", dry_run ? "would be" : "is", " that of ",
                              result.manifest_from, "\n"));
  }
  for (const FetchedFrom& from : result.fetched) {
    if (from.chunks + from.bad == 0) continue;
    output.Print(absl::StrCat("  ", from.chunks, " chunks (",
                              FormatBytes(static_cast<double>(from.bytes)), ") from ", from.source,
                              from.bad > 0 ? absl::StrCat("; ", from.bad,
                                                          " of its chunks are "
                                                          "damaged or another's")
                                           : "",
                              "\n"));
  }
  for (const checkpoint::ChunkId& chunk : result.lost) {
    output.Print(absl::StrCat("  no source has ", chunk.file,
                              chunk.chunk >= 0 ? absl::StrCat(" chunk ", chunk.chunk) : "", "\n"));
  }
  if (!mendable) {
    output.Print(
        "  nothing was changed. Files under optim/ are a region's own: only a copy of the same "
        "region's\n  checkpoint has them\n");
  }
}

StatusOr<ExitCode> Run(const ParsedFlags& flags, Output& output) {
  ASSIGN_OR_RETURN(const std::vector<std::string> paths,
                   ToRepair(WithoutSlash(flags.positional()[0])));
  json objects = json::array();
  bool all = true;
  for (const std::string& path : paths) {
    ASSIGN_OR_RETURN(const RepairResult result, RepairOne(path, flags, output));
    const bool good = result.whole() || (flags.Switch("dry_run") && result.lost.empty());
    all = all && good;
    objects.push_back(ToJson(path, result));
    Tell(path, result, flags.Switch("dry_run"), output);
  }
  output.Answer({{"dry_run", flags.Switch("dry_run")}, {"checkpoints", objects}});
  return all ? ExitCode::kDone : ExitCode::kUsage;
}

}  // namespace

Verb CheckpointRepairVerb() {
  return {"checkpoint repair",
          {.command = "atoll checkpoint repair",
           .arguments = "DIR",
           .summary = "make damaged checkpoints whole from other replicas",
           .details =
               "DIR is one checkpoint (it may be missing altogether), or a run directory or a "
               "directory of checkpoints, of which all are repaired. Chunks that do not match "
               "their hash, missing files, hash files and manifests are taken from the same round "
               "under each --from, in this order, and verified. The damaged checkpoint is replaced "
               "in one step by a whole one; it is never written to. Exit code 0: all are whole; 2: "
               "something could not be had, and that checkpoint was left as it was.",
           .flags = {{.name = "from",
                      .kind = FlagKind::kFiles,
                      .placeholder = "DIR|atoll://HOST:PORT",
                      .help = "checkpoints, directories of them, run directories, or who serves "
                              "them (`atoll checkpoint serve`)",
                      .required = true},
                     {.name = "key",
                      .kind = FlagKind::kText,
                      .placeholder = "FILE",
                      .help = "the servers' key, in a file of mode 0600; default .transfer-key "
                              "beside the checkpoint"},
                     {.name = "root",
                      .kind = FlagKind::kText,
                      .placeholder = "HEX",
                      .help = "the root that the checkpoint must have (`atoll checkpoint show`)"},
                     {.name = "replicated_root",
                      .kind = FlagKind::kText,
                      .placeholder = "HEX",
                      .help = "what the files that are equal in all regions must be; those of a "
                              "checkpoint with another one are taken from a source that has it "
                              "(an event of the job says so where replicas differ)"},
                     {.name = "dry_run",
                      .kind = FlagKind::kSwitch,
                      .placeholder = "",
                      .help = "say what could be had from where, change nothing"},
                     EncryptionKeyFlag(),
                     EncryptionKeyCommandFlag(),
                     JsonFlag()},
           .min_positional = 1,
           .max_positional = 1},
          Run};
}

}  // namespace atl
