#include "checkpoint/inspect.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <filesystem>
#include <set>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/random.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/chunks.h"
#include "checkpoint/names.h"
#include "checkpoint/sha256.h"

namespace atl::checkpoint {
namespace {

namespace fs = std::filesystem;

// One walk through a checkpoint.
class Walk {
 public:
  Walk(const std::string& path, const InspectOptions& options) : path_(path), options_(options) {}

  Inspection Run() {
    if (options_.instead_because.empty()) {
      ReadManifest();
    } else {
      Add(DamageKind::kManifest, kManifestName, -1, options_.instead_because);
    }
    if (!result_.manifest && options_.substitute != nullptr) {
      result_.manifest = *options_.substitute;
    }
    if (!result_.manifest) return std::move(result_);
    const std::vector<ManifestFile>& files = result_.manifest->files;
    result_.hashes.resize(files.size());
    std::vector<bool> hashed(files.size());
    for (size_t i = 0; i < files.size(); ++i) {
      result_.chunks += ChunkCount(files[i].bytes);
      hashed[i] = ReadHashes(i);
    }
    Draw(hashed);
    CheckChunks();
    for (size_t i = 0; i < files.size(); ++i) {
      hashed[i] ? CheckFile(i) : CheckWithoutHashes(i);
    }
    result_.unlisted = UnlistedFiles(path_, *result_.manifest);
    if (result_.damages.empty()) {
      const Status opened = Checkpoint::Open(path_, options_.key).status();
      if (!opened.ok()) Add(DamageKind::kContent, kManifestName, -1, opened.message());
    }
    return std::move(result_);
  }

 private:
  void Add(DamageKind kind, const std::string& file, int64_t chunk, absl::string_view message) {
    result_.damages.push_back({kind, file, chunk, std::string(message)});
  }

  void ReadManifest() {
    const StatusOr<std::string> text =
        ReadFile(absl::StrCat(path_, "/", kManifestName), kMaxManifestBytes);
    if (!text.ok()) {
      Add(DamageKind::kManifest, kManifestName, -1,
          absl::IsNotFound(text.status()) ? absl::string_view("it is missing")
                                          : text.status().message());
      return;
    }
    StatusOr<Manifest> manifest = ParseManifest(*text);
    if (!manifest.ok()) {
      Add(DamageKind::kManifest, kManifestName, -1, manifest.status().message());
      return;
    }
    result_.manifest = *std::move(manifest);
  }

  bool ReadHashes(size_t index) {
    const ManifestFile& file = result_.manifest->files[index];
    StatusOr<std::string> hashes =
        ReadFile(absl::StrCat(path_, "/", ChunkHashName(file.name)),
                 ChunkCount(file.bytes) * static_cast<int64_t>(kHashBytes));
    if (!hashes.ok() || Sha256Hex(*hashes) != file.root) return false;
    result_.hashes[index] = *std::move(hashes);
    return true;
  }

  // Which chunks of which files are read. Files without hashes are read whole.
  void Draw(const std::vector<bool>& hashed) {
    const std::vector<ManifestFile>& files = result_.manifest->files;
    drawn_.resize(files.size());
    int64_t base = 0;
    size_t index = 0;
    for (const int64_t chunk : DrawChunks(result_.chunks, options_.sample, options_.seed)) {
      while (chunk >= base + ChunkCount(files[index].bytes))
        base += ChunkCount(files[index++].bytes);
      if (hashed[index]) drawn_[index].push_back(chunk - base);
    }
    for (size_t i = 0; i < files.size(); ++i) {
      if (!hashed[i]) bytes_total_ += files[i].bytes;
      for (const int64_t each : drawn_[i]) bytes_total_ += ChunkRange(each, files[i].bytes).size();
    }
  }

