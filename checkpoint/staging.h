// Rank 0's work in the directory of checkpoints: clear, reserve, commit, keep the newest.
//
// How a finished staging directory takes its place (each step durable before the next):
//   - no checkpoint of the round there: rename;
//   - one there: the two change places in one step (renameat2, RENAME_EXCHANGE) and the old one,
//     now under the staging name, is removed;
//   - a file system without that step: the old one is moved to ".round-N.replaced", the new one
//     renamed, the old one removed. Between the two renames List() takes the ".replaced" one for
//     the round, and the next save moves it back.
// A checkpoint that is removed is first renamed to ".round-N.removed": nobody sees half of one.
// One thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/file.h"
#include "base/status.h"

namespace atl::checkpoint {

// The directory's lock, under which its names change. Waits while another process has it, but
// `wait_seconds` at most: then kFailedPrecondition with exit code 4.
StatusOr<FileLock> LockDirectory(const std::string& directory, double wait_seconds);

// Removes what dead runs left (the caller holds the lock). What can't be removed is logged.
void ClearLeftovers(const std::string& directory);

// A new staging directory for a checkpoint of the round, held: while `held` is open,
// ClearLeftovers() leaves it alone, so that it may be filled without the lock.
struct HeldStaging {
  std::string path;
  Fd held;
};
StatusOr<HeldStaging> MakeHeldStaging(const std::string& directory, int64_t round);

// kResourceExhausted with exit code 4, with needed and free bytes, if `bytes` do not fit.
Status CheckFreeSpace(const std::string& directory, int64_t bytes);

// An error met while writing a checkpoint of `bytes`, with exit code 4. A full disk is explained
// with the needed and the free bytes.
Status ExplainWriteError(const Status& status, const std::string& directory, int64_t bytes);

// A new file with its first bytes written and `bytes` reserved on the disk.
Status ReserveFile(const std::string& path, absl::string_view head, int64_t bytes);

// A small new file, written and fsynced.
Status WriteNewFile(const std::string& path, absl::string_view content);

// fsyncs each file, and each directory on the way to one, of the directory.
Status SyncTree(const std::string& directory);

// Puts `staging` in the place of the round's checkpoint in `parent`, durably. After an error the
// names are as before. `exchange` false: as on a file system that can't exchange two names.
Status PutInPlace(const std::string& parent, const std::string& staging, int64_t round,
                  bool exchange = true);

// Removes the directory and what is in it. Errors name what stays.
Status RemoveTree(const std::string& path);

// Removes complete checkpoints that are not among the `keep` newest, `just_written` being one of
// them, and whose rounds are no multiples of `keep_every` (0: all). What can't be removed is
// logged: the new checkpoint is committed whatever happens here.
void KeepNewest(const std::string& directory, int keep, int64_t keep_every,
                const std::string& just_written);

}  // namespace atl::checkpoint
