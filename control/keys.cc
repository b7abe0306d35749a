// Key files on disk. A file is made once and never replaced, also when two processes begin at the
// same moment:
//   1. write it whole, with mode 0600, under a name of its own, and sync it;
//   2. link() it to its name: that fails if another was first, and then the other's is used;
//   3. remove the name of its own, sync the directory, and read what is there now.
#include "control/keys.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/env.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/log.h"
#include "base/random.h"
#include "control/key_file.h"
#include "control/zmq_socket.h"

namespace atl {
namespace {

// Refuses what others can read or write; `mend` is the right mode.
Status CheckPrivate(const std::string& path, const struct stat& info, const char* mend) {
  if ((info.st_mode & 077) == 0) return OkStatus();
  return UsageError(absl::StrFormat(
      "%s is open to other users (mode %04o), but secret keys are in it; run: chmod %s %s", path,
      info.st_mode & 07777, mend, path));
}

// Checked on the open file, so that what was checked is what is read.
StatusOr<std::string> ReadPrivateFile(const std::string& path) {
  ASSIGN_OR_RETURN(const Fd fd, OpenFile(path, O_RDONLY | O_NONBLOCK));
  struct stat info;
  if (fstat(fd.get(), &info) != 0) return ErrnoError(errno, absl::StrCat("cannot read ", path));
  if (!S_ISREG(info.st_mode)) return UsageError(absl::StrCat(path, " is not a regular file"));
  RETURN_IF_ERROR(CheckPrivate(path, info, "600"));
  if (info.st_size > kMaxKeyFileBytes) {
    return UsageError(absl::StrCat(path, " is no key file: it has ", info.st_size, " bytes"));
  }
  std::string text(static_cast<size_t>(info.st_size), '\0');
  RETURN_IF_ERROR(ReadAt(fd, path, text.data(), info.st_size, 0));
  return text;
}

Status PrepareDirectory(const std::string& directory) {
  RETURN_IF_ERROR(Annotate(MakeDirectories(directory, 0700), "while making the keys' directory"));
  struct stat info;
  if (stat(directory.c_str(), &info) != 0) {
    return ErrnoError(errno, absl::StrCat("cannot read ", directory));
  }
  return CheckPrivate(directory, info, "700");
}

// Step 1 to 3 of the file's first comment, up to the reading.
Status CreateOnce(const std::string& path, const std::string& text) {
  uint64_t nonce = 0;
  FillWithSystemRandom(&nonce, sizeof nonce);
  const std::string staging = absl::StrFormat("%s.%016x.tmp", path, nonce);
  const Status made = [&]() -> Status {
    ASSIGN_OR_RETURN(const Fd fd, OpenFile(staging, O_WRONLY | O_CREAT | O_EXCL, 0600));
    RETURN_IF_ERROR(WriteAt(fd, staging, text.data(), static_cast<int64_t>(text.size()), 0));
    RETURN_IF_ERROR(SyncFile(fd, staging));
    if (link(staging.c_str(), path.c_str()) != 0 && errno != EEXIST) {
      return ErrnoError(errno, absl::StrCat("cannot create ", path));
    }
    return OkStatus();
  }();
  unlink(staging.c_str());
  RETURN_IF_ERROR(made);
  return SyncDirectory(std::filesystem::path(path).parent_path().string());
}

bool Exists(const std::string& path) {
  struct stat info;
  return lstat(path.c_str(), &info) == 0;
}

Status Malformed(const std::string& path, const Status& why, const std::string& remedy) {
  return UsageError(absl::StrCat("cannot use ", path, ": ", why.message(), "; ", remedy));
}

}  // namespace

KeyPair GenerateKeyPair() {
  char public_key[41] = {}, secret_key[41] = {};
  CHECK_EQ(zmq_curve_keypair(public_key, secret_key), 0)
      << "this libzmq was built without CURVE: " << zmq_strerror(errno);
  return {public_key, secret_key};
}

StatusOr<std::string> KeysDirectory(const std::string& flag) {
  if (!flag.empty()) return flag;
  if (auto value = GetEnv("ATOLL_KEYS"); value && !value->empty()) return *value;
  if (auto value = GetEnv("XDG_CONFIG_HOME"); value && !value->empty()) {
    return absl::StrCat(*value, "/atoll/keys");
  }
  const std::string home = HomeDirectory();
  if (home.empty()) {
    return UsageError("no place for keys: HOME is not set; name one with --keys=DIRECTORY");
  }
  return absl::StrCat(home, "/.config/atoll/keys");
}

StatusOr<KeyPair> LoadOrCreateOrchestratorKeys(const std::string& directory) {
  RETURN_IF_ERROR(PrepareDirectory(directory));
  const std::string path = absl::StrCat(directory, "/orchestrator.key");
  if (!Exists(path)) RETURN_IF_ERROR(CreateOnce(path, OrchestratorKeyText(GenerateKeyPair())));
  ASSIGN_OR_RETURN(const std::string text, ReadPrivateFile(path));
  auto keys = ParseOrchestratorKey(text);
  if (!keys.ok()) {
    return Malformed(
        path, keys.status(),
        "put its backup back, or remove it together with the leases beside it, and new "
        "ones are made");
  }
  return keys;
}

StatusOr<Lease> LoadOrCreateLease(const std::string& directory, const std::string& region,
                                  const KeyPair& orchestrator) {
  if (!IsRegionName(region)) {
    return UsageError(absl::StrCat("'", absl::CHexEscape(region),
                                   "' can't name a region: use letters, digits, '-' and '_', at "
                                   "most 63"));
  }
  RETURN_IF_ERROR(PrepareDirectory(directory));
  const std::string path = absl::StrCat(directory, "/", region, ".lease");
  if (!Exists(path)) {
    RETURN_IF_ERROR(
        CreateOnce(path, LeaseText({region, GenerateKeyPair(), orchestrator.public_key})));
  }
  ASSIGN_OR_RETURN(const std::string text, ReadPrivateFile(path));
  auto lease = ParseLease(text);
  constexpr char kRemedy[] = "remove it to have a new one made, and hand that to the site";
  if (!lease.ok()) return Malformed(path, lease.status(), kRemedy);
  if (lease->region != region) {
    return Malformed(
        path, absl::InvalidArgumentError(absl::StrCat("it is the lease of '", lease->region, "'")),
        kRemedy);
  }
  if (lease->orchestrator_public_key != orchestrator.public_key) {
    return Malformed(path, absl::InvalidArgumentError("it was made for another orchestrator's key"),
                     kRemedy);
  }
  return lease;
}

StatusOr<Lease> LoadLease(const std::string& path) {
  const std::string remedy =
      "the right file is REGION.lease in the orchestrator's keys directory (DIR/keys of a run "
      "directory, else ~/.config/atoll/keys)";
  const StatusOr<std::string> text = ReadPrivateFile(path);
  if (!text.ok()) {
    return WithExitCode(Annotate(absl::Status(text.status().code(),
                                              absl::StrCat(text.status().message(), "; ", remedy)),
                                 "cannot use the lease"),
                        ExitCode::kUsage);
  }
  auto lease = ParseLease(*text);
  if (!lease.ok()) return Malformed(path, lease.status(), remedy);
  return lease;
}

}  // namespace atl
