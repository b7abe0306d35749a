// `atoll checkpoint verify`: reads checkpoints, all of them or a drawn part, and compares every
// chunk with its hash.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/random.h"
#include "base/units.h"
#include "cli/bar.h"
#include "cli/checkpoint.h"

namespace atl {
namespace {

using checkpoint::Damage;
using checkpoint::Inspection;
using nlohmann::json;

StatusOr<double> ParseSample(const std::string& text) {
  double sample = 0;
  if (absl::SimpleAtod(text, &sample) && sample > 0 && sample <= 1) return sample;
  return UsageError(absl::StrCat("--sample is ", text, "; give a share above 0, up to 1"));
}

// What the path means: one checkpoint, or all in its directories, the damaged ones too.
StatusOr<std::vector<std::string>> ToVerify(const std::string& path,
                                            std::vector<std::string>* ignored) {
  if (IsOneCheckpoint(path)) return std::vector<std::string>{path};
  ASSIGN_OR_RETURN(const std::vector<std::string> directories, CheckpointDirectories(path));
  std::vector<std::string> paths;
  for (const std::string& directory : directories) {
    for (const std::string& round : RoundsIn(directory, ignored)) paths.push_back(round);
  }
  if (paths.empty()) return UsageError(absl::StrCat(path, " holds no checkpoint to verify"));
  return paths;
}

void Tell(const std::string& path, const Inspection& inspection, Output& output) {
  if (inspection.whole()) {
    output.Print(absl::StrCat(output.PaintAnswer(Colour::kGreen, "whole"), "    ", path, "  ",
                              inspection.chunks_checked, " of ", inspection.chunks, " chunks, ",
                              FormatBytes(static_cast<double>(inspection.bytes_checked)), "\n"));
  } else {
    output.Print(absl::StrCat(output.PaintAnswer(Colour::kRed, "DAMAGED"), "  ", path, "\n"));
  }
  for (const Damage& damage : inspection.damages) {
    output.Print(absl::StrCat("  ", damage.file,
                              damage.chunk >= 0 ? absl::StrCat(" chunk ", damage.chunk) : "", ": ",
                              damage.message, "\n"));
  }
  for (const std::string& name : inspection.unlisted) {
    output.Print(absl::StrCat("  ", Readable(name), " is not in the manifest (not checked)\n"));
  }
}

StatusOr<ExitCode> Run(const ParsedFlags& flags, Output& output) {
  ASSIGN_OR_RETURN(const double sample, ParseSample(flags.Text("sample")));
  ASSIGN_OR_RETURN(const auto key, EncryptionKeyOf(flags));
  checkpoint::InspectOptions inspect;
  inspect.key = key.get();
  inspect.sample = sample;
  if (flags.Has("seed")) {
    inspect.seed = static_cast<uint64_t>(flags.Count("seed"));
  } else {
    // 53 bits, so that every JSON reader can give it back.
    FillWithSystemRandom(&inspect.seed, sizeof(inspect.seed));
    inspect.seed >>= 11;
  }
  inspect.threads = flags.Has("threads")
                        ? static_cast<int>(flags.Count("threads"))
                        : static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, 8u));
  std::vector<std::string> ignored, paths;
  for (const std::string& argument : flags.positional()) {
    ASSIGN_OR_RETURN(const std::vector<std::string> more,
                     ToVerify(WithoutSlash(argument), &ignored));
    paths.insert(paths.end(), more.begin(), more.end());
  }
  json objects = json::array();
  bool whole = true;
  for (const std::string& path : paths) {
    Inspection inspection;
    {
      Bar bar("verify  " + path, &output);
      inspect.progress = [&](int64_t done, int64_t total) { bar.Update(done, total); };
      ASSIGN_OR_RETURN(inspection, Inspect(path, inspect));
    }
    whole = whole && inspection.whole();
    objects.push_back({{"path", path},
                       {"whole", inspection.whole()},
                       {"chunks", inspection.chunks},
                       {"chunks_checked", inspection.chunks_checked},
                       {"bytes_checked", inspection.bytes_checked},
                       {"damages", DamagesToJson(inspection.damages)},
                       {"unlisted", inspection.unlisted}});
    Tell(path, inspection, output);
  }
  output.Answer({{"whole", whole},
                 {"sample", sample},
                 {"seed", inspect.seed},
                 {"checkpoints", objects},
                 {"ignored", ignored}});
  for (const std::string& line : ignored) output.Print(absl::StrCat("not checked: ", line, "\n"));
  if (sample < 1) {
    output.Print(absl::StrCat("a sample of ", sample, ", drawn with --seed=", inspect.seed, "\n"));
  }
  return whole ? ExitCode::kDone : ExitCode::kUsage;
}

}  // namespace

Verb CheckpointVerifyVerb() {
  return {"checkpoint verify",
          {.command = "atoll checkpoint verify",
           .arguments = "DIR...",
           .summary = "read checkpoints and compare every chunk with its hash",
           .details =
               "DIR is one checkpoint, or a run directory or a directory of checkpoints, of which "
               "all are read. Names every file and chunk that is damaged. Exit code 0: all are "
               "whole; 2: one is not. `atoll checkpoint repair` mends them. Encrypted ones need no "
               "key for this; with it, what was forged is found too.",
           .flags = {{.name = "sample",
                      .kind = FlagKind::kText,
                      .placeholder = "SHARE",
                      .help = "read only this share of the chunks, drawn at random: a scrub",
                      .default_value = "1"},
                     {.name = "seed",
                      .kind = FlagKind::kCount,
                      .placeholder = "N",
                      .help = "draw these chunks again; without it others each time",
                      .max = int64_t{1} << 53},
                     {.name = "threads",
                      .kind = FlagKind::kCount,
                      .placeholder = "N",
                      .help = "that read and hash; each takes 4 MiB of memory. Without it: as many "
                              "as there are cores, at most 8",
                      .min = 1,
                      .max = 256},
                     EncryptionKeyFlag(),
                     EncryptionKeyCommandFlag(),
                     JsonFlag()},
           .min_positional = 1,
           .max_positional = 1000},
          Run};
}

}  // namespace atl
