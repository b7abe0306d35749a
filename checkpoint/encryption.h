// Checkpoints that only those with a key can read: what lies on a leased site's disks is a stream
// cipher's output, and a manifest that nobody without the key can make.
//
//   1. One master key, 32 random bytes, for all regions of a job. It is never used itself: every
//      other key is made of it with HKDF-SHA256, each with a label of its own.
//   2. Each file is encrypted with AES-256 in counter mode under a key of its own, which follows
//      from the master key, a salt, the job, the round and the file's name. The counter is the
//      place in the file, in blocks of 16 bytes, from 0: bytes keep their places, and every worker
//      encrypts its own ranges without knowing the others'.
//   3. The salt of replicated files is an HMAC over their hashes in the clear. So one state gives
//      the same bytes in every region, which can be compared and repaired from each other; and
//      another state never meets the same key, whatever was restarted, forgotten or numbered
//      twice. The salt of regional files is random, new in each save.
//   4. Chunk hashes are taken of what lies on the disk, so that serving, pulling, verifying and
//      repairing need no key. The manifest holds an HMAC over its own text, and with it over every
//      root, so over every chunk at its place in its file in its job and round: encrypt, then
//      authenticate. A reader with the key checks it before it uses a byte.
// Format and argument: docs/formats/checkpoint.md. Immutable, but for FileCipher; any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/status.h"
#include "checkpoint/manifest.h"

namespace atl::checkpoint {

inline constexpr size_t kEncryptionKeyBytes = 32;

// The master key. Its bytes never stand in a message.
class EncryptionKey {
 public:
  // All errors have exit code 2. What is read is 64 hexadecimal digits, white space around them.
  // A file must be a regular one that nobody but its owner can read or write.
  static StatusOr<std::shared_ptr<const EncryptionKey>> FromFile(const std::string& path);
  // What `command`, run by /bin/sh, prints. It is killed after `seconds`; what it prints is never
  // shown, its standard error is this process's.
  static StatusOr<std::shared_ptr<const EncryptionKey>> FromCommand(const std::string& command,
                                                                    double seconds = 60);
  // kEncryptionKeyBytes.
  static std::shared_ptr<const EncryptionKey> FromBytes(absl::string_view bytes);
  ~EncryptionKey();

  // 32 hexadecimal digits by which a key is known; nothing of the key follows from them.
  const std::string& id() const { return id_; }

  // Of the replicated files, whose hashes in the clear are `hashes`: those of their chunks, in the
  // order of the files. Hexadecimal.
  std::string ReplicatedSalt(const Manifest& manifest, absl::string_view hashes) const;
  // The key of one file. The manifest's salts are known.
  std::string FileKey(const Manifest& manifest, const ManifestFile& file) const;
  // The manifest's `mac`, whatever stands there. Hexadecimal.
  StatusOr<std::string> Mac(const Manifest& manifest) const;

  // OK if the manifest was written with this key. Errors (exit code 2): it is not encrypted, it is
  // with another key, it was changed.
  Status Check(const Manifest& manifest) const;

 private:
  explicit EncryptionKey(absl::string_view bytes);

  std::string master_;
  std::string id_;
};

// A random salt, hexadecimal.
std::string NewSalt();

// HKDF with SHA-256 (RFC 5869), 32 bytes.
std::string Hkdf(absl::string_view secret, absl::string_view salt, absl::string_view info);

// Encrypts and decrypts the bytes of one file. One thread.
class FileCipher {
 public:
  // `key` of EncryptionKey::FileKey.
  explicit FileCipher(absl::string_view key);
  ~FileCipher();

  // `size` bytes that lie at `offset` of the file, either way. `in` and `out` may be the same.
  void Apply(int64_t offset, const char* in, char* out, int64_t size);

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

}  // namespace atl::checkpoint
