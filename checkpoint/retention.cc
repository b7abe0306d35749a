#include "checkpoint/retention.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <map>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/inspect.h"
#include "checkpoint/names.h"
#include "checkpoint/staging.h"

namespace atl::checkpoint {
namespace {

// What its files take, without the few bytes of the directories themselves.
int64_t BytesIn(const std::string& path) {
  namespace fs = std::filesystem;
  int64_t bytes = 0;
  std::error_code error;
  for (fs::recursive_directory_iterator entry(path, error), end; !error && entry != end;
       entry.increment(error)) {
    std::error_code ignored;
    const auto size = entry->is_regular_file(ignored) ? entry->file_size(ignored) : 0;
    if (!ignored) bytes += static_cast<int64_t>(size);
  }
  return bytes;
}

// Changes whenever another checkpoint takes the place.
using Identity = std::optional<std::array<int64_t, 4>>;
Identity IdentityOf(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0) return std::nullopt;
  return {{static_cast<int64_t>(info.st_dev), static_cast<int64_t>(info.st_ino),
           info.st_ctim.tv_sec, info.st_ctim.tv_nsec}};
}

// What was read of the newest, by path.
struct Verified {
  std::map<std::string, Identity> whole;
  std::map<std::string, std::pair<Identity, std::string>> damaged;  // with what is wrong
};

// Reads the newest until `keep` whole ones were seen. One that is removed meanwhile is neither.
StatusOr<Verified> VerifyNewest(const PruneOptions& options) {
  Verified verified;
  for (const Found& each : List(options.directory, nullptr)) {
    if (static_cast<int64_t>(verified.whole.size()) >= options.keep) break;
    const Identity identity = IdentityOf(each.path);
    InspectOptions inspect;
    inspect.progress = options.progress;
    const StatusOr<Inspection> inspection = Inspect(each.path, inspect);
    if (identity != IdentityOf(each.path)) continue;
    RETURN_IF_ERROR(inspection.status());
    if (inspection->whole()) {
      verified.whole[each.path] = identity;
      continue;
    }
    const Damage& first = inspection->damages.front();
    verified.damaged[each.path] = {
        identity, absl::StrCat(each.path, ": damaged (", first.file, ": ", first.message, ")")};
  }
  return verified;
}

// Leaves in `found`, newest first, what counts: `keep` verified ones, and all behind them.
void LeaveVerified(const PruneOptions& options, const Verified& verified, std::vector<Found>* found,
                   std::vector<std::string>* ignored) {
  int64_t whole = 0;
  for (auto each = found->begin(); each != found->end() && whole < options.keep;) {
    const Identity identity = IdentityOf(each->path);
    const auto seen = verified.whole.find(each->path);
    if (identity && seen != verified.whole.end() && seen->second == identity) {
      ++whole, ++each;
      continue;
    }
    const auto damaged = verified.damaged.find(each->path);
    const bool is_damaged = damaged != verified.damaged.end() && damaged->second.first == identity;
    ignored->push_back(is_damaged ? damaged->second.second
                                  : absl::StrCat(each->path, ": not read, so it stays"));
    each = found->erase(each);
  }
}

}  // namespace

std::set<int64_t> RoundsThatStay(const std::set<int64_t>& rounds, int64_t keep,
                                 int64_t keep_every) {
  CHECK(keep >= 1 && keep_every >= 0) << keep << ", every " << keep_every;
  std::set<int64_t> stay;
  int64_t newest = 0;
  for (auto round = rounds.rbegin(); round != rounds.rend(); ++round) {
    const bool milestone = keep_every > 0 && *round % keep_every == 0;
    if (newest < keep || milestone) stay.insert(*round);
    ++newest;
  }
  return stay;
}

Status RemoveCheckpoint(const std::string& directory, const Found& found) {
  const StatusOr<Fd> folder = OpenFile(found.path, O_RDONLY | O_DIRECTORY);
  if (folder.ok() && flock(folder->get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    return absl::FailedPreconditionError(
        absl::StrCat(found.path, " is being fetched: it stays until the next save or prune"));
  }
  const std::string removed = absl::StrCat(directory, "/", RemovedName(found.description.round));
  if (rename(found.path.c_str(), removed.c_str()) != 0) {
    return ErrnoError(errno, absl::StrCat("cannot rename ", found.path, " to ", removed));
  }
  // Without this, a power cut could undo the rename and not the removal of the files.
  RETURN_IF_ERROR(SyncDirectory(directory));
  return RemoveTree(removed);
}

StatusOr<PruneResult> Prune(const PruneOptions& options) {
  if (options.keep < 1 || options.keep_every < 0) {
    return UsageError(absl::StrCat("keep is ", options.keep, " and keep_every ", options.keep_every,
                                   "; at least one checkpoint must stay (keep >= 1)"));
  }
  std::error_code error;
  if (!std::filesystem::is_directory(options.directory, error)) {
    return UsageError(absl::StrCat(options.directory, " is no directory of checkpoints"));
  }
  Verified verified;
  if (options.verify) {
    ASSIGN_OR_RETURN(verified, VerifyNewest(options));
  }
  std::optional<FileLock> lock;
  if (!options.dry_run) {
    ASSIGN_OR_RETURN(lock, LockDirectory(options.directory, options.lock_seconds));
    ClearLeftovers(options.directory);
  }
  PruneResult result;
  std::vector<Found> found = List(options.directory, &result.ignored);
  if (options.verify) LeaveVerified(options, verified, &found, &result.ignored);
  std::set<int64_t> rounds;
  for (const Found& each : found) rounds.insert(each.description.round);
  const std::set<int64_t> stay = RoundsThatStay(rounds, options.keep, options.keep_every);
  for (Found& each : found) {
    if (stay.contains(each.description.round)) {
      result.kept.push_back(std::move(each));
      continue;
    }
    const int64_t bytes = BytesIn(each.path);
    const Status removed = options.dry_run ? OkStatus() : RemoveCheckpoint(options.directory, each);
    if (!removed.ok()) {
      result.failures.push_back(std::string(removed.message()));
      continue;
    }
    result.bytes_removed += bytes;
    result.removed.push_back(std::move(each));
  }
  return result;
}

}  // namespace atl::checkpoint
