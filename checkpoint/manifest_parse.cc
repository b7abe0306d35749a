// The parser of MANIFEST.json; its steps are told in manifest.h.
#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <tuple>
#include <unordered_set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/exit_code.h"
#include "checkpoint/file_plan.h"
#include "checkpoint/manifest.h"
#include "checkpoint/names.h"
#include "checkpoint/sha256.h"
#include "checkpoint/strict_json.h"

namespace atl::checkpoint {
namespace {

using nlohmann::json;

// Values that a manifest may hold in all: bounds the memory of the tree that is made of it.
constexpr int64_t kMaxValues = 4'000'000;

Status Bad(absl::string_view message) { return UsageError(std::string(message)); }

// Looks at every event before a tree is made of them.
class ManifestCheck : public JsonHandler {
 public:
  std::string fault;

  void StartObject() override { Count(); }
  void EndObject() override {}
  void StartArray() override { Count(); }
  void EndArray() override {}
  void Key(std::string& key, bool duplicate) override {
    Count();
    if (duplicate) Fail(absl::StrCat("the key \"", key.substr(0, 100), "\" comes twice"));
  }
  void String(std::string&) override { Count(); }
  void Number(uint64_t value) override {
    Count();
    if (value > kMaxJsonNumber) Fail(absl::StrCat("the number ", value, " is above 2^53"));
  }
  void OddNumber(const std::string& as_written) override {
    Fail(absl::StrCat("the number ", as_written.substr(0, 40), " is not whole or is negative"));
  }
  void Literal(const char* as_written) override {
    Fail(absl::StrCat(as_written, " is no value here"));
  }

 private:
  void Count() {
    if (++values_ > kMaxValues) Fail(absl::StrCat("it holds more than ", kMaxValues, " values"));
  }
  void Fail(std::string message) {
    if (fault.empty()) fault = std::move(message);
  }
  int64_t values_ = 0;
};

// One object of the manifest: its keys are exactly the ones expected, each of its type.
class Fields {
 public:
  static StatusOr<Fields> Of(const json& object, const std::string& where,
                             std::initializer_list<const char*> keys) {
    if (!object.is_object()) return Bad(absl::StrCat(where, " is not an object"));
    for (const auto& [key, value] : object.items()) {
      if (std::find(keys.begin(), keys.end(), key) == keys.end()) {
        return Bad(absl::StrCat(where, " has an unknown key \"", key.substr(0, 100), "\""));
      }
    }
    for (const char* key : keys) {
      if (!object.contains(key)) return Bad(absl::StrCat(where, " lacks the key \"", key, "\""));
    }
    return Fields(object, where);
  }

  StatusOr<std::string> Text(const char* key) const {
    const json& value = object_->at(key);
    if (!value.is_string()) return Bad(absl::StrCat(where_, ".", key, " is not a text"));
    return value.get<std::string>();
  }
  StatusOr<int64_t> Whole(const char* key) const {
    const json& value = object_->at(key);
    if (!value.is_number_unsigned()) return Bad(absl::StrCat(where_, ".", key, " is not a number"));
    return value.get<int64_t>();
  }
  StatusOr<const json*> List(const char* key) const {
    const json& value = object_->at(key);
    if (!value.is_array()) return Bad(absl::StrCat(where_, ".", key, " is not an array"));
    return &value;
  }
  const json& At(const char* key) const { return object_->at(key); }

