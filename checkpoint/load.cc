// Checkpoint: open, read and verify.
//
// Open:
//   1. MANIFEST.json is parsed under its strict rules (manifest.h);
//   2. every file is there with its size, and its file of chunk hashes matches the file's root;
//   3. the header of every safetensors file of a section is parsed under the strict rules, and the
//      files of a section together hold every tensor once, in fp32, with its shape.
// Read: the wanted elements are mapped to byte ranges through the headers, so any split into files
// and any offsets in the flat vector do; then each chunk touched is read once, compared with its
// hash, and its parts are copied. The first time a file is read, the chunks of its header are
// compared as well, because the mapping relies on them.
// An encrypted checkpoint: with its key, the manifest's mac is checked between 1 and 2, and what is
// read is decrypted behind the comparison with its hash; without the key, 3 is left out.
// Thread rule: nothing changes after Open but the marks of verified headers, which are atomic.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <optional>
#include <unordered_map>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/chunks.h"
#include "checkpoint/encryption.h"
#include "checkpoint/file_plan.h"
#include "checkpoint/manifest.h"
#include "checkpoint/names.h"
#include "checkpoint/safetensors.h"

namespace atl::checkpoint {
namespace {

constexpr int64_t kElementBytes = sizeof(float);

// A file of the checkpoint, with what Open learned of it.
struct OpenedFile {
  std::string path;
  int64_t bytes = 0;
  std::string hashes;      // kHashBytes a chunk
  int64_t head_bytes = 0;  // of a safetensors file
  std::string key;         // empty: it lies in the clear
  mutable std::atomic<bool> head_verified = false;

  absl::string_view Hash(int64_t chunk) const {
    return absl::string_view(hashes).substr(chunk * kHashBytes, kHashBytes);
  }
};

struct StoredTensor {
  const OpenedFile* file = nullptr;
  int64_t file_offset = 0;
  std::vector<int64_t> shape;
};

using SectionTensors = std::unordered_map<std::string, StoredTensor>;

// Bytes of one file that are wanted somewhere in memory.
struct Wanted {
  const OpenedFile* file;
  Range bytes;
  char* out;
};

class OpenedCheckpoint : public Checkpoint {
 public:
  OpenedCheckpoint(std::string path, Manifest manifest, const EncryptionKey* key)
      : path_(std::move(path)),
        manifest_(std::move(manifest)),
        readable_(!manifest_.encryption || key != nullptr),
        files_(manifest_.files.size()) {
    if (key == nullptr) return;
    for (size_t i = 0; i < files_.size(); ++i) {
      files_[i].key = key->FileKey(manifest_, manifest_.files[i]);
    }
  }

  Status OpenFiles() {
    for (size_t i = 0; i < files_.size(); ++i)
      RETURN_IF_ERROR(OpenOne(manifest_.files[i], &files_[i]));
    for (const ManifestSection& section : manifest_.sections) {
      if (readable_) {
        RETURN_IF_ERROR(OpenSection(section.prefix));
      } else {
        sections_[section.prefix];
      }
    }
    return OkStatus();
  }

  const std::string& path() const override { return path_; }
  const Description& description() const override { return manifest_.description; }
  const std::vector<TensorSpec>& tensors() const override { return manifest_.tensors; }
  bool HasSection(const std::string& prefix) const override { return sections_.contains(prefix); }
  std::string key_id() const override {
    return manifest_.encryption ? manifest_.encryption->key_id : "";
  }

  Status Read(const std::string& prefix, const std::vector<TensorSpec>& tensors, Range range,
              std::span<float> out) const override;
  Status Verify() const override;

 private:
  Status Refused(absl::string_view message) const {
    return UsageError(absl::StrCat(path_, " can't be used: ", message));
  }
  Status OpenOne(const ManifestFile& listed, OpenedFile* file);
  Status OpenSection(const std::string& prefix);