  // The reader of a file that is there; tells what is wrong with it as a whole.
  StatusOr<ChunkReader> OpenListed(const ManifestFile& file, int64_t* bytes_there) {
    const std::string path = absl::StrCat(path_, "/", file.name);
    const StatusOr<int64_t> bytes = FileSize(path);
    StatusOr<ChunkReader> reader = ChunkReader::Open(path, file.bytes);
    if (!bytes.ok() || !reader.ok()) {
      const Status& status = bytes.ok() ? reader.status() : bytes.status();
      Add(DamageKind::kMissing, file.name, -1,
          absl::IsNotFound(status) ? absl::string_view("it is missing") : status.message());
      return status;
    }
    if (*bytes != file.bytes) {
      Add(DamageKind::kSize, file.name, -1,
          absl::StrCat("it has ", *bytes, " bytes instead of ", file.bytes));
    }
    *bytes_there = *bytes;
    return reader;
  }

  void Checked(int64_t bytes) {
    MutexLock lock(&mutex_);
    ++result_.chunks_checked;
    result_.bytes_checked += bytes;
    if (options_.progress) options_.progress(result_.bytes_checked, bytes_total_);
  }

  // What is wrong with one chunk that was drawn; nothing where its file as a whole is not there.
  std::optional<Damage> CheckChunk(size_t index, int64_t chunk, StatusOr<ChunkReader>* reader) {
    const ManifestFile& file = result_.manifest->files[index];
    const auto damage = [&](DamageKind kind, absl::string_view message) {
      return Damage{kind, file.name, chunk, std::string(message)};
    };
    const Range range = ChunkRange(chunk, file.bytes);
    const StatusOr<int64_t> bytes_there = FileSize(absl::StrCat(path_, "/", file.name));
    if (!bytes_there.ok()) return std::nullopt;
    Checked(range.size());
    if (range.end > *bytes_there) {
      return damage(DamageKind::kChunk,
                    absl::StrCat("bytes ", range.begin, " to ", range.end, " are not all there"));
    }
    if (!reader->ok()) return damage(DamageKind::kUnreadable, reader->status().message());
    const StatusOr<absl::string_view> bytes = (*reader)->Read(chunk);
    if (!bytes.ok()) return damage(DamageKind::kUnreadable, bytes.status().message());
    const absl::string_view hashes = result_.hashes[index];
    if (Sha256(*bytes) == hashes.substr(chunk * kHashBytes, kHashBytes)) return std::nullopt;
    return damage(DamageKind::kChunk, absl::StrCat("bytes ", range.begin, " to ", range.end,
                                                   " do not match their hash"));
  }

  // Fills chunk_damages_. Nothing else of the walk changes meanwhile.
  void CheckChunks() {
    const std::vector<ManifestFile>& files = result_.manifest->files;
    std::vector<std::pair<size_t, int64_t>> work;
    for (size_t i = 0; i < files.size(); ++i) {
      for (const int64_t chunk : drawn_[i]) work.emplace_back(i, chunk);
    }
    std::vector<std::optional<Damage>> found(work.size());
    std::atomic<size_t> next = 0;
    const auto run = [&] {
      StatusOr<ChunkReader> reader = absl::UnknownError("not opened yet");
      size_t opened = files.size();
      for (size_t at = next++; at < work.size(); at = next++) {
        const auto [index, chunk] = work[at];
        if (std::exchange(opened, index) != index) {
          reader =
              ChunkReader::Open(absl::StrCat(path_, "/", files[index].name), files[index].bytes);
        }
        found[at] = CheckChunk(index, chunk, &reader);
      }
    };
    std::vector<std::thread> threads;
    for (int i = 1; i < options_.threads; ++i) threads.emplace_back(run);
    run();
    for (std::thread& thread : threads) thread.join();
    chunk_damages_.resize(files.size());
    for (size_t at = 0; at < work.size(); ++at) {
      if (found[at]) chunk_damages_[work[at].first].push_back(*std::move(found[at]));
    }
  }

  void CheckFile(size_t index) {
    int64_t bytes_there = 0;
    if (!OpenListed(result_.manifest->files[index], &bytes_there).ok()) return;
    for (Damage& damage : chunk_damages_[index]) result_.damages.push_back(std::move(damage));
  }