 private:
  Fields(const json& object, const std::string& where) : object_(&object), where_(where) {}
  const json* object_;
  std::string where_;
};

StatusOr<FileClass> ParseClass(const std::string& text) {
  for (const FileClass each : {FileClass::kReplicated, FileClass::kRegional, FileClass::kWorker}) {
    if (FileClassName(each) == text) return each;
  }
  return Bad(absl::StrCat("\"", text.substr(0, 100), "\" is not a class of files"));
}

// "5-8 12-13": not empty, ascending, apart, below `end`.
StatusOr<std::vector<Range>> ParseReturned(const std::string& text, int64_t end) {
  std::vector<Range> ranges;
  int64_t before = -1;
  for (const absl::string_view part : absl::StrSplit(text, ' ')) {
    const std::vector<absl::string_view> ends = absl::StrSplit(part, '-');
    Range range;
    const bool numbers = ends.size() == 2 && absl::SimpleAtoi(ends[0], &range.begin) &&
                         absl::SimpleAtoi(ends[1], &range.end);
    if (!numbers || range.begin <= before || range.end <= range.begin || range.end > end ||
        absl::StrCat(range.begin, "-", range.end) != part) {
      return Bad("description.returned is not ranges of samples before next_sample");
    }
    before = range.end;
    ranges.push_back(range);
  }
  return ranges;
}

StatusOr<Description> ParseDescription(const json& value) {
  const bool returned = value.is_object() && value.contains("returned");
  ASSIGN_OR_RETURN(const Fields fields,
                   returned
                       ? Fields::Of(value, "description",
                                    {"digest", "inner_steps", "job", "model_yaml", "next_sample",
                                     "optimizer_updates", "region", "returned", "round", "seed"})
                       : Fields::Of(value, "description",
                                    {"digest", "inner_steps", "job", "model_yaml", "next_sample",
                                     "optimizer_updates", "region", "round", "seed"}));
  Description description;
  ASSIGN_OR_RETURN(description.digest, fields.Text("digest"));
  ASSIGN_OR_RETURN(description.inner_steps, fields.Whole("inner_steps"));
  ASSIGN_OR_RETURN(description.job, fields.Text("job"));
  ASSIGN_OR_RETURN(description.model_yaml, fields.Text("model_yaml"));
  ASSIGN_OR_RETURN(description.next_sample, fields.Whole("next_sample"));
  if (returned) {
    ASSIGN_OR_RETURN(const std::string ranges, fields.Text("returned"));
    ASSIGN_OR_RETURN(description.returned, ParseReturned(ranges, description.next_sample));
  }
  ASSIGN_OR_RETURN(description.optimizer_updates, fields.Whole("optimizer_updates"));
  ASSIGN_OR_RETURN(description.region, fields.Text("region"));
  ASSIGN_OR_RETURN(description.round, fields.Whole("round"));
  ASSIGN_OR_RETURN(const std::string seed, fields.Text("seed"));
  if (!absl::SimpleAtoi(seed, &description.seed)) {
    return Bad("description.seed is not a number of 64 bits");
  }
  return description;
}

// So many digits, in lower case.
bool IsHexadecimal(const std::string& text, size_t digits) {
  return text.size() == digits && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

StatusOr<ManifestFile> ParseFile(const json& value) {
  ASSIGN_OR_RETURN(const Fields fields,
                   Fields::Of(value, "an entry of files", {"class", "name", "root", "size"}));
  ManifestFile file;
  ASSIGN_OR_RETURN(file.name, fields.Text("name"));
  if (!IsFileName(file.name)) {
    return Bad(absl::StrCat("the file name ",
                            JsonQuoted(file.name.substr(0, 200), true).value_or("that it holds"),
                            " is not one of a checkpoint"));
  }
  ASSIGN_OR_RETURN(const std::string class_name, fields.Text("class"));
  ASSIGN_OR_RETURN(file.file_class, ParseClass(class_name));
  ASSIGN_OR_RETURN(file.bytes, fields.Whole("size"));
  ASSIGN_OR_RETURN(file.root, fields.Text("root"));
  if (!IsHexadecimal(file.root, 2 * kHashBytes)) {
    return Bad(absl::StrCat("the root of ", file.name, " is not 64 hexadecimal digits"));
  }
  return file;
}

StatusOr<ManifestEncryption> ParseEncryption(const json& value) {
  ASSIGN_OR_RETURN(const Fields fields,
                   Fields::Of(value, "encryption",
                              {"cipher", "key_id", "mac", "regional_salt", "replicated_salt"}));
  ASSIGN_OR_RETURN(const std::string cipher, fields.Text("cipher"));
  if (cipher != kCipherName) {
    return Bad(absl::StrCat("encryption.cipher is not ", kCipherName));
  }
  ManifestEncryption encryption;
  const std::tuple<const char*, std::string*, size_t> texts[] = {
      {"key_id", &encryption.key_id, kKeyIdDigits},
      {"mac", &encryption.mac, 2 * kHashBytes},
      {"regional_salt", &encryption.regional_salt, 2 * kHashBytes},
      {"replicated_salt", &encryption.replicated_salt, 2 * kHashBytes}};
  for (const auto& [key, to, digits] : texts) {
    ASSIGN_OR_RETURN(*to, fields.Text(key));
    if (!IsHexadecimal(*to, digits)) {
      return Bad(absl::StrCat("encryption.", key, " is not ", digits, " hexadecimal digits"));
    }
  }
  return encryption;
}

StatusOr<TensorSpec> ParseTensor(const json& value) {
  ASSIGN_OR_RETURN(const Fields fields,
                   Fields::Of(value, "an entry of tensors", {"name", "offset", "shape"}));
  TensorSpec tensor;
  ASSIGN_OR_RETURN(tensor.name, fields.Text("name"));
  ASSIGN_OR_RETURN(tensor.elements.begin, fields.Whole("offset"));
  ASSIGN_OR_RETURN(const json* shape, fields.List("shape"));
  int64_t product = 1;
  for (const json& dimension : *shape) {
    if (!dimension.is_number_unsigned()) return Bad("a tensor's shape holds what is no number");
    tensor.shape.push_back(dimension.get<int64_t>());
    if (__builtin_mul_overflow(product, tensor.shape.back(), &product)) {
      return Bad(absl::StrCat("the shape of tensor ", tensor.name, " overflows"));
    }
  }
  if (__builtin_add_overflow(tensor.elements.begin, product, &tensor.elements.end)) {
    return Bad(absl::StrCat("the shape of tensor ", tensor.name, " overflows"));
  }
  return tensor;
}

StatusOr<ManifestSection> ParseSection(const json& value) {
  ASSIGN_OR_RETURN(const Fields fields,
                   Fields::Of(value, "an entry of sections", {"class", "prefix"}));
  ManifestSection section;
  ASSIGN_OR_RETURN(section.prefix, fields.Text("prefix"));
  if (!IsSectionPrefix(section.prefix)) return Bad("a section's prefix is not a name of files");
  ASSIGN_OR_RETURN(const std::string class_name, fields.Text("class"));
  ASSIGN_OR_RETURN(const FileClass file_class, ParseClass(class_name));
  if (file_class == FileClass::kWorker) {
    return Bad(absl::StrCat("section ", section.prefix, " has the class of single files"));
  }
  section.section_class =
      file_class == FileClass::kReplicated ? SectionClass::kReplicated : SectionClass::kRegional;
  return section;
}

// What single entries don't show: order, and that files and sections fit together.
Status CheckWhole(const Manifest& manifest) {
  std::unordered_set<std::string> chunk_names;
  int64_t bytes = 0;
  for (size_t i = 0; i < manifest.files.size(); ++i) {
    const std::string& name = manifest.files[i].name;
    if (manifest.files[i].bytes > kMaxCheckpointBytes - bytes) {
      return Bad(absl::StrCat("its files have more than ", kMaxCheckpointBytes, " bytes together"));
    }
    bytes += manifest.files[i].bytes;
    if (i > 0 && manifest.files[i - 1].name >= name) {
      return Bad(absl::StrCat("files are not in order, or twice, at ", name));
    }
    if (!chunk_names.insert(ChunkHashName(name)).second) {
      return Bad(absl::StrCat("two files would keep their chunk hashes in ", ChunkHashName(name)));
    }
  }
  if (manifest.sections.size() > kMaxSections) {
    return Bad(absl::StrCat("it has more than ", kMaxSections, " sections"));
  }
  std::unordered_set<std::string> prefixes;
  for (const ManifestSection& section : manifest.sections) {
    if (!prefixes.insert(section.prefix).second) {
      return Bad(absl::StrCat("section ", section.prefix, " is there twice"));
    }
    int64_t files = 0;
    for (const ManifestFile& file : manifest.files) {
      if (!IsFileOfSection(file.name, section.prefix)) continue;
      ++files;
      if (file.file_class != ClassOfSection(section.section_class)) {
        return Bad(absl::StrCat(file.name, " has another class than its section"));
      }
    }
    if (files == 0) return Bad(absl::StrCat("section ", section.prefix, " has no files"));
  }
  return CheckedTensors(manifest.tensors).status();
}

Status CheckFormat(const json& root) {
  if (!root.is_object() || !root.contains("format") || root.at("format") != "atoll-checkpoint") {
    return Bad("it is not the manifest of an atoll checkpoint (\"format\")");
  }
  const json version = root.contains("version") ? root.at("version") : json("missing");
  if (version != kManifestVersion && version != kEncryptedManifestVersion) {
    return Bad(absl::StrCat("its version is ", version.dump().substr(0, 40),
                            "; this program reads versions ", kManifestVersion, " and ",
                            kEncryptedManifestVersion, " (encrypted)",
                            ": use the atoll that wrote it, or a newer one"));
  }
  if (!root.contains("hash") || root.at("hash") != kHashName) {
    return Bad(absl::StrCat("its hash is not ", kHashName));
  }
  if (!root.contains("chunk_bytes") || root.at("chunk_bytes") != kChunkBytes) {
    return Bad(absl::StrCat("its chunk_bytes is not ", kChunkBytes));
  }
  return OkStatus();
}

StatusOr<Manifest> ParseTree(const json& root) {
  RETURN_IF_ERROR(CheckFormat(root));
  const bool encrypted = root.at("version") == kEncryptedManifestVersion;
  ASSIGN_OR_RETURN(const Fields fields,
                   encrypted ? Fields::Of(root, "it",
                                          {"chunk_bytes", "description", "encryption", "files",
                                           "format", "hash", "manifest_sha256", "replicated_root",
                                           "root", "sections", "tensors", "version"})
                             : Fields::Of(root, "it",
                                          {"chunk_bytes", "description", "files", "format", "hash",
                                           "manifest_sha256", "replicated_root", "root", "sections",
                                           "tensors", "version"}));
  Manifest manifest;
  if (encrypted) {
    ASSIGN_OR_RETURN(manifest.encryption, ParseEncryption(fields.At("encryption")));
  }
  ASSIGN_OR_RETURN(manifest.description, ParseDescription(fields.At("description")));
  ASSIGN_OR_RETURN(const json* files, fields.List("files"));
  for (const json& value : *files) {
    ASSIGN_OR_RETURN(ManifestFile file, ParseFile(value));
    manifest.files.push_back(std::move(file));
  }
  ASSIGN_OR_RETURN(const json* sections, fields.List("sections"));
  for (const json& value : *sections) {
    ASSIGN_OR_RETURN(ManifestSection section, ParseSection(value));
    manifest.sections.push_back(std::move(section));
  }
  ASSIGN_OR_RETURN(const json* tensors, fields.List("tensors"));
  for (const json& value : *tensors) {
    ASSIGN_OR_RETURN(TensorSpec tensor, ParseTensor(value));
    manifest.tensors.push_back(std::move(tensor));
  }
  RETURN_IF_ERROR(CheckWhole(manifest));
  return manifest;
}

}  // namespace

StatusOr<Manifest> ParseManifest(absl::string_view text) {
  if (static_cast<int64_t>(text.size()) > kMaxManifestBytes) {
    return Bad(
        absl::StrCat("it has ", text.size(), " bytes; at most ", kMaxManifestBytes, " are read"));
  }
  // The writer ends the text with a line feed, which the strict rules do not let pass.
  if (text.empty() || text.back() != '\n') return Bad("it is cut short");
  ManifestCheck check;
  const JsonFault fault = ParseStrictJson(text.substr(0, text.size() - 1), check);
  if (!fault.ok()) return Bad(fault.message);
  if (!check.fault.empty()) return Bad(check.fault);
  const json root = json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (root.is_discarded()) return Bad("it is not JSON");
  ASSIGN_OR_RETURN(Manifest manifest, ParseTree(root));
  ASSIGN_OR_RETURN(const std::string again, WriteManifest(manifest));
  if (again != text) {
    return Bad("it does not match its own hashes: it was changed after it was written");
  }
  return manifest;
}

}  // namespace atl::checkpoint
