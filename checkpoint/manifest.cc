#include "checkpoint/manifest.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/exit_code.h"
#include "checkpoint/sha256.h"
#include "checkpoint/strict_json.h"

namespace atl::checkpoint {
namespace {

// Puts the lines of an array together; an empty one stays on its line.
std::string Lines(const std::vector<std::string>& lines) {
  if (lines.empty()) return "[]";
  return absl::StrCat("[\n    ", absl::StrJoin(lines, ",\n    "), "\n  ]");
}

Status CheckNumber(const char* what, int64_t value) {
  if (value >= 0 && static_cast<uint64_t>(value) <= kMaxJsonNumber) return OkStatus();
  return UsageError(absl::StrCat(what, " is ", value, "; it must be from 0 to 2^53"));
}

StatusOr<std::string> Quoted(const char* what, const std::string& text) {
  StatusOr<std::string> quoted = JsonQuoted(text);
  if (!quoted.ok()) return WithExitCode(Annotate(quoted.status(), what), ExitCode::kUsage);
  return quoted;
}

// "5-8 12-13"; the key is there only if there is something to say.
std::string ReturnedText(const Description& description) {
  std::string text;
  for (const Range& range : description.returned) {
    absl::StrAppend(&text, text.empty() ? "" : " ", range.begin, "-", range.end);
  }
  return text.empty() ? "" : absl::StrCat(",\n    \"returned\": \"", text, "\"");
}

StatusOr<std::string> DescriptionText(const Description& description) {
  RETURN_IF_ERROR(CheckNumber("round", description.round));
  RETURN_IF_ERROR(CheckNumber("next_sample", description.next_sample));
  RETURN_IF_ERROR(CheckNumber("inner_steps", description.inner_steps));
  RETURN_IF_ERROR(CheckNumber("optimizer_updates", description.optimizer_updates));
  ASSIGN_OR_RETURN(const std::string digest, Quoted("digest", description.digest));
  ASSIGN_OR_RETURN(const std::string job, Quoted("job", description.job));
  ASSIGN_OR_RETURN(const std::string model, Quoted("model_yaml", description.model_yaml));
  ASSIGN_OR_RETURN(const std::string region, Quoted("region", description.region));
  // The seed has 64 bits, more than every JSON reader keeps in a number: it is a text.
  return absl::StrCat(
      "{\n    \"digest\": ", digest, ",\n    \"inner_steps\": ", description.inner_steps,
      ",\n    \"job\": ", job, ",\n    \"model_yaml\": ", model,
      ",\n    \"next_sample\": ", description.next_sample,
      ",\n    \"optimizer_updates\": ", description.optimizer_updates,
      ",\n    \"region\": ", region, ReturnedText(description),
      ",\n    \"round\": ", description.round, ",\n    \"seed\": \"", description.seed, "\"\n  }");
}

}  // namespace

std::string FileClassName(FileClass file_class) {
  switch (file_class) {
    case FileClass::kReplicated:
      return "replicated";
    case FileClass::kRegional:
      return "regional";
    case FileClass::kWorker:
      break;
  }
  return "worker";
}

FileClass ClassOfSection(SectionClass section_class) {
  return section_class == SectionClass::kReplicated ? FileClass::kReplicated : FileClass::kRegional;
}

int64_t ChunkCount(int64_t bytes) { return (bytes + kChunkBytes - 1) / kChunkBytes; }

std::string RootOf(const Manifest& manifest, bool replicated_only) {
  std::string lines;
  for (const ManifestFile& file : manifest.files) {
    if (replicated_only && file.file_class != FileClass::kReplicated) continue;
    absl::StrAppend(&lines, file.root, " ", file.bytes, " ", FileClassName(file.file_class), " ",
                    file.name, "\n");
  }
  return Sha256Hex(lines);
}

namespace {

std::string EncryptionText(const std::optional<ManifestEncryption>& encryption,
                           const std::string& mac) {
  if (!encryption) return "";
  return absl::StrCat(",\n  \"encryption\": {\n    \"cipher\": \"", kCipherName,
                      "\",\n    \"key_id\": \"", encryption->key_id, "\",\n    \"mac\": \"", mac,
                      "\",\n    \"regional_salt\": \"", encryption->regional_salt,
                      "\",\n    \"replicated_salt\": \"", encryption->replicated_salt, "\"\n  }");
}

const std::string& Zeros() {
  static const std::string* const zeros = new std::string(2 * kHashBytes, '0');
  return *zeros;
}

// The text before and behind the value of `manifest_sha256`.
struct ManifestText {
  std::string before, after;
};

StatusOr<ManifestText> TextOf(const Manifest& manifest, const std::string& mac) {
  ASSIGN_OR_RETURN(const std::string description, DescriptionText(manifest.description));
  std::vector<std::string> files, sections, tensors;
  for (const ManifestFile& file : manifest.files) {
    RETURN_IF_ERROR(CheckNumber("a file's size", file.bytes));
    files.push_back(absl::StrCat("{\"class\": \"", FileClassName(file.file_class),
                                 "\", \"name\": \"", file.name, "\", \"root\": \"", file.root,
                                 "\", \"size\": ", file.bytes, "}"));
  }
  for (const ManifestSection& section : manifest.sections) {
    sections.push_back(absl::StrCat("{\"class\": \"",
                                    FileClassName(ClassOfSection(section.section_class)),
                                    "\", \"prefix\": \"", section.prefix, "\"}"));
  }
  for (const TensorSpec& tensor : manifest.tensors) {
    RETURN_IF_ERROR(CheckNumber("a tensor's offset", tensor.elements.begin));
    ASSIGN_OR_RETURN(const std::string name, Quoted("a tensor's name", tensor.name));
    tensors.push_back(absl::StrCat("{\"name\": ", name, ", \"offset\": ", tensor.elements.begin,
                                   ", \"shape\": [", absl::StrJoin(tensor.shape, ", "), "]}"));
  }
  ManifestText text;
  text.before =
      absl::StrCat("{\n  \"chunk_bytes\": ", kChunkBytes, ",\n  \"description\": ", description,
                   EncryptionText(manifest.encryption, mac), ",\n  \"files\": ", Lines(files),
                   ",\n  \"format\": \"atoll-checkpoint\"", ",\n  \"hash\": \"", kHashName,
                   "\",\n  \"manifest_sha256\": \"");
  text.after =
      absl::StrCat("\",\n  \"replicated_root\": \"", RootOf(manifest, true), "\",\n  \"root\": \"",
                   RootOf(manifest, false), "\",\n  \"sections\": ", Lines(sections),
                   ",\n  \"tensors\": ", Lines(tensors), ",\n  \"version\": ",
                   manifest.encryption ? kEncryptedManifestVersion : kManifestVersion, "\n}\n");
  return text;
}

}  // namespace

StatusOr<std::string> ManifestTextToAuthenticate(const Manifest& manifest) {
  ASSIGN_OR_RETURN(const ManifestText parts, TextOf(manifest, Zeros()));
  return absl::StrCat(parts.before, Zeros(), parts.after);
}

StatusOr<std::string> WriteManifest(const Manifest& manifest) {
  ASSIGN_OR_RETURN(const ManifestText parts,
                   TextOf(manifest, manifest.encryption ? manifest.encryption->mac : ""));
  const auto& [before, after] = parts;
  std::string text = absl::StrCat(before, Sha256Hex(absl::StrCat(before, Zeros(), after)), after);
  if (static_cast<int64_t>(text.size()) > kMaxManifestBytes) {
    return UsageError(absl::StrCat("the manifest would take ", text.size(), " bytes; at most ",
                                   kMaxManifestBytes, " are read back"));
  }
  return text;
}

}  // namespace atl::checkpoint