  const std::string path_;
  const Manifest manifest_;
  const bool readable_;            // in the clear, or with its key
  std::vector<OpenedFile> files_;  // as manifest_.files; never resized
  std::unordered_map<std::string, SectionTensors> sections_;
};

Status OpenedCheckpoint::OpenOne(const ManifestFile& listed, OpenedFile* file) {
  file->path = absl::StrCat(path_, "/", listed.name);
  file->bytes = listed.bytes;
  const StatusOr<int64_t> bytes = FileSize(file->path);
  if (!bytes.ok()) {
    return Refused(
        absl::StrCat("the file ", listed.name, " is missing: ", bytes.status().message()));
  }
  if (*bytes != listed.bytes) {
    return Refused(absl::StrCat("the file ", listed.name, " has ", *bytes, " bytes instead of ",
                                listed.bytes));
  }
  const std::string hashes_name = ChunkHashName(listed.name);
  const int64_t hashes_bytes = ChunkCount(listed.bytes) * static_cast<int64_t>(kHashBytes);
  StatusOr<std::string> hashes = ReadFile(absl::StrCat(path_, "/", hashes_name), hashes_bytes);
  if (!hashes.ok()) {
    return Refused(absl::StrCat("the chunk hashes ", hashes_name, ": ", hashes.status().message()));
  }
  if (static_cast<int64_t>(hashes->size()) != hashes_bytes || Sha256Hex(*hashes) != listed.root) {
    return Refused(absl::StrCat("the chunk hashes ", hashes_name,
                                " do not match the manifest: the file is damaged"));
  }
  file->hashes = *std::move(hashes);
  return OkStatus();
}

StatusOr<SafetensorsHeader> ReadHeader(const OpenedFile& file) {
  if (file.key.empty()) return ReadSafetensorsHeader(file.path);
  FileCipher cipher(file.key);
  return ReadSafetensorsHeader(file.path, [&](int64_t offset, std::string* bytes) {
    for (size_t at = 0; at < bytes->size(); at += kChunkBytes) {
      const auto size = static_cast<int64_t>(std::min<size_t>(kChunkBytes, bytes->size() - at));
      cipher.Apply(offset + static_cast<int64_t>(at), bytes->data() + at, bytes->data() + at, size);
    }
  });
}

Status OpenedCheckpoint::OpenSection(const std::string& prefix) {
  SectionTensors& stored = sections_[prefix];
  for (size_t i = 0; i < files_.size(); ++i) {
    const std::string& name = manifest_.files[i].name;
    if (!IsFileOfSection(name, prefix)) continue;
    StatusOr<SafetensorsHeader> header = ReadHeader(files_[i]);
    if (!header.ok()) return Refused(header.status().message());
    files_[i].head_bytes = header->data_begin;
    for (SafetensorsTensor& tensor : header->tensors) {
      if (tensor.dtype != "F32") {
        return Refused(
            absl::StrCat(name, " holds ", tensor.name, " as ", tensor.dtype, ", not F32"));
      }
      StoredTensor place = {&files_[i], header->data_begin + tensor.data.begin,
                            std::move(tensor.shape)};
      if (!stored.emplace(tensor.name, std::move(place)).second) {
        return Refused(absl::StrCat(tensor.name, " is in two files of section ", prefix));
      }
    }
  }
  for (const TensorSpec& tensor : manifest_.tensors) {
    const auto place = stored.find(tensor.name);
    if (place == stored.end()) {
      return Refused(absl::StrCat("section ", prefix, " lacks the tensor ", tensor.name));
    }
    if (place->second.shape != tensor.shape) {
      return Refused(absl::StrCat(tensor.name, " in section ", prefix,
                                  " has another shape than the manifest says"));
    }
  }
  if (stored.size() != manifest_.tensors.size()) {
    return Refused(absl::StrCat("section ", prefix, " holds ", stored.size(),
                                " tensors, the manifest lists ", manifest_.tensors.size()));
  }
  return OkStatus();
}

// Copies what is wanted of one file: [begin, end) of `wanted`, ascending by offset.
Status ReadFromFile(std::span<const Wanted> wanted) {
  const OpenedFile& file = *wanted.front().file;
  ASSIGN_OR_RETURN(ChunkReader reader, ChunkReader::Open(file.path, file.bytes));
  if (!file.head_verified.load(std::memory_order_acquire)) {
    for (int64_t chunk = 0; chunk < ChunkCount(file.head_bytes); ++chunk) {
      RETURN_IF_ERROR(reader.ReadVerified(chunk, file.Hash(chunk)).status());
    }
    file.head_verified.store(true, std::memory_order_release);
  }
  std::optional<FileCipher> cipher;
  if (!file.key.empty()) cipher.emplace(file.key);
  int64_t chunk = -1;
  absl::string_view bytes;
  for (const Wanted& part : wanted) {
    int64_t at = part.bytes.begin;
    while (at < part.bytes.end) {
      if (at / kChunkBytes != chunk) {
        chunk = at / kChunkBytes;
        ASSIGN_OR_RETURN(bytes, reader.ReadVerified(chunk, file.Hash(chunk)));
      }
      const Range range = ChunkRange(chunk, file.bytes);
      const int64_t end = std::min(range.end, part.bytes.end);
      const char* const from = bytes.data() + (at - range.begin);
      char* const to = part.out + (at - part.bytes.begin);
      if (cipher) {
        cipher->Apply(at, from, to, end - at);
      } else {
        std::memcpy(to, from, static_cast<size_t>(end - at));
      }
      at = end;
    }
  }
  return OkStatus();
}

Status OpenedCheckpoint::Read(const std::string& prefix, const std::vector<TensorSpec>& tensors,
                              Range range, std::span<float> out) const {
  const auto section = sections_.find(prefix);
  if (section == sections_.end()) return Refused(absl::StrCat("it has no section ", prefix));
  if (!readable_) {
    return Refused(absl::StrCat("it is encrypted with the key ", key_id(),
                                ", and no key was given (--encryption_key)"));
  }
  if (range.begin < 0 || range.size() < 0 || static_cast<int64_t>(out.size()) != range.size()) {
    return absl::InternalError(
        absl::StrCat("elements ", range.begin, " to ", range.end, " into ", out.size(), " places"));
  }
  std::fill(out.begin(), out.end(), 0.0f);
  std::vector<Wanted> wanted;
  for (const TensorSpec& tensor : tensors) {
    const Range part = {std::max(tensor.elements.begin, range.begin),
                        std::min(tensor.elements.end, range.end)};
    if (part.empty()) continue;
    const auto stored = section->second.find(tensor.name);
    if (stored == section->second.end()) {
      return Refused(absl::StrCat("the model has a tensor ", tensor.name,
                                  " that is not in it: was it written with another model?"));
    }
    int64_t elements = 1;  // of the stored tensor: its shape was checked against its bytes
    for (const int64_t dimension : stored->second.shape) elements *= dimension;
    if (stored->second.shape != tensor.shape || elements != tensor.elements.size()) {
      return Refused(absl::StrCat("tensor ", tensor.name, " has the shape [",
                                  absl::StrJoin(stored->second.shape, ", "), "] in it and [",
                                  absl::StrJoin(tensor.shape, ", "),
                                  "] in the model: was it written with another model?"));
    }
    const int64_t begin =
        stored->second.file_offset + (part.begin - tensor.elements.begin) * kElementBytes;
    wanted.push_back({stored->second.file,
                      {begin, begin + part.size() * kElementBytes},
                      reinterpret_cast<char*>(out.data() + (part.begin - range.begin))});
  }
  std::sort(wanted.begin(), wanted.end(), [](const Wanted& a, const Wanted& b) {
    return std::pair(a.file, a.bytes.begin) < std::pair(b.file, b.bytes.begin);
  });
  for (auto first = wanted.begin(); first != wanted.end();) {
    const auto last = std::find_if(first, wanted.end(),
                                   [&](const Wanted& part) { return part.file != first->file; });
    RETURN_IF_ERROR(ReadFromFile(std::span<const Wanted>(first, last)));
    first = last;
  }
  return OkStatus();
}

Status OpenedCheckpoint::Verify() const {
  for (const OpenedFile& file : files_) {
    ASSIGN_OR_RETURN(ChunkReader reader, ChunkReader::Open(file.path, file.bytes));
    for (int64_t chunk = 0; chunk < ChunkCount(file.bytes); ++chunk) {
      RETURN_IF_ERROR(reader.ReadVerified(chunk, file.Hash(chunk)).status());
    }
  }
  return OkStatus();
}

}  // namespace

StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& path,
                                                       const EncryptionKey* key) {
  const StatusOr<std::string> text =
      ReadFile(absl::StrCat(path, "/", kManifestName), kMaxManifestBytes);
  if (absl::IsNotFound(text.status())) {
    return UsageError(absl::StrCat(path, " is not a complete atoll checkpoint: it has no ",
                                   kManifestName, " (", text.status().message(),
                                   "). Give a directory round-NNNNNN of a run's checkpoints"));
  }
  if (!text.ok()) return text.status();
  StatusOr<Manifest> manifest = ParseManifest(*text);
  if (!manifest.ok()) {
    return UsageError(
        absl::StrCat(path, "/", kManifestName, " can't be used: ", manifest.status().message()));
  }
  if (key != nullptr) {
    const Status check = key->Check(*manifest);
    if (!check.ok()) {
      return UsageError(
          absl::StrCat(path, "/", kManifestName, " can't be used: ", check.message()));
    }
  }
  auto checkpoint = std::make_unique<OpenedCheckpoint>(path, *std::move(manifest), key);
  RETURN_IF_ERROR(checkpoint->OpenFiles());
  return std::unique_ptr<Checkpoint>(std::move(checkpoint));
}

}  // namespace atl::checkpoint