  void CheckWithoutHashes(size_t index) {
    const ManifestFile& file = result_.manifest->files[index];
    const std::string hashes_name = ChunkHashName(file.name);
    int64_t bytes_there = 0;
    StatusOr<ChunkReader> reader = OpenListed(file, &bytes_there);
    std::string hashes;
    bool readable = reader.ok() && bytes_there == file.bytes;
    for (int64_t chunk = 0; readable && chunk < ChunkCount(file.bytes); ++chunk) {
      const StatusOr<absl::string_view> bytes = reader->Read(chunk);
      readable = bytes.ok();
      if (!readable) {
        Add(DamageKind::kUnreadable, file.name, chunk, bytes.status().message());
        break;
      }
      Checked(ChunkRange(chunk, file.bytes).size());
      hashes += Sha256(*bytes);
    }
    if (readable && Sha256Hex(hashes) == file.root) {
      Add(DamageKind::kHashes, hashes_name, -1,
          absl::StrCat("it is missing or damaged; ", file.name, " itself is whole"));
      result_.hashes[index] = std::move(hashes);
      return;
    }
    Add(DamageKind::kHashes, hashes_name, -1,
        absl::StrCat("it is missing or damaged, and so is ", file.name,
                     "; in which chunks can't be told without it"));
  }

  const std::string path_;
  const InspectOptions& options_;
  Inspection result_;
  std::vector<std::vector<int64_t>> drawn_;         // chunks, as manifest->files
  std::vector<std::vector<Damage>> chunk_damages_;  // of those, as manifest->files
  Mutex mutex_;                                     // of what Checked() counts
  int64_t bytes_total_ = 0;
};

}  // namespace

std::string DamageKindName(DamageKind kind) {
  switch (kind) {
    case DamageKind::kManifest:
      return "manifest";
    case DamageKind::kMissing:
      return "missing";
    case DamageKind::kSize:
      return "size";
    case DamageKind::kHashes:
      return "hashes";
    case DamageKind::kChunk:
      return "chunk";
    case DamageKind::kUnreadable:
      return "unreadable";
    case DamageKind::kContent:
      return "content";
  }
  return "";
}

std::vector<int64_t> DrawChunks(int64_t total, double sample, uint64_t seed) {
  CHECK(total >= 0 && sample >= 0 && sample <= 1) << total << " chunks, sample " << sample;
  const auto wanted = std::clamp<int64_t>(
      static_cast<int64_t>(std::ceil(sample * static_cast<double>(total))), total > 0, total);
  std::vector<int64_t> drawn;
  if (wanted == total) {
    for (int64_t chunk = 0; chunk < total; ++chunk) drawn.push_back(chunk);
    return drawn;
  }
  // Selection sampling (Knuth, volume 2, algorithm 3.4.2 S).
  const CounterRandom random(seed);
  for (int64_t chunk = 0; static_cast<int64_t>(drawn.size()) < wanted; ++chunk) {
    const auto left = static_cast<double>(total - chunk);
    const auto needed = static_cast<double>(wanted - static_cast<int64_t>(drawn.size()));
    if (left * random.Uniform(static_cast<uint64_t>(chunk)) < needed) drawn.push_back(chunk);
  }
  return drawn;
}

std::vector<std::string> UnlistedFiles(const std::string& directory, const Manifest& manifest) {
  std::set<std::string> listed = {kManifestName};
  for (const ManifestFile& file : manifest.files) {
    listed.insert(file.name);
    listed.insert(ChunkHashName(file.name));
  }
  std::vector<std::string> unlisted;
  std::error_code error;
  for (fs::recursive_directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    std::error_code ignored;
    if (!fs::is_regular_file(entry->symlink_status(ignored))) continue;
    std::string name = entry->path().lexically_relative(directory).string();
    if (!listed.contains(name)) unlisted.push_back(std::move(name));
  }
  std::sort(unlisted.begin(), unlisted.end());
  return unlisted;
}

StatusOr<Inspection> Inspect(const std::string& path, const InspectOptions& options) {
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    return UsageError(absl::StrCat(path, " is no directory of a checkpoint",
                                   error ? absl::StrCat(": ", error.message()) : ""));
  }
  return Walk(path, options).Run();
}

}  // namespace atl::checkpoint
