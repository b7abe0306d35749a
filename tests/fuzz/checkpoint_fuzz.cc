// Fuzz entry of what reads a checkpoint's directory: the input takes the place of one of its files
// (its first byte says which, and whether of an encrypted one), and Inspect and Checkpoint::Open
// look at it. Only the file's own bytes may pass for whole; Repair from the untouched copy gives
// those back.
#include <fcntl.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "base/file.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/encryption.h"
#include "checkpoint/names.h"
#include "checkpoint/repair.h"
#include "collectives/inprocess/inprocess.h"

namespace {

namespace fs = std::filesystem;
using atl::checkpoint::Repair;

// A checkpoint of three floats, made once a process, and a copy to spoil.
struct Place {
  std::string good, spoiled;
  std::vector<std::string> files;

  std::shared_ptr<const atl::checkpoint::EncryptionKey> key;

  explicit Place(bool encrypted) {
    if (encrypted) key = atl::checkpoint::EncryptionKey::FromBytes(std::string(32, 'k'));
    const char* shared = "/dev/shm";  // no disk is waited for
    std::string pattern = std::string(fs::is_directory(shared) ? shared : "/tmp") + "/atoll_XXXXXX";
    const std::string root = mkdtemp(pattern.data());
    const float values[] = {1, 2, 3};
    atl::checkpoint::SaveOptions options;
    options.directory = root + "/good";
    options.key = key;
    options.tensors = {{"a", {3}, {0, 3}}};
    options.description.round = 1;
    options.description.region = "oslo";
    options.sections = {{"model", atl::checkpoint::SectionClass::kReplicated, {{{0, 3}, values}}}};
    auto alone = atl::MakeInProcessGroup(1);
    if (!atl::MakeDirectories(options.directory).ok() ||
        !atl::checkpoint::Save(options, *alone[0]).ok()) {
      std::abort();
    }
    good = options.directory + "/round-000001";
    spoiled = root + "/spoiled/round-000001";
    for (const auto& entry : fs::recursive_directory_iterator(good)) {
      if (entry.is_regular_file()) {
        files.push_back(entry.path().lexically_relative(good).string());
      }
    }
    std::sort(files.begin(), files.end());
    fs::create_directories(root + "/spoiled");
    fs::copy(good, spoiled, fs::copy_options::recursive);
  }
  ~Place() { fs::remove_all(fs::path(good).parent_path().parent_path()); }
};

void Overwrite(const std::string& path, absl::string_view content) {
  fs::remove(path);
  const auto file = atl::OpenFile(path, O_WRONLY | O_CREAT);
  if (!file.ok() || !atl::WriteAt(*file, path, content.data(), content.size(), 0).ok())
    std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Place clear(false), encrypted(true);
  if (size < 1) return 0;
  const Place& place = data[0] < 128 ? clear : encrypted;
  const std::string& name = place.files[data[0] % place.files.size()];
  const absl::string_view content(reinterpret_cast<const char*>(data) + 1, size - 1);
  const std::string original = atl::ReadFile(place.good + "/" + name).value();
  Overwrite(place.spoiled + "/" + name, content);
  atl::checkpoint::InspectOptions inspect;
  inspect.key = place.key.get();
  const auto inspection = atl::checkpoint::Inspect(place.spoiled, inspect);
  if (!inspection.ok() || inspection->whole() != (content == original)) std::abort();
  (void)atl::checkpoint::Checkpoint::Open(place.spoiled);
  const auto opened = atl::checkpoint::Checkpoint::Open(place.spoiled, place.key.get());
  // Nobody makes another manifest without the key.
  const bool manifest = name == atl::checkpoint::kManifestName;
  if (place.key != nullptr && manifest && opened.ok() != (content == original)) std::abort();
  // A manifest that is right in itself is believed, whatever it is of.
  const bool other_manifest = atl::checkpoint::ParseManifest(content).ok();
  if (content != original && data[0] % 8 == 0 && !other_manifest) {
    atl::checkpoint::RepairOptions options;
    options.path = place.spoiled;
    options.sources.push_back(atl::checkpoint::MakeDirectorySource(place.good));
    const auto repaired = Repair(options);
    if (!repaired.ok() || !repaired->repaired) std::abort();
    if (atl::ReadFile(place.spoiled + "/" + name).value_or("") != original) std::abort();
  }
  Overwrite(place.spoiled + "/" + name, original);
  return 0;
}
