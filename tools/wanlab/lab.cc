#include "tools/wanlab/lab.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/env.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "base/suggest.h"
#include "tools/wanlab/namespace.h"
#include "tools/wanlab/relay.h"

extern char** environ;

namespace atl {
namespace {

using nlohmann::json;

constexpr int kDownMilliseconds = 15000;
constexpr int kControlSeconds = 10;
constexpr size_t kLongestAnswer = 8 << 20;
constexpr int kReadyFd = 3;

int CountThreads() {
  std::error_code error;
  int count = 0;
  for ([[maybe_unused]] const auto& entry :
       std::filesystem::directory_iterator("/proc/self/task", error)) {
    ++count;
  }
  return count;
}

// A thread that was joined may be there for another moment.
bool HasOneThread() {
  for (int attempt = 0; attempt < 200; ++attempt) {
    if (CountThreads() == 1) return true;
    Clock::Real()->SleepFor(absl::Milliseconds(5));
  }
  return false;
}

// In the relay's process, right after fork: nothing of the parent's stays but the channel, which
// becomes kReadyFd.
void LeaveParent(int channel, const std::string& log_path) {
  setsid();
  for (int signal = 1; signal < NSIG; ++signal) {
    struct sigaction action = {};
    action.sa_handler = SIG_DFL;
    sigaction(signal, &action, nullptr);
  }
  signal(SIGPIPE, SIG_IGN);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  const int input = open("/dev/null", O_RDONLY);
  const int output = open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
  if (input < 0 || output < 0 || dup2(input, 0) < 0 || dup2(output, 1) < 0 || dup2(output, 2) < 0 ||
      dup2(channel, kReadyFd) < 0) {
    _exit(127);
  }
  fcntl(kReadyFd, F_SETFD, FD_CLOEXEC);
  syscall(SYS_close_range, kReadyFd + 1, ~0u, 0);
  prctl(PR_SET_NAME, "wanlab-relay");
  if (chdir("/") != 0) _exit(127);
}

// The relay's life. Never returns. Says on kReadyFd how it began.
[[noreturn]] void BeRelay(RelayOptions options, LabState state) {
  const std::string directory = LabDirectory(state.name);
  {
    Relay relay(std::move(options));
    Status status = relay.SetUp();
    for (size_t i = 0; status.ok() && i < state.regions.size(); ++i) {
      const Fd& network = relay.regions()[i].network;
      const auto number = NetworkNumber(network);
      status = number.status();
      if (number.ok()) state.regions[i].network = *number;
      state.regions[i].descriptor = network.get();
    }
    state.relay = getpid();
    state.relay_start = StartTime(state.relay);
    if (status.ok()) status = WriteLabState(state);
    const json word = status.ok() ? json{{"ready", true}}
                                  : json{{"error", std::string(status.message())},
                                         {"exit_code", static_cast<int>(ExitCodeOf(status))}};
    const std::string text = word.dump();
    [[maybe_unused]] const ssize_t written = write(kReadyFd, text.data(), text.size());
    close(kReadyFd);
    if (status.ok()) relay.Run();
  }
  std::error_code error;
  std::filesystem::remove_all(directory, error);
  _exit(0);
}

// What the relay said on the channel: OK, or why there is no lab.
Status AwaitReady(const Fd& channel) {
  std::string text;
  char buffer[4096];
  ssize_t size = 0;
  while ((size = read(channel.get(), buffer, sizeof buffer)) != 0) {
    if (size < 0 && errno != EINTR) break;
    if (size > 0) text.append(buffer, static_cast<size_t>(size));
    if (text.size() > (64u << 10)) break;
  }
  const json word = json::parse(text, nullptr, false);
  if (word.is_object() && word.contains("ready")) return OkStatus();
  if (!word.is_object() || !word.contains("error") || !word["error"].is_string()) {
    return absl::InternalError("the relay of the lab died while it was starting");
  }
  const int code = word.value("exit_code", static_cast<int>(ExitCode::kFailed));
  return WithExitCode(absl::UnknownError(word["error"].get<std::string>()),
                      static_cast<ExitCode>(code));
}

Status CheckRights() {
  if (!IsRoot()) {
    return EnvironmentError(
        "a lab makes network namespaces, for which one must be root; run it with sudo");
  }
  if (!HasOneThread()) {
    return absl::FailedPreconditionError("a lab is brought up before a program makes threads");
  }
  return OkStatus();
}

// `name` is free afterwards: not in use, and remains of a dead one are removed.
Status TakeName(const std::string& name) {
  RETURN_IF_ERROR(CheckLabName(name));
  const auto former = ReadLabState(name);
  if (former.ok() && former->up()) {
    return UsageError(absl::StrCat("the lab '", name, "' is up already; `wanlab down --name=", name,
                                   "` takes it down, --name=OTHER makes a second one"));
  }
  if (former.ok()) {
    RemoveRemains(*former);
  } else {
    std::error_code error;  // a directory without state: never came up
    std::filesystem::remove_all(LabDirectory(name), error);
  }
  return MakeDirectories(LabDirectory(name), 0700);
}

std::string UniqueName() {
  std::error_code error;
  std::string program =
      std::filesystem::read_symlink("/proc/self/exe", error).filename().string().substr(0, 24);
  static int count = 0;
  return absl::StrCat(program.empty() ? "lab" : program, "-", getpid(),
                      ++count > 1 ? absl::StrCat("-", count) : "");
}

// Waits for the process to end; reaps it if it is our child.
void AwaitEnd(pid_t pid, const Fd& process, int milliseconds) {
  pollfd wait = {process.get(), POLLIN, 0};
  const double deadline = Clock::Real()->MonotonicSeconds() + milliseconds / 1e3;
  while (poll(&wait, 1, 100) <= 0 && Clock::Real()->MonotonicSeconds() < deadline) {
  }
  waitpid(pid, nullptr, WNOHANG);
}

std::vector<char*> Pointers(std::vector<std::string>* words) {
  std::vector<char*> pointers;
  for (std::string& word : *words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  return pointers;
}

std::vector<std::string> Merged(const std::map<std::string, std::string>& additions) {
  std::vector<std::string> variables;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    if (additions.count(text.substr(0, text.find('='))) == 0) variables.push_back(text);
  }
  for (const auto& [name, value] : additions) variables.push_back(absl::StrCat(name, "=", value));
  return variables;
}

}  // namespace

StatusOr<RunningLab> RunningLab::Up(const Lab& lab, const UpOptions& options) {
  RETURN_IF_ERROR(CheckRights());
  LabState state;
  state.name = options.name.empty() ? UniqueName() : options.name;
  ASSIGN_OR_RETURN(const Fd lock, LockLabs());
  RETURN_IF_ERROR(TakeName(state.name));
  state.slot = FreeSlot();
  RelayOptions relay;
  relay.lab = lab;
  relay.control_path = LabDirectory(state.name) + "/control";
  relay.owner = options.owned ? getpid() : 0;
  for (int i = 0; i < lab.size(); ++i) {
    state.regions.push_back({lab.regions[i].name, RegionAddress(state.slot, i), 0, -1});
    relay.addresses.push_back(state.regions.back().address);
  }
  int channel[2];
  if (pipe2(channel, O_CLOEXEC) != 0) return ErrnoError(errno, "cannot make a pipe");
  Fd reader(channel[0]), writer(channel[1]);
  const pid_t pid = fork();
  if (pid < 0) return ErrnoError(errno, "cannot start the relay of a lab");
  if (pid == 0) {
    LeaveParent(writer.get(), LabDirectory(state.name) + "/relay.log");
    BeRelay(std::move(relay), std::move(state));
  }
  writer.Reset();
  const Status ready = AwaitReady(reader);
  if (!ready.ok()) {
    waitpid(pid, nullptr, 0);
    std::error_code error;
    std::filesystem::remove_all(LabDirectory(state.name), error);
    return ready;
  }
  ASSIGN_OR_RETURN(state, ReadLabState(state.name));
  RunningLab running(std::move(state), options.owned);
  RETURN_IF_ERROR(running.OpenNetworks());
  return running;
}

StatusOr<RunningLab> RunningLab::Attach(const std::string& name) {
  ASSIGN_OR_RETURN(LabState state, FindLab(name));
  RunningLab running(std::move(state), false);
  if (!running.state_.up()) {
    return EnvironmentError(absl::StrCat("the relay of the lab '", running.name(), "' has died; `",
                                         "wanlab down --name=", running.name(),
                                         "` removes what is left"));
  }
  RETURN_IF_ERROR(running.OpenNetworks());
  return running;
}

Status RunningLab::OpenNetworks() {
  for (const RegionState& region : state_.regions) {
    ASSIGN_OR_RETURN(Fd network,
                     OpenFile(absl::StrCat("/proc/", state_.relay, "/fd/", region.descriptor),
                              O_RDONLY | O_CLOEXEC));
    ASSIGN_OR_RETURN(const uint64_t number, NetworkNumber(network));
    if (number != region.network) {
      return absl::InternalError(absl::StrCat("region ", region.name, " is not what it was"));
    }
    networks_.push_back(std::move(network));
  }
  return OkStatus();
}

RunningLab::~RunningLab() {
  // One that was moved from has no name.
  if (!owned_ || state_.name.empty()) return;
  if (const Status status = Down(); !status.ok()) LOG(WARNING) << status;
}

Status RunningLab::Down() {
  if (down_) return OkStatus();
  down_ = true;
  networks_.clear();
  return TakeDown(state_);
}

Status RunningLab::TakeDown(const LabState& state) {
  const auto process = state.up() ? OpenProcess(state.relay) : StatusOr<Fd>(Fd());
  // Asked again after the process is held, so that it cannot be another of that number.
  if (process.ok() && process->valid() && state.up()) {
    for (const int signal : {SIGTERM, SIGKILL}) {
      kill(state.relay, signal);
      AwaitEnd(state.relay, *process, kDownMilliseconds);
      if (!state.up()) break;
    }
  }
  ASSIGN_OR_RETURN(const Fd lock, LockLabs());
  const auto now = ReadLabState(state.name);
  // Somebody may have brought up another lab of that name meanwhile.
  const bool another =
      now.ok() && (now->relay != state.relay || now->relay_start != state.relay_start);
  if (!another) RemoveRemains(state);
  if (!state.up()) return OkStatus();
  return absl::InternalError(absl::StrCat("the relay (pid ", state.relay, ") does not end"));
}

StatusOr<int> RunningLab::Find(const std::string& region) const {
  std::vector<std::string> names;
  for (int i = 0; i < size(); ++i) {
    if (state_.regions[i].name == region) return i;
    names.push_back(state_.regions[i].name);
  }
  return UsageError(absl::StrCat("no region of the lab '", name(), "' is called '", region, "'",
                                 DidYouMean(region, names),
                                 "; there are: ", absl::StrJoin(names, ", ")));
}

Status RunningLab::Enter(int region) const { return EnterNetwork(networks_[region]); }

std::map<std::string, std::string> RunningLab::Environment(int region) const {
  return {{"ATOLL_LAB", name()}, {"ATOLL_LAB_REGION", state_.regions[region].name}};
}

StatusOr<pid_t> RunningLab::Spawn(int region, const RegionProcess& process) const {
  CHECK(!process.words.empty());
  std::map<std::string, std::string> additions = process.environment;
  additions.merge(Environment(region));
  std::vector<std::string> words = process.words, variables = Merged(additions);
  const std::vector<char*> word_pointers = Pointers(&words), pointers = Pointers(&variables);
  int channel[2];  // closes at exec; else brings the reason why there was none
  if (pipe2(channel, O_CLOEXEC) != 0) return ErrnoError(errno, "cannot make a pipe");
  Fd reader(channel[0]), writer(channel[1]);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) return ErrnoError(errno, absl::StrCat("cannot start ", words[0]));
  if (pid == 0) {
    const bool stays =
        !process.dies_with_parent || (prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent);
    // Each goes to a high number first: the three may be permuted.
    const int fds[3] = {fcntl(process.stdin_fd, F_DUPFD, 10), fcntl(process.stdout_fd, F_DUPFD, 10),
                        fcntl(process.stderr_fd, F_DUPFD, 10)};
    if (stays && setns(networks_[region].get(), CLONE_NEWNET) == 0 && dup2(fds[0], 0) == 0 &&
        dup2(fds[1], 1) == 1 && dup2(fds[2], 2) == 2) {
      for (const int fd : fds) close(fd);
      execvpe(word_pointers[0], word_pointers.data(), pointers.data());
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
  if (size != sizeof error) return pid;
  waitpid(pid, nullptr, 0);
  return ErrnoError(
      error, absl::StrCat("cannot start ", words[0], " in region ", state_.regions[region].name));
}

StatusOr<json> RunningLab::Control(const std::vector<std::string>& words) const {
  const std::string path = LabDirectory(name()) + "/control";
  const Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  const timeval timeout = {kControlSeconds, 0};
  setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    return ErrnoError(errno, absl::StrCat("cannot reach the relay of the lab '", name(), "'"));
  }
  const std::string line = absl::StrCat(absl::StrJoin(words, " "), "\n");
  if (send(fd.get(), line.data(), line.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(line.size())) {
    return ErrnoError(errno, "cannot write to the relay");
  }
  std::string text;
  char buffer[65536];
  ssize_t size = 0;
  while ((size = read(fd.get(), buffer, sizeof buffer)) > 0 && text.size() < kLongestAnswer) {
    text.append(buffer, static_cast<size_t>(size));
  }
  const json answer = json::parse(text, nullptr, false);
  if (!answer.is_object()) {
    return absl::UnavailableError(absl::StrCat("the relay of the lab '", name(),
                                               "' gave no answer within ", kControlSeconds, " s"));
  }
  RETURN_IF_ERROR(StatusOfAnswer(answer));
  return answer;
}

Status RunningLab::Set(const std::vector<std::string>& words) const {
  std::vector<std::string> line = {"set"};
  line.insert(line.end(), words.begin(), words.end());
  return Control(line).status();
}

Status RunningLab::Cut(const std::string& a, const std::string& b) const {
  return Control({"cut", a, b}).status();
}

Status RunningLab::Heal(const std::string& a, const std::string& b) const {
  return Control({"heal", a, b}).status();
}

StatusOr<json> RunningLab::Stats() const { return Control({"stats"}); }

}  // namespace atl
