// `atoll checkpoint show`: what one checkpoint says of itself, or what one safetensors file holds.
//
// A single file is read under the strict rules of checkpoint/safetensors.h, header only: exit code
// 0 and its tensors, or exit code 2 and the name of the rule that it breaks (with --json in
// error.rule).
#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/units.h"
#include "checkpoint/safetensors.h"
#include "cli/checkpoint.h"

namespace atl {
namespace {

using checkpoint::Manifest;
using checkpoint::SafetensorsHeader;
using checkpoint::SafetensorsTensor;
using nlohmann::json;

json TensorObject(const SafetensorsTensor& tensor) {
  return {{"name", tensor.name},
          {"dtype", tensor.dtype},
          {"shape", tensor.shape},
          {"data_offsets", {tensor.data.begin, tensor.data.end}}};
}

void ShowHeader(const std::string& path, int64_t bytes, const SafetensorsHeader& header,
                Output& output) {
  json tensors = json::array();
  std::string lines;
  for (const SafetensorsTensor& tensor : header.tensors) {
    if (output.json()) tensors.push_back(TensorObject(tensor));
    absl::StrAppend(&lines,
                    absl::StrFormat("  %-11s [%s]  %s\n", tensor.dtype,
                                    absl::StrJoin(tensor.shape, ", "), Readable(tensor.name)));
  }
  output.Answer({{"file", path},
                 {"bytes", bytes},
                 {"data_begin", header.data_begin},
                 {"metadata", header.metadata},
                 {"tensors", std::move(tensors)}});
  output.Print(absl::StrCat(output.PaintAnswer(Colour::kBold, path), "\n  ", header.tensors.size(),
                            " tensors, ", FormatBytes(static_cast<double>(bytes)),
                            ", data from byte ", header.data_begin, "\n"));
  for (const auto& [key, value] : header.metadata) {
    output.Print(absl::StrCat("  metadata    ", Readable(key), " = ", Readable(value), "\n"));
  }
  output.Print(lines);
}

StatusOr<ExitCode> ShowFile(const std::string& path, Output& output) {
  ASSIGN_OR_RETURN(const int64_t bytes, FileSize(path));
  const StatusOr<SafetensorsHeader> header = checkpoint::ReadSafetensorsHeader(path);
  if (header.ok()) {
    ShowHeader(path, bytes, *header, output);
    return ExitCode::kDone;
  }
  const std::string rule = checkpoint::SafetensorsRule(header.status());
  if (rule.empty()) return header.status();
  // As main tells an error, and the rule besides.
  const std::string message(header.status().message());
  output.Answer({{"error", {{"message", message}, {"exit_code", 2}, {"rule", rule}}}});
  output.Talk(absl::StrCat(output.PaintTalk(Colour::kRed, "atoll: error:"), " ", message, "\n"));
  return ExitCode::kUsage;
}

// `authentic`: its mac was checked with the key.
void ShowManifest(const std::string& path, const Manifest& manifest, bool with_tensors,
                  bool authentic, Output& output) {
  const checkpoint::Description& described = manifest.description;
  json files = json::array(), sections = json::array(), tensors = json::array();
  std::string lines;
  for (const checkpoint::ManifestFile& file : manifest.files) {
    const std::string file_class = FileClassName(file.file_class);
    files.push_back({{"name", file.name},
                     {"class", file_class},
                     {"bytes", file.bytes},
                     {"chunks", checkpoint::ChunkCount(file.bytes)},
                     {"root", file.root}});
    absl::StrAppendFormat(&lines, "  %-10s %10s  %s  %s\n", file_class,
                          FormatBytes(static_cast<double>(file.bytes)), file.root.substr(0, 12),
                          file.name);
  }
  for (const auto& section : manifest.sections) {
    sections.push_back({{"prefix", section.prefix},
                        {"class", FileClassName(ClassOfSection(section.section_class))}});
  }
  int64_t elements = 0;
  std::string tensor_lines;
  for (const checkpoint::TensorSpec& tensor : manifest.tensors) {
    elements += tensor.elements.size();
    tensors.push_back({{"name", tensor.name}, {"shape", tensor.shape}});
    if (with_tensors) {
      absl::StrAppend(&tensor_lines, "  F32  [", absl::StrJoin(tensor.shape, ", "), "]  ",
                      Readable(tensor.name), "\n");
    }
  }
  json encryption;
  std::string key_line;
  if (manifest.encryption) {
    encryption = {{"cipher", checkpoint::kCipherName},
                  {"key_id", manifest.encryption->key_id},
                  {"authentic", authentic}};
    key_line =
        absl::StrCat("  encrypted    ", checkpoint::kCipherName, ", key ",
                     manifest.encryption->key_id, authentic ? ": written with this key\n" : "\n");
  }
  output.Answer({{"path", path},
                 {"encryption", encryption},
                 {"round", described.round},
                 {"region", described.region},
                 {"job", described.job},
                 {"model", described.model_yaml},
                 {"seed", std::to_string(described.seed)},
                 {"inner_steps", described.inner_steps},
                 {"optimizer_updates", described.optimizer_updates},
                 {"next_sample", described.next_sample},
                 {"digest", described.digest},
                 {"root", RootOf(manifest, false)},
                 {"replicated_root", RootOf(manifest, true)},
                 {"bytes", BytesOf(manifest)},
                 {"parameters", elements},
                 {"sections", sections},
                 {"files", files},
                 {"tensors", tensors}});
  output.Print(absl::StrCat(
      output.PaintAnswer(Colour::kBold, path), "\n",                                         //
      "  round        ", described.round, " of job ", Readable(described.job), ", region ",  //
      Readable(described.region), "\n",                                                      //
      "  model        ", Readable(described.model_yaml), "\n",                               //
      "  trained      ", described.inner_steps, " inner steps, next sample ",                //
      described.next_sample, "\n",                                                           //
      "  digest       ", Readable(described.digest), "\n",                                   //
      "  root         ", RootOf(manifest, false), "\n",                                      //
      "  replicated   ", RootOf(manifest, true), "\n",                                       //
      "  size         ", FormatBytes(static_cast<double>(BytesOf(manifest))), ", ",          //
      FormatCount(static_cast<double>(elements)), " parameters in ", manifest.tensors.size(),
      " tensors, ", manifest.files.size(), " files\n", key_line, lines, tensor_lines));
}

StatusOr<ExitCode> Run(const ParsedFlags& flags, Output& output) {
  const std::string path = WithoutSlash(flags.positional()[0]);
  struct stat info;
  if (stat(path.c_str(), &info) != 0) return ErrnoError(errno, "cannot look at " + path);
  if (S_ISREG(info.st_mode)) return ShowFile(path, output);
  if (!S_ISDIR(info.st_mode)) {
    return UsageError(absl::StrCat(path, " is neither a file nor a directory"));
  }
  ASSIGN_OR_RETURN(const std::string one, OneCheckpoint(path));
  // Opened as a reader would: files, sizes, hash files and headers are checked, contents are not.
  ASSIGN_OR_RETURN(const auto key, EncryptionKeyOf(flags));
  RETURN_IF_ERROR(checkpoint::Checkpoint::Open(one, key.get()).status());
  ASSIGN_OR_RETURN(const Manifest manifest, ReadManifestOf(one));
  ShowManifest(one, manifest, flags.Switch("tensors"), key != nullptr, output);
  return ExitCode::kDone;
}

}  // namespace

Verb CheckpointShowVerb() {
  return {"checkpoint show",
          {.command = "atoll checkpoint show",
           .arguments = "DIR|FILE.safetensors",
           .summary = "say what a checkpoint or a safetensors file holds",
           .details =
               "DIR is one checkpoint, or a run directory or a directory of checkpoints, of which "
               "the newest is shown. A FILE is read under atoll's strict rules for safetensors: "
               "exit code 0 and its tensors, or 2 and the name of the rule that it breaks "
               "(docs/formats/checkpoint.md lists them).",
           .flags = {{.name = "tensors",
                      .kind = FlagKind::kSwitch,
                      .placeholder = "",
                      .help = "list the tensors of a checkpoint, too"},
                     EncryptionKeyFlag(),
                     EncryptionKeyCommandFlag(),
                     JsonFlag()},
           .min_positional = 1,
           .max_positional = 1},
          Run};
}

}  // namespace atl
