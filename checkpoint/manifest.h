// MANIFEST.json, the commit record of a checkpoint: what is in it and the hash of everything.
//
// One text for one content: keys sorted, an entry of `files`, `sections` and `tensors` a line. The
// parser demands exactly the text that the writer would write, so a manifest that was changed, by
// hand or by a failing disk, is told from a whole one:
//   1. the JSON is read under strict rules (strict_json.h), at most kMaxManifestBytes of it;
//   2. format, version, hash and chunk size are ones that this program knows;
//   3. every key is there, once, of its type and within its bounds; file names are names of ours;
//   4. the result is written again and must give the same bytes, its own hash and both roots
//      included.
// Hashes: a file's root is the SHA-256 of its chunks' raw SHA-256 hashes, in order; `root` is the
// SHA-256 of the lines "ROOT SIZE CLASS NAME\n" of all files, by name; `replicated_root` is the
// same over replicated files only and is equal in all regions. `manifest_sha256` is the SHA-256 of
// the manifest's text with 64 zeros in this field's place. It detects accidents; `mac`, in the
// manifest of an encrypted checkpoint, detects forgers. Pure; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/status.h"
#include "checkpoint/checkpoint.h"

namespace atl::checkpoint {

inline constexpr int64_t kChunkBytes = 4 << 20;
inline constexpr int64_t kMaxManifestBytes = 32 << 20;
// Of all files together; more is no checkpoint, and sums of sizes stay far from overflow.
inline constexpr int64_t kMaxCheckpointBytes = int64_t{1} << 46;
inline constexpr int64_t kManifestVersion = 1;
inline constexpr int64_t kEncryptedManifestVersion = 2;  // with `encryption`
inline constexpr char kCipherName[] = "aes-256-ctr";
inline constexpr size_t kKeyIdDigits = 32;
inline constexpr size_t kMaxSections = 64;

enum class FileClass { kReplicated, kRegional, kWorker };
std::string FileClassName(FileClass file_class);
FileClass ClassOfSection(SectionClass section_class);

struct ManifestFile {
  std::string name;
  FileClass file_class = FileClass::kReplicated;
  int64_t bytes = 0;
  std::string root;  // hexadecimal
};

struct ManifestSection {
  std::string prefix;
  SectionClass section_class = SectionClass::kReplicated;
};

// How the files are encrypted (encryption.h). All hexadecimal.
struct ManifestEncryption {
  std::string key_id;           // kKeyIdDigits
  std::string mac;              // HMAC of the manifest's text; this and the following: 64 digits
  std::string regional_salt;    // of files that are not replicated
  std::string replicated_salt;  // equal in all regions
};

struct Manifest {
  Description description;
  std::vector<TensorSpec> tensors;  // ascending in the flat vector
  std::vector<ManifestSection> sections;
  std::vector<ManifestFile> files;  // ascending by name
  std::optional<ManifestEncryption> encryption;
};

// Chunks of a file of `bytes`.
int64_t ChunkCount(int64_t bytes);
// Hash over all files, or over the replicated ones. Hexadecimal.
std::string RootOf(const Manifest& manifest, bool replicated_only);

// Errors (exit code 2): a text that is not UTF-8, a number below 0 or above 2^53, what is longer
// than kMaxManifestBytes.
StatusOr<std::string> WriteManifest(const Manifest& manifest);
// The same text with zeros in the places of `manifest_sha256` and `mac`: what `mac` is taken of.
StatusOr<std::string> ManifestTextToAuthenticate(const Manifest& manifest);
// Errors (exit code 2) say what is wrong, without the path.
StatusOr<Manifest> ParseManifest(absl::string_view text);

}  // namespace atl::checkpoint
