#include "checkpoint/transfer/key_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/random.h"
#include "checkpoint/sha256.h"

namespace atl::checkpoint {
namespace {

constexpr int64_t kMaxKeyFileBytes = 256;
constexpr uint32_t kNumberMask = 0x7FFFFFFF;

absl::string_view Text(const wan::Key& key) {
  return {reinterpret_cast<const char*>(key.data()), key.size()};
}

}  // namespace

StatusOr<wan::Key> ReadKeyFile(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0) {
    return WithExitCode(ErrnoError(errno, absl::StrCat("the key file ", path)), ExitCode::kUsage);
  }
  if ((info.st_mode & 077) != 0) {
    return UsageError(absl::StrFormat(
        "the key file %s has mode %04o: others may read it. Take a new key, or `chmod 600 %s`",
        path, info.st_mode & 07777, path));
  }
  StatusOr<std::string> text = ReadFile(path, kMaxKeyFileBytes);
  if (!text.ok()) return WithExitCode(text.status(), ExitCode::kUsage);
  const std::string digits(absl::StripAsciiWhitespace(*text));
  wan::Key key;
  if (digits.size() != 2 * key.size() ||
      !std::all_of(digits.begin(), digits.end(), absl::ascii_isxdigit)) {
    return UsageError(absl::StrCat("the key file ", path, " does not hold ", 2 * key.size(),
                                   " hexadecimal digits; `atoll checkpoint keygen` makes one"));
  }
  const std::string bytes = absl::HexStringToBytes(digits);
  std::copy(bytes.begin(), bytes.end(), key.begin());
  return key;
}

StatusOr<wan::Key> MakeKeyFile(const std::string& path) {
  wan::Key key;
  FillWithSystemRandom(key.data(), key.size());
  ASSIGN_OR_RETURN(const Fd file, OpenFile(path, O_WRONLY | O_CREAT | O_EXCL, 0600));
  const std::string text = absl::BytesToHexString(Text(key)) + "\n";
  RETURN_IF_ERROR(WriteAt(file, path, text.data(), static_cast<int64_t>(text.size()), 0));
  RETURN_IF_ERROR(SyncFile(file, path));
  return key;
}

StatusOr<wan::Key> ReadOrMakeKeyFile(const std::string& path) {
  struct stat info;
  if (lstat(path.c_str(), &info) != 0 && errno == ENOENT) return MakeKeyFile(path);
  return ReadKeyFile(path);
}

ViewId ViewOf(const wan::Key& key, uint32_t number) {
  number &= kNumberMask;
  const std::string tag = Sha256(absl::StrCat("atoll checkpoint view", Text(key), number));
  uint64_t view = number;
  for (int i = 0; i < 4; ++i) view = view << 8 | static_cast<uint8_t>(tag[i]);
  return {static_cast<int64_t>(view)};
}

bool IsViewOf(const wan::Key& key, ViewId view) {
  return view.value >= 0 && ViewOf(key, static_cast<uint32_t>(view.value >> 32)) == view;
}

}  // namespace atl::checkpoint
