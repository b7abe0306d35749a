#include "cli/checkpoint.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "checkpoint/names.h"
#include "checkpoint/strict_json.h"

namespace atl {
namespace {

namespace fs = std::filesystem;

// Names in a directory, sorted.
std::vector<std::string> NamesIn(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

bool HoldsRounds(const std::string& directory) {
  const std::vector<std::string> names = NamesIn(directory);
  return std::any_of(names.begin(), names.end(), [](const std::string& name) {
    return checkpoint::RoundOfName(name) || checkpoint::RoundOfReplacedName(name);
  });
}

}  // namespace

std::vector<Verb> CheckpointVerbs() {
  return {CheckpointLsVerb(),     CheckpointShowVerb(),  CheckpointVerifyVerb(),
          CheckpointRepairVerb(), CheckpointPruneVerb(), CheckpointExportVerb(),
          CheckpointImportVerb(), CheckpointPushVerb(),  CheckpointPullVerb(),
          CheckpointServeVerb(),  CheckpointKeygenVerb()};
}

FlagSpec EncryptionKeyFlag() {
  return {.name = "encryption_key",
          .kind = FlagKind::kText,
          .placeholder = "FILE",
          .help = "the key of encrypted checkpoints"};
}

FlagSpec EncryptionKeyCommandFlag() {
  return {.name = "encryption_key_command",
          .kind = FlagKind::kText,
          .placeholder = "COMMAND",
          .help = "a shell command that prints it"};
}

StatusOr<std::shared_ptr<const checkpoint::EncryptionKey>> EncryptionKeyOf(
    const ParsedFlags& flags) {
  using checkpoint::EncryptionKey;
  const std::string file = flags.Text("encryption_key");
  const std::string command = flags.Text("encryption_key_command");
  if (!file.empty() && !command.empty()) {
    return UsageError("give --encryption_key or --encryption_key_command, not both");
  }
  if (!file.empty()) return EncryptionKey::FromFile(file);
  if (!command.empty()) return EncryptionKey::FromCommand(command);
  return std::shared_ptr<const EncryptionKey>();
}

std::string WithoutSlash(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

std::string Readable(const std::string& name) {
  const bool plain = !name.empty() && std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return c > ' ' && c < 0x7f && c != '"' && c != '\\';
  });
  if (plain) return name;
  return checkpoint::JsonQuoted(name, /*ascii=*/true).value_or("(not UTF-8)");
}

int64_t BytesOf(const checkpoint::Manifest& manifest) {
  int64_t bytes = 0;
  for (const checkpoint::ManifestFile& file : manifest.files) bytes += file.bytes;
  return bytes;
}

bool IsOneCheckpoint(const std::string& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) return false;
  if (fs::exists(absl::StrCat(path, "/", checkpoint::kManifestName), error)) return true;
  const std::string name = fs::path(path).filename().string();
  return checkpoint::RoundOfName(name) || checkpoint::RoundOfReplacedName(name);
}

StatusOr<std::vector<std::string>> CheckpointDirectories(const std::string& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    return UsageError(
        absl::StrCat(path, fs::exists(path, error) ? " is no directory" : " does not exist"));
  }
  if (HoldsRounds(path) || fs::path(path).filename() == "checkpoints") {
    return std::vector<std::string>{path};
  }
  const std::string inside = absl::StrCat(path, "/checkpoints");
  if (fs::is_directory(inside, error)) return std::vector<std::string>{inside};
  std::vector<std::string> found;
  for (const std::string& name : NamesIn(path)) {
    const std::string region = absl::StrCat(path, "/", name, "/checkpoints");
    if (fs::is_directory(region, error)) found.push_back(region);
  }
  if (!found.empty()) return found;
  return UsageError(absl::StrCat(path,
                                 " holds no checkpoints: give a run directory, a directory of "
                                 "checkpoints, or a checkpoint (round-NNNNNN)"));
}

std::vector<std::string> RoundsIn(const std::string& directory, std::vector<std::string>* ignored) {
  std::map<int64_t, std::string> rounds, replaced;
  for (const std::string& name : NamesIn(directory)) {
    const std::string path = absl::StrCat(directory, "/", name);
    if (const auto round = checkpoint::RoundOfName(name)) {
      rounds[*round] = path;
    } else if (const auto moved = checkpoint::RoundOfReplacedName(name)) {
      replaced[*moved] = path;
    } else if (name != ".lock" && !checkpoint::IsOfTransfers(name)) {
      ignored->push_back(path);
    }
  }
  rounds.merge(replaced);
  std::vector<std::string> paths;
  for (auto round = rounds.rbegin(); round != rounds.rend(); ++round) {
    paths.push_back(round->second);
  }
  return paths;
}

nlohmann::json DamagesToJson(const std::vector<checkpoint::Damage>& damages) {
  nlohmann::json list = nlohmann::json::array();
  for (const checkpoint::Damage& damage : damages) {
    list.push_back(
        {{"kind", DamageKindName(damage.kind)},
         {"file", damage.file},
         {"chunk", damage.chunk < 0 ? nlohmann::json(nullptr) : nlohmann::json(damage.chunk)},
         {"message", damage.message}});
  }
  return list;
}

StatusOr<std::string> OneCheckpoint(const std::string& path) {
  if (IsOneCheckpoint(path)) return path;
  ASSIGN_OR_RETURN(const std::vector<std::string> directories, CheckpointDirectories(path));
  std::string newest;
  int64_t newest_round = -1;
  for (const std::string& directory : directories) {
    const std::vector<checkpoint::Found> found = checkpoint::List(directory, nullptr);
    if (found.empty() || found[0].description.round <= newest_round) continue;
    newest_round = found[0].description.round;
    newest = found[0].path;
  }
  if (newest_round < 0) {
    return UsageError(
        absl::StrCat(path, " holds no complete checkpoint (see `atoll checkpoint ls ", path, "`)"));
  }
  return newest;
}

StatusOr<checkpoint::Manifest> ReadManifestOf(const std::string& path) {
  const std::string name = absl::StrCat(path, "/", checkpoint::kManifestName);
  ASSIGN_OR_RETURN(const std::string text, ReadFile(name, checkpoint::kMaxManifestBytes));
  StatusOr<checkpoint::Manifest> manifest = checkpoint::ParseManifest(text);
  if (!manifest.ok()) return Annotate(manifest.status(), name + " can't be used");
  return manifest;
}

}  // namespace atl
