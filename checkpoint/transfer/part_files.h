// A checkpoint that is coming: its folder in the directory of checkpoints, under a name that nobody
// takes for a checkpoint, until it is whole.
//
//     .round-000041.TOKEN.pull/MANIFEST.part                the manifest, verified
//     .round-000041.TOKEN.pull/model-....safetensors.part   preallocated
//     .round-000041.TOKEN.pull/chunks/FILE.b32              verified
//     .round-000041.TOKEN.pull/JOURNAL.part                 journal.h; made when all are there
//
// How it becomes a checkpoint (each step durable before the next, each repeated after a crash):
//   1. the data is synced, and every file loses its ".part";
//   2. MANIFEST.json is written: nothing is missing any more, and a restart goes on with step 3;
//   3. MANIFEST.part and the journal are removed, and the whole is opened as any checkpoint is;
//   4. under the directory's lock the folder takes its place (staging.h).
// At most kMaxOpen part files are open, and those in which something is not synced yet.
// The folder is locked as long as this lives: two pulls do not write into the same files.
// Thread rule: Write and Sync any thread; the rest one thread, alone.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/file.h"
#include "base/status.h"
#include "checkpoint/manifest.h"
#include "checkpoint/transfer/journal.h"
#include "checkpoint/transfer/open_files.h"

namespace atl::checkpoint {

inline constexpr char kPartManifestName[] = "MANIFEST.part";
inline constexpr char kJournalName[] = "JOURNAL.part";
// Of the manifest's hash, in the folder's name.
inline constexpr size_t kTokenDigits = 16;

class PartFiles {
 public:
  static constexpr size_t kMaxOpen = 64;

  // Makes the folder, or opens that of an earlier attempt. Errors of the place have exit code 4.
  // kFailedPrecondition: another process has it open.
  static StatusOr<std::unique_ptr<PartFiles>> Open(const std::string& directory,
                                                   const Manifest& manifest,
                                                   absl::string_view manifest_text);

  const std::string& folder() const { return folder_; }
  // All is here: Commit is what is left to do.
  bool complete() const { return complete_; }
  // What is here (journal.h).
  const std::string& bitmap() const { return journal_->bitmap(); }
  // The file's chunk hashes, if they are here and match its root.
  StatusOr<std::string> Hashes(int file) const;
  Status PutHashes(int file, absl::string_view hashes) const;
  // Bytes of a file. Fastest if `bytes` is aligned in memory and `offset` in the file to
  // kSafetensorsAlignment: that goes past the page cache.
  Status Write(int file, int64_t offset, std::span<const uint8_t> bytes);
  // What Write has written before this call is durable afterwards. After an error nothing is known
  // of what was written; only a new process may go on.
  Status Sync();
  // Call after Sync: which chunks had been written before it.
  Status WriteJournal(const std::string& bitmap) { return journal_->Write(bitmap); }
  // Steps 1 to 4. Returns the checkpoint's path.
  StatusOr<std::string> Commit();

 private:
  struct File {
    std::string path;                 // without ".part"
    std::shared_ptr<const Fd> plain;  // while something of it is not synced
  };
  StatusOr<std::shared_ptr<const Fd>> OpenToWrite(const File& file, int more_flags);
  PartFiles(std::string directory, const Manifest& manifest, absl::string_view manifest_text)
      : directory_(std::move(directory)),
        manifest_(manifest),
        text_(manifest_text),
        open_(kMaxOpen) {}
  Status OpenAll();
  void RemoveLeftovers() const;
  Status MakeFolder();
  Status OpenPart(const ManifestFile& listed, File* file);
  Status FinishFolder();
  std::string In(absl::string_view name) const { return absl::StrCat(folder_, "/", name); }

  const std::string directory_;
  const Manifest manifest_;
  const std::string text_;
  std::string folder_;
  Fd lock_;
  bool complete_ = false;
  std::optional<Journal> journal_;
  std::vector<File> files_;  // `plain` guarded by mutex_
  OpenFiles open_;
  std::atomic<bool> direct_ = true;  // this file system can write past the page cache
  std::mutex mutex_;
  std::set<int> unsynced_;  // guarded by mutex_
};

}  // namespace atl::checkpoint
