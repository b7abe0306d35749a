#include "cli/process.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/exit_code.h"
#include "base/log.h"

extern char** environ;

namespace atl {
namespace {

constexpr double kKillSeconds = 10;
constexpr int kStopSignals[] = {SIGINT, SIGTERM, SIGUSR1};

sigset_t WaitedSignals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : kStopSignals) sigaddset(&set, signal);
  sigaddset(&set, SIGCHLD);
  return set;
}

std::vector<std::string> ChildEnvironment(const SpawnOptions& options) {
  std::vector<std::string> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const std::string name = text.substr(0, text.find('='));
    const bool dropped =
        options.environment.count(name) > 0 ||
        std::any_of(options.dropped_prefixes.begin(), options.dropped_prefixes.end(),
                    [&](const std::string& prefix) { return absl::StartsWith(name, prefix); });
    if (!dropped) environment.push_back(text);
  }
  for (const auto& [name, value] : options.environment) {
    environment.push_back(absl::StrCat(name, "=", value));
  }
  return environment;
}

std::vector<char*> Pointers(std::vector<std::string>* words) {
  std::vector<char*> pointers;
  for (std::string& word : *words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  return pointers;
}

// In the child, between fork and exec: async-signal-safe calls only. Returns if something failed.
void BecomeChild(pid_t parent, int input, int output, char* const* words, char* const* variables) {
  setsid();
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) return;
  if (getppid() != parent) _exit(128 + SIGKILL);  // it died before the line above
  for (int signal = 1; signal < NSIG; ++signal) {
    struct sigaction action = {};
    action.sa_handler = SIG_DFL;
    sigaction(signal, &action, nullptr);  // fails for some, which can't be changed anyway
  }
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  if (dup2(input, STDIN_FILENO) < 0 || dup2(output, STDOUT_FILENO) < 0 ||
      dup2(output, STDERR_FILENO) < 0) {
    return;
  }
  execve(words[0], words, variables);
}

ProcessEnd EndOf(const siginfo_t& info) {
  ProcessEnd end;
  if (info.si_code == CLD_EXITED) {
    end.exit_code = info.si_status;
  } else {
    end.signal = info.si_status;
  }
  return end;
}

// The session of a process, from the sixth field of its stat; the name before it may hold blanks.
std::optional<pid_t> SessionOf(const char* pid) {
  const int fd = open(absl::StrCat("/proc/", pid, "/stat").c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return std::nullopt;
  char text[512] = {};
  const ssize_t size = read(fd, text, sizeof text - 1);
  close(fd);
  const char* after = size > 0 ? std::strrchr(text, ')') : nullptr;
  char state = 0;
  int parent = 0, group = 0, session = 0;
  if (after == nullptr ||
      sscanf(after + 1, " %c %d %d %d", &state, &parent, &group, &session) != 4) {
    return std::nullopt;
  }
  return session;
}

}  // namespace

std::string SignalText(int signal) {
  const char* name = sigabbrev_np(signal);
  return name != nullptr ? absl::StrCat("SIG", name) : absl::StrCat("signal ", signal);
}

std::string ProcessEnd::Text() const {
  return signal != 0 ? absl::StrCat("killed by ", SignalText(signal))
                     : absl::StrCat("exit code ", exit_code);
}

std::vector<pid_t> SessionMembers(pid_t session) {
  std::vector<pid_t> members;
  DIR* directory = opendir("/proc");
  if (directory == nullptr) return members;
  while (const dirent* entry = readdir(directory)) {
    int pid = 0;
    if (absl::SimpleAtoi(entry->d_name, &pid) && SessionOf(entry->d_name) == session) {
      members.push_back(pid);
    }
  }
  closedir(directory);
  return members;
}

ProcessGroup::ProcessGroup() { PCHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0); }

ProcessGroup::~ProcessGroup() { StopAll(0); }

