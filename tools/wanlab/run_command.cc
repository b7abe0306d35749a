#include "tools/wanlab/run_command.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/env.h"
#include "base/file.h"
#include "tools/wanlab/namespace.h"

namespace atl {
namespace {

constexpr double kGraceSeconds = 10;

// Blocks the signals that RunCommand passes on, for its life.
class BlockedSignals {
 public:
  BlockedSignals() {
    sigset_t mask;
    sigemptyset(&mask);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&mask, signal);
    sigprocmask(SIG_BLOCK, &mask, &before_);
    fd_ = Fd(signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC));
  }
  ~BlockedSignals() { sigprocmask(SIG_SETMASK, &before_, nullptr); }
  void RestoreInChild() const { sigprocmask(SIG_SETMASK, &before_, nullptr); }
  int fd() const { return fd_.get(); }

 private:
  sigset_t before_;
  Fd fd_;
};

int CodeOf(int status) {
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

// Passes signals on until the command has ended.
void Accompany(pid_t pid, const Fd& process, const BlockedSignals& signals) {
  double kill_at = -1;
  const auto now = [] { return Clock::Real()->MonotonicSeconds(); };
  for (;;) {
    pollfd wait[2] = {{process.get(), POLLIN, 0}, {signals.fd(), POLLIN, 0}};
    const double left = kill_at < 0 ? 3600 : std::max(0.0, kill_at - now());
    poll(wait, 2, static_cast<int>(left * 1000) + 1);
    if (wait[0].revents != 0) return;
    if (kill_at >= 0 && now() >= kill_at) {
      kill(pid, SIGKILL);
      kill_at = -1;
    }
    signalfd_siginfo info = {};
    if (wait[1].revents == 0 || read(signals.fd(), &info, sizeof info) != sizeof info) continue;
    const int signal = static_cast<int>(info.ssi_signo);
    const bool from_terminal = signal == SIGINT && info.ssi_code == SI_KERNEL;
    if (kill_at >= 0) {
      kill(pid, SIGKILL);
    } else {
      kill_at = now() + kGraceSeconds;
      if (!from_terminal) kill(pid, signal);
    }
  }
}

}  // namespace

Status ReplaceProcess(std::vector<std::string> words) {
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  // This program ignores it; a command expects what is usual.
  signal(SIGPIPE, SIG_DFL);
  execvp(pointers[0], pointers.data());
  return ErrnoError(errno, absl::StrCat("cannot start ", words[0]));
}

StatusOr<int> RunCommand(const std::vector<std::string>& words,
                         const std::map<std::string, std::string>& environment) {
  const BlockedSignals signals;
  int channel[2];  // closes at exec; else brings the reason why there was none
  if (pipe2(channel, O_CLOEXEC) != 0) return ErrnoError(errno, "cannot make a pipe");
  Fd reader(channel[0]), writer(channel[1]);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) return ErrnoError(errno, absl::StrCat("cannot start ", words[0]));
  if (pid == 0) {
    signals.RestoreInChild();
    for (const auto& [name, value] : environment) SetEnv(name, value, true);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent) {
      (void)ReplaceProcess(words);
    }
    const int error = errno;
    [[maybe_unused]] const ssize_t written = write(writer.get(), &error, sizeof error);
    _exit(127);
  }
  writer.Reset();
  int error = 0;
  ssize_t size = 0;
  while ((size = read(reader.get(), &error, sizeof error)) < 0 && errno == EINTR) {
  }
  int status = 0;
  if (size == sizeof error) {
    waitpid(pid, &status, 0);
    return ErrnoError(error, absl::StrCat("cannot start ", words[0]));
  }
  ASSIGN_OR_RETURN(const Fd process, OpenProcess(pid));
  Accompany(pid, process, signals);
  if (waitpid(pid, &status, 0) != pid) return ErrnoError(errno, "cannot wait for the command");
  return CodeOf(status);
}

}  // namespace atl
