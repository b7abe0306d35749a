// `atoll checkpoint push`, and s3:// as a place for pull, repair, ls and prune. Keys, region and
// endpoint come from the environment (checkpoint/s3/client.h).
#include "cli/checkpoint_s3.h"

#include <sys/stat.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/units.h"
#include "checkpoint/manifest.h"
#include "checkpoint/names.h"
#include "checkpoint/repair.h"
#include "checkpoint/s3/push.h"
#include "checkpoint/s3/source.h"
#include "checkpoint/transfer/source_pull.h"
#include "cli/bar.h"
#include "cli/checkpoint.h"

namespace atl {
namespace {

using checkpoint::S3Place;
using checkpoint::S3Round;
using checkpoint::S3Settings;
using nlohmann::json;

std::string Bytes(int64_t bytes) { return FormatBytes(static_cast<double>(bytes)); }

// The round that a place names itself.
std::optional<int64_t> RoundOf(const S3Place& place) {
  const std::vector<std::string> parts = absl::StrSplit(place.prefix, '/');
  return checkpoint::RoundOfName(parts.back());
}

// The checkpoints that a place means, newest first.
StatusOr<std::vector<S3Round>> RoundsOf(const S3Settings& settings, const S3Place& place) {
  const auto round = RoundOf(place);
  if (!round) return ListS3Rounds(settings, place);
  checkpoint::S3Client client(settings, place.bucket);
  const auto manifest = client.Head(place.In(checkpoint::kManifestName).prefix);
  if (!manifest.ok() && !absl::IsNotFound(manifest.status())) return manifest.status();
  return std::vector<S3Round>{{*round, place, manifest.ok()}};
}

StatusOr<ExitCode> Push(const ParsedFlags& flags, Output& output) {
  checkpoint::PushOptions options;
  ASSIGN_OR_RETURN(options.path, OneCheckpoint(WithoutSlash(flags.positional()[0])));
  ASSIGN_OR_RETURN(options.directory, S3Place::Parse(flags.positional()[1]));
  if (RoundOf(options.directory)) {
    return UsageError("give the directory of checkpoints: push makes round-NNNNNN in it");
  }
  ASSIGN_OR_RETURN(options.settings, S3Settings::FromEnvironment(flags.Text("endpoint")));
  options.replace = flags.Switch("replace");
  options.threads = static_cast<int>(flags.Count("threads"));
  StatusOr<checkpoint::PushResult> pushed = absl::UnknownError("it did not run");
  {
    Bar bar("push  " + options.path, &output);
    options.progress = [&](int64_t done, int64_t total) { bar.Update(done, total); };
    pushed = PushToS3(options);
  }
  RETURN_IF_ERROR(pushed.status());
  output.Print(absl::StrCat(pushed->place.ToString(),
                            pushed->was_there ? " was there already" : " is there", ": ",
                            Bytes(pushed->bytes), ", of which ",
                            Bytes(pushed->bytes - pushed->bytes_there), " were sent\n"));
  output.Answer({{"path", pushed->place.ToString()},
                 {"round", pushed->round},
                 {"bytes", pushed->bytes},
                 {"bytes_sent", pushed->bytes - pushed->bytes_there},
                 {"was_there", pushed->was_there}});
  return ExitCode::kDone;
}

ExitCode TellPulled(const checkpoint::SourcePullResult& pulled, const std::string& source,
                    int64_t round, bool was_there, Output& output) {
  for (const checkpoint::ChunkId& lost : pulled.lost) {
    output.Print(absl::StrCat("  ", source, " lacks ", lost.file,
                              lost.chunk >= 0 ? absl::StrCat(" chunk ", lost.chunk) : "",
                              ", or has it damaged\n"));
  }
  const bool whole = pulled.lost.empty();
  const std::string before =
      pulled.resumed > 0 ? absl::StrCat(", ", Bytes(pulled.resumed), " were here") : "";
  output.Print(absl::StrCat(pulled.path, whole ? " is there and verified: " : " is not whole: ",
                            Bytes(pulled.received), " from ", source, before, "\n"));
  output.Answer({{"path", pulled.path},
                 {"round", round},
                 {"source", source},
                 {"received_bytes", pulled.received},
                 {"resumed_bytes", pulled.resumed},
                 {"whole", whole},
                 {"was_there", was_there}});
  return whole ? ExitCode::kDone : ExitCode::kUsage;
}

// What is not there of a checkpoint that has the source's manifest, if anything.
StatusOr<ExitCode> MendFromS3(std::unique_ptr<checkpoint::ChunkSource> source,
                              const std::string& path, int64_t round, const std::string& root,
                              Output& output) {
  const std::string name = source->name();
  checkpoint::RepairOptions options;
  options.path = path;
  options.root = root;
  options.sources.push_back(std::move(source));
  StatusOr<checkpoint::RepairResult> result = absl::UnknownError("it did not run");
  {
    Bar bar("check  " + path, &output);
    options.progress = [&](int64_t done, int64_t total) { bar.Update(done, total); };
    result = Repair(options);
  }
  RETURN_IF_ERROR(result.status());
  checkpoint::SourcePullResult pulled;
  pulled.path = path;
  for (const checkpoint::FetchedFrom& from : result->fetched) pulled.received += from.bytes;
  pulled.lost = result->lost;
  return TellPulled(pulled, name, round, result->damages.empty(), output);
}

StatusOr<ExitCode> GetFromS3(std::unique_ptr<checkpoint::ChunkSource> source,
                             const std::string& manifest, const std::string& directory,
                             int64_t round, const std::string& root, Output& output) {
  checkpoint::SourcePullOptions options;
  options.source = source.get();
  options.manifest_text = manifest;
  options.directory = directory;
  options.round = round;
  options.root = root;
  StatusOr<checkpoint::SourcePullResult> pulled = absl::UnknownError("it did not run");
  {
    Bar bar("pull  " + source->name(), &output);
    options.progress = [&](int64_t done, int64_t total) { bar.Update(done, total); };
    pulled = PullFromSource(options);
  }
  RETURN_IF_ERROR(pulled.status());
  return TellPulled(*pulled, source->name(), round, false, output);
}

}  // namespace

bool IsS3(const std::string& place) { return S3Place::Is(place); }

StatusOr<std::unique_ptr<checkpoint::ChunkSource>> S3SourceOf(const std::string& text,
                                                              int64_t round) {
  ASSIGN_OR_RETURN(const S3Place place, S3Place::Parse(text));
  ASSIGN_OR_RETURN(const S3Settings settings, S3Settings::FromEnvironment(""));
  return MakeS3Source(settings, RoundOf(place) ? place : place.In(checkpoint::RoundName(round)));
}

StatusOr<ExitCode> PullFromS3(const std::string& text, const std::string& directory,
                              std::optional<int64_t> round, const std::string& root,
                              Output& output) {
  ASSIGN_OR_RETURN(const S3Place place, S3Place::Parse(text));
  ASSIGN_OR_RETURN(const S3Settings settings, S3Settings::FromEnvironment(""));
  ASSIGN_OR_RETURN(const std::vector<S3Round> rounds, RoundsOf(settings, place));
  const auto found = std::find_if(rounds.begin(), rounds.end(), [&](const S3Round& one) {
    return one.complete && (!round || one.round == *round);
  });
  if (found == rounds.end()) {
    return UsageError(absl::StrCat(text, " holds no complete checkpoint",
                                   round ? absl::StrCat(" of round ", *round) : std::string(),
                                   " (see `atoll checkpoint ls ", text, "`)"));
  }
  RETURN_IF_ERROR(MakeDirectories(directory));
  auto source = MakeS3Source(settings, found->place);
  ASSIGN_OR_RETURN(const std::string manifest, source->ReadManifest());
  const std::string path = absl::StrCat(directory, "/", checkpoint::RoundName(found->round));
  struct stat info;
  if (lstat(path.c_str(), &info) != 0) {
    return GetFromS3(std::move(source), manifest, directory, found->round, root, output);
  }
  // Repair trusts a manifest that is here already.
  const StatusOr<std::string> there =
      ReadFile(absl::StrCat(path, "/", checkpoint::kManifestName), checkpoint::kMaxManifestBytes);
  if (!absl::IsNotFound(there.status()) && (!there.ok() || *there != manifest)) {
    return UsageError(absl::StrCat(
        path, " is there and is another one. Pull into another directory, or remove it"));
  }
  return MendFromS3(std::move(source), path, found->round, root, output);
}

StatusOr<ExitCode> ListInS3(const std::string& text, Output& output) {
  ASSIGN_OR_RETURN(const S3Place place, S3Place::Parse(text));
  ASSIGN_OR_RETURN(const S3Settings settings, S3Settings::FromEnvironment(""));
  ASSIGN_OR_RETURN(const std::vector<S3Round> rounds, RoundsOf(settings, place));
  json list = json::array(), ignored = json::array();
  for (const S3Round& one : rounds) {
    if (!one.complete) {
      ignored.push_back(one.place.ToString());
      output.Print(absl::StrCat("ignored: ", one.place.ToString(),
                                " has no manifest: a push that was cut short; push again\n"));
      continue;
    }
    const auto source = MakeS3Source(settings, one.place);
    ASSIGN_OR_RETURN(const std::string manifest_text, source->ReadManifest());
    const auto manifest = checkpoint::ParseManifest(manifest_text);
    if (!manifest.ok()) {
      ignored.push_back(one.place.ToString());
      output.Print(
          absl::StrCat("ignored: ", one.place.ToString(), ": ", manifest.status().message(), "\n"));
      continue;
    }
    output.Print(absl::StrCat(one.place.ToString(), "  ", Bytes(BytesOf(*manifest)), "  job ",
                              Readable(manifest->description.job), ", region ",
                              Readable(manifest->description.region), "\n"));
    list.push_back({{"path", one.place.ToString()},
                    {"round", one.round},
                    {"bytes", BytesOf(*manifest)},
                    {"root", RootOf(*manifest, false)},
                    {"job", manifest->description.job},
                    {"region", manifest->description.region}});
  }
  output.Answer({{"checkpoints", list}, {"ignored", ignored}});
  return ExitCode::kDone;
}

StatusOr<ExitCode> PruneInS3(const std::string& text, int64_t keep, int64_t keep_every,
                             bool dry_run, Output& output) {
  ASSIGN_OR_RETURN(const S3Place place, S3Place::Parse(text));
  if (RoundOf(place)) return UsageError("give the directory of checkpoints, not one of them");
  ASSIGN_OR_RETURN(const S3Settings settings, S3Settings::FromEnvironment(""));
  ASSIGN_OR_RETURN(const std::vector<S3Round> rounds, ListS3Rounds(settings, place));
  json removed = json::array();
  int64_t newest = 0;
  for (const S3Round& one : rounds) {
    if (!one.complete) continue;  // it may be on its way
    const bool stays = ++newest <= keep || (keep_every > 0 && one.round % keep_every == 0);
    if (stays) continue;
    if (!dry_run) RETURN_IF_ERROR(RemoveFromS3(settings, one.place));
    removed.push_back(one.place.ToString());
    output.Print(absl::StrCat(dry_run ? "would go  " : "removed   ", one.place.ToString(), "\n"));
  }
  output.Answer({{"removed", removed}, {"dry_run", dry_run}});
  return ExitCode::kDone;
}

Verb CheckpointPushVerb() {
  return {"checkpoint push",
          {.command = "atoll checkpoint push",
           .arguments = "DIR s3://BUCKET/PREFIX",
           .summary = "copy a checkpoint into an object store",
           .details =
               "DIR is one checkpoint, or a directory of them or a run directory, of which the "
               "newest is taken. Every chunk is compared with its hash as it is read; the manifest "
               "goes last, so a checkpoint that is there half does not exist. The same command "
               "goes on with a push that was cut short. Keys, region and endpoint: "
               "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE and ~/.aws/credentials, "
               "AWS_REGION, AWS_ENDPOINT_URL_S3.",
           .flags = {{.name = "endpoint",
                      .placeholder = "URL",
                      .help = "the store, where it is not Amazon's; else $AWS_ENDPOINT_URL_S3"},
                     {.name = "replace",
                      .kind = FlagKind::kSwitch,
                      .placeholder = "",
                      .help = "take the place of another checkpoint of this round"},
                     {.name = "threads",
                      .kind = FlagKind::kCount,
                      .placeholder = "N",
                      .help = "parts that are sent at a time; each takes 16 MiB of memory",
                      .default_value = "4",
                      .min = 1,
                      .max = 64},
                     JsonFlag()},
           .min_positional = 2,
           .max_positional = 2},
          Push};
}

}  // namespace atl
