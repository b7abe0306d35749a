// `atoll checkpoint pull`: a checkpoint from other places (checkpoint/transfer/pull.h).
#include <nlohmann/json.hpp>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "base/units.h"
#include "checkpoint/transfer/key_file.h"
#include "checkpoint/transfer/pull.h"
#include "cli/bar.h"
#include "cli/checkpoint.h"
#include "cli/checkpoint_s3.h"

namespace atl {
namespace {

using checkpoint::DownloadState;
using checkpoint::PullOptions;
using checkpoint::PullResult;
using checkpoint::SourceState;

CommandSpec Spec() {
  CommandSpec spec;
  spec.command = "atoll checkpoint pull";
  spec.arguments = "HOST:PORT... DIR | s3://BUCKET/PREFIX DIR";
  spec.summary = "fetch a checkpoint from those who serve it, several at once";
  spec.details =
      "DIR is a directory of checkpoints; the checkpoint appears there as round-000041 when all of "
      "it is verified and durable, and not before. A pull that was cut short goes on from where it "
      "was when the same command is given again. Without --root the sources vouch for themselves: "
      "they must agree about the round. A rate in the file DIR/.rate-cap, like 20mbit or none, "
      "counts "
      "instead of --rate_cap as soon as it is there. From an object store (s3://; keys and "
      "endpoint as for "
      "push) --round and --root count; a pull that was cut short begins anew.";
  spec.min_positional = 2;
  spec.max_positional = 33;
  spec.flags = {
      {.name = "key",
       .placeholder = "FILE",
       .help = "the sources' key, in a file of mode 0600; default DIR/.transfer-key"},
      {.name = "round", .kind = FlagKind::kCount, .placeholder = "N", .help = "default the newest"},
      {.name = "root",
       .placeholder = "HEX",
       .help = "the checkpoint whose manifest's SHA-256, root or replicated_root this is"},
      {.name = "rate_cap", .placeholder = "RATE", .help = "at most this, like 100mbit, of all"},
      {.name = "plain",
       .kind = FlagKind::kSwitch,
       .placeholder = "",
       .help = "do not encrypt (as the sources do not); contents are verified all the same"},
      JsonFlag(),
  };
  return spec;
}

nlohmann::json ToJson(const PullResult& result) {
  const DownloadState& download = result.download;
  nlohmann::json sources = nlohmann::json::array();
  for (const SourceState& source : download.sources) {
    sources.push_back({{"source", source.name},
                       {"bytes", source.bytes},
                       {"wrong_chunks", source.wrong},
                       {"trouble", source.trouble}});
  }
  return {{"path", result.path},
          {"round", result.round},
          {"manifest_file_sha256", result.manifest_hash},
          {"vouched_for_by", result.vouched},
          {"was_there", result.was_there},
          {"bytes", download.wanted},
          {"resumed_bytes", download.resumed},
          {"received_bytes", download.received},
          {"again_bytes", download.again},
          {"seconds", download.seconds},
          {"sources", sources}};
}

std::string ToText(const PullResult& result, const Output& output) {
  const DownloadState& download = result.download;
  std::string text =
      absl::StrCat(output.PaintAnswer(Colour::kBold, result.path),
                   result.was_there ? " is there already" : "", "\n  vouched for by ",
                   result.vouched, "\n  sha256 of MANIFEST.json  ", result.manifest_hash, "\n");
  if (result.was_there) return text;
  const double rate =
      download.seconds > 0 ? 8 * static_cast<double>(download.received) / download.seconds : 0;
  absl::StrAppend(&text, "  ", FormatBytes(static_cast<double>(download.wanted)), " in ",
                  FormatDuration(download.seconds), ", ", FormatRate(rate), "; ",
                  FormatBytes(static_cast<double>(download.resumed)), " were here, ",
                  FormatBytes(static_cast<double>(download.again)), " came again\n");
  for (const SourceState& source : download.sources) {
    absl::StrAppendFormat(&text, "  %-28s %12s%s%s\n", source.name,
                          FormatBytes(static_cast<double>(source.bytes)),
                          source.wrong > 0 ? absl::StrCat("  ", source.wrong, " wrong chunks") : "",
                          source.trouble.empty() ? "" : "  " + source.trouble);
  }
  return text;
}

StatusOr<PullOptions> OptionsOf(const ParsedFlags& flags) {
  PullOptions options;
  const std::vector<std::string>& words = flags.positional();
  options.directory = WithoutSlash(words.back());
  for (size_t i = 0; i + 1 < words.size(); ++i) {
    absl::string_view word = words[i];
    absl::ConsumePrefix(&word, "atoll://");
    absl::ConsumeSuffix(&word, "/");
    ASSIGN_OR_RETURN(Endpoint source, Endpoint::Parse(std::string(word)));
    options.sources.push_back(std::move(source));
  }
  const std::string key = flags.Has("key")
                              ? flags.Text("key")
                              : absl::StrCat(options.directory, "/", checkpoint::kKeyFileName);
  ASSIGN_OR_RETURN(options.key, checkpoint::ReadKeyFile(key));
  if (flags.Has("round")) options.round = flags.Count("round");
  options.root = flags.Text("root");
  if (flags.Has("rate_cap")) {
    ASSIGN_OR_RETURN(const int64_t bits, ParseRateBitsPerSecond(flags.Text("rate_cap")));
    options.rate_cap = static_cast<double>(bits) / 8;
  }
  options.encrypt = !flags.Switch("plain");
  return options;
}

StatusOr<ExitCode> Run(const ParsedFlags& flags, Output& output) {
  const std::vector<std::string>& words = flags.positional();
  if (IsS3(words[0])) {
    if (words.size() != 2) return UsageError("give one s3://BUCKET/PREFIX, and DIR");
    return PullFromS3(words[0], WithoutSlash(words[1]),
                      flags.Has("round") ? std::optional(flags.Count("round")) : std::nullopt,
                      flags.Text("root"), output);
  }
  ASSIGN_OR_RETURN(PullOptions options, OptionsOf(flags));
  StatusOr<PullResult> result = absl::UnknownError("it did not run");
  {
    Bar bar("pull  " + options.directory, &output);
    options.progress = [&](const DownloadState& state) {
      bar.Update(state.verified, state.wanted);
    };
    result = Pull(options);
  }
  RETURN_IF_ERROR(result.status());
  output.Print(ToText(*result, output));
  output.Answer(ToJson(*result));
  return ExitCode::kDone;
}

}  // namespace

Verb CheckpointPullVerb() { return {"checkpoint pull", Spec(), Run}; }

}  // namespace atl