StatusOr<Session*> ProcessGroup::Spawn(const SpawnOptions& options) {
  CHECK(!options.words.empty());
  ASSIGN_OR_RETURN(const Fd input, OpenFile("/dev/null", O_RDONLY));
  ASSIGN_OR_RETURN(const Fd output, OpenFile(options.output_path, O_WRONLY | O_CREAT | O_APPEND));
  int channel[2];  // closes at exec; else brings the reason why there was none
  if (pipe2(channel, O_CLOEXEC) != 0) return ErrnoError(errno, "cannot make a pipe");
  Fd reader(channel[0]), writer(channel[1]);
  std::vector<std::string> words = options.words;
  std::vector<std::string> variables = ChildEnvironment(options);
  const std::vector<char*> word_pointers = Pointers(&words);
  const std::vector<char*> variable_pointers = Pointers(&variables);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) return ErrnoError(errno, absl::StrCat("cannot start ", words[0]));
  if (pid == 0) {
    BecomeChild(parent, input.get(), output.get(), word_pointers.data(), variable_pointers.data());
    const int error = errno;
    [[maybe_unused]] const ssize_t written = write(writer.get(), &error, sizeof error);
    _exit(127);
  }
  writer.Reset();
  int error = 0;
  ssize_t size = 0;
  while ((size = read(reader.get(), &error, sizeof error)) < 0 && errno == EINTR) {
  }
  if (size == sizeof error) {
    waitpid(pid, nullptr, 0);
    return WithExitCode(ErrnoError(error, absl::StrCat("cannot start ", words[0])),
                        ExitCode::kEnvironment);
  }
  auto session = std::make_unique<Session>();
  session->name_ = options.name;
  session->pid_ = pid;
  sessions_.push_back(std::move(session));
  return sessions_.back().get();
}

void ProcessGroup::NoteLeaderEnd(Session* session, const ProcessEnd& end) {
  session->end_ = end;
  // The leader, dead but not yet reaped, is itself a member.
  session->over_ = SessionMembers(session->pid_).size() <= 1;
}

void ProcessGroup::Reap() {
  while (true) {
    siginfo_t info = {};
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0) break;
    for (const auto& session : sessions_) {
      if (session->pid_ == info.si_pid) NoteLeaderEnd(session.get(), EndOf(info));
    }
    waitpid(info.si_pid, nullptr, 0);
  }
  for (const auto& session : sessions_) {
    if (session->end_ && !session->over_) session->over_ = SessionMembers(session->pid_).empty();
  }
}

bool ProcessGroup::AllOver() const {
  return std::all_of(sessions_.begin(), sessions_.end(),
                     [](const auto& session) { return session->over_; });
}

void ProcessGroup::SignalLeader(const Session& session, int signal) {
  if (!session.end_) kill(session.pid_, signal);
}

void ProcessGroup::SignalSession(const Session& session, int signal) {
  if (session.over_) return;
  for (const pid_t pid : SessionMembers(session.pid_)) kill(pid, signal);
}

void ProcessGroup::StopAll(double grace_seconds) {
  Reap();
  for (const auto& session : sessions_) SignalSession(*session, SIGTERM);
  const double start = Clock::Real()->MonotonicSeconds();
  while (Reap(), !AllOver()) {
    const double waited = Clock::Real()->MonotonicSeconds() - start;
    if (waited >= grace_seconds + kKillSeconds) {
      LOG(ERROR) << "some processes do not end even by SIGKILL: they wait for a disk or a network";
      return;
    }
    // Again and again: a process may fork while it is being killed.
    if (waited >= grace_seconds) {
      for (const auto& session : sessions_) SignalSession(*session, SIGKILL);
    }
    Clock::Real()->SleepFor(absl::Milliseconds(20));
  }
}

SignalWaiter::SignalWaiter() {
  const sigset_t set = WaitedSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  fd_.Reset(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  PCHECK(fd_.valid()) << "signalfd";
}

SignalWaiter::~SignalWaiter() {
  // What came meanwhile was for the job that is over now.
  const sigset_t set = WaitedSignals();
  const timespec now = {};
  while (sigtimedwait(&set, nullptr, &now) > 0) {
  }
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

std::optional<int> SignalWaiter::Wait(double seconds) {
  pollfd item = {fd_.get(), POLLIN, 0};
  poll(&item, 1, static_cast<int>(std::ceil(std::clamp(seconds, 0.0, 3600.0) * 1000)));
  signalfd_siginfo info;
  while (read(fd_.get(), &info, sizeof info) == sizeof info) {
    if (info.ssi_signo != SIGCHLD) return static_cast<int>(info.ssi_signo);
  }
  return std::nullopt;
}

}  // namespace atl
