// Where the key of encrypted checkpoints comes from: a file of its owner's, or a command.
//
// The command: 1. it is started with its output in a pipe and nothing to read; 2. at most
// kMaxKeyText bytes are taken, until its end or the deadline; 3. at the deadline, or if it says
// more, it is killed; 4. it is waited for. Its output is in no message and no log.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/clock.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/encryption.h"

extern char** environ;

namespace atl::checkpoint {
namespace {

constexpr size_t kMaxKeyText = 256;

using KeyPointer = std::shared_ptr<const EncryptionKey>;

// `where` for the message, which never holds what was read.
StatusOr<KeyPointer> KeyOfText(absl::string_view text, const std::string& where) {
  const absl::string_view digits = absl::StripAsciiWhitespace(text);
  if (digits.size() != 2 * kEncryptionKeyBytes ||
      !std::all_of(digits.begin(), digits.end(), absl::ascii_isxdigit)) {
    return UsageError(absl::StrCat(where, " is not ", 2 * kEncryptionKeyBytes,
                                   " hexadecimal digits; `atoll checkpoint keygen` makes a key"));
  }
  return EncryptionKey::FromBytes(absl::HexStringToBytes(digits));
}

// The process of a command, killed and reaped at the end if it was not waited for.
class Child {
 public:
  // Its standard output goes to `output`.
  static StatusOr<Child> Start(const std::string& command, int output) {
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
    // A session of its own, so that what the shell starts can be ended with it. No signal is
    // blocked or ignored in it.
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    sigset_t none, usual;
    sigemptyset(&none);
    sigemptyset(&usual);
    for (const int signal : {SIGPIPE, SIGINT, SIGTERM, SIGHUP, SIGCHLD}) sigaddset(&usual, signal);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &usual);
    posix_spawnattr_setflags(&attributes,
                             POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    std::string shell = "sh", option = "-c", text = command;
    char* const words[] = {shell.data(), option.data(), text.data(), nullptr};
    Child child;
    const int failed = posix_spawn(&child.pid_, "/bin/sh", &actions, &attributes, words, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    if (failed == 0) return child;
    child.pid_ = -1;
    return ErrnoError(failed, "cannot run the key command");
  }
  Child(Child&& other) noexcept : pid_(std::exchange(other.pid_, -1)) {}
  ~Child() {
    if (pid_ > 0) kill(-pid_, SIGKILL);
    int end = 0;
    while (!Ended(&end, /*wait=*/true)) {
    }
  }

  // True once it has ended, or is not ours to wait for; `*end` as waitpid says.
  bool Ended(int* end, bool wait = false) {
    *end = 0;
    const pid_t ended = pid_ > 0 ? waitpid(pid_, end, wait ? 0 : WNOHANG) : -1;
    if (ended == 0 || (ended < 0 && pid_ > 0 && errno == EINTR)) return false;
    pid_ = -1;
    return true;
  }

 private:
  Child() = default;
  pid_t pid_ = -1;
};

double Now() { return Clock::Real()->MonotonicSeconds(); }

Status TooLong() { return UsageError("the key command does not end"); }

// Everything until the end of `fd`, but no more than `most` bytes and not beyond `deadline`.
StatusOr<std::string> ReadAll(const Fd& fd, size_t most, double deadline) {
  std::string text;
  while (text.size() <= most) {
    const double left = deadline - Now();
    if (left <= 0) return TooLong();
    pollfd wait = {fd.get(), POLLIN, 0};
    const int ready = poll(&wait, 1, static_cast<int>(std::min(left, 3600.0) * 1000) + 1);
    if (ready < 0 && errno != EINTR) return ErrnoError(errno, "cannot wait for the key command");
    if (ready <= 0) continue;
    char bytes[kMaxKeyText + 1];
    const ssize_t size = read(fd.get(), bytes, sizeof bytes);
    if (size < 0 && errno != EINTR) return ErrnoError(errno, "cannot read of the key command");
    if (size == 0) return text;
    if (size > 0) text.append(bytes, static_cast<size_t>(size));
  }
  return UsageError("the key command says more than a key");
}

}  // namespace

StatusOr<KeyPointer> EncryptionKey::FromFile(const std::string& path) {
  const std::string where = absl::StrCat("the key file ", path);
  // Checked on the open file, so that what was checked is what is read.
  StatusOr<Fd> file = OpenFile(path, O_RDONLY | O_NONBLOCK);
  if (!file.ok()) return WithExitCode(Annotate(file.status(), where), ExitCode::kUsage);
  struct stat info;
  if (fstat(file->get(), &info) != 0) return ErrnoError(errno, where);
  if (!S_ISREG(info.st_mode)) return UsageError(absl::StrCat(where, " is not a regular file"));
  if ((info.st_mode & 077) != 0) {
    return UsageError(
        absl::StrFormat("%s has mode %04o: others may read it. Take a new key, or `chmod 600 %s`",
                        where, info.st_mode & 07777, path));
  }
  if (info.st_size > static_cast<off_t>(kMaxKeyText)) {
    return UsageError(absl::StrCat(where, " has ", info.st_size, " bytes: it is no key"));
  }
  std::string text(static_cast<size_t>(info.st_size), '\0');
  RETURN_IF_ERROR(WithExitCode(
      ReadAt(*file, path, text.data(), static_cast<int64_t>(text.size()), 0), ExitCode::kUsage));
  return KeyOfText(text, where);
}

StatusOr<KeyPointer> EncryptionKey::FromCommand(const std::string& command, double seconds) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoError(errno, "cannot run the key command");
  const Fd from(ends[0]);
  Fd to(ends[1]);
  ASSIGN_OR_RETURN(Child child, Child::Start(command, to.get()));
  to.Reset();
  const double deadline = Now() + seconds;
  const StatusOr<std::string> text = ReadAll(from, kMaxKeyText, deadline);
  RETURN_IF_ERROR(text.status());
  int end = 0;
  while (!child.Ended(&end)) {
    if (Now() > deadline) return TooLong();
    poll(nullptr, 0, 10);
  }
  if (WIFEXITED(end) && WEXITSTATUS(end) == 0) return KeyOfText(*text, "what the key command says");
  return UsageError(
      absl::StrCat("the key command ended with ",
                   WIFEXITED(end) ? absl::StrCat("exit code ", WEXITSTATUS(end))
                                  : absl::StrCat("signal ", WTERMSIG(end)),
                   "; what it has to say of that is in this program's standard error or log"));
}

}  // namespace atl::checkpoint
