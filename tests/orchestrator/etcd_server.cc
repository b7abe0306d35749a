#include "tests/orchestrator/etcd_server.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/random.h"

namespace atl {
namespace {

constexpr char kProgram[] = "/usr/bin/etcd";
constexpr double kStartSeconds = 40;
constexpr int kTries = 10;

double Now() { return Clock::Real()->MonotonicSeconds(); }

// Below the ports that the system gives to connections.
int RandomPort() {
  uint64_t bits = 0;
  FillWithSystemRandom(&bits, sizeof bits);
  return 15000 + static_cast<int>(bits % 15000);
}

}  // namespace

EtcdServer::EtcdServer(std::string directory, std::vector<std::string> options, std::string scheme)
    : directory_(std::move(directory)), options_(std::move(options)), scheme_(std::move(scheme)) {
  std::filesystem::create_directories(directory_);
}

EtcdServer::~EtcdServer() { Kill(); }

bool EtcdServer::Installed() { return access(kProgram, X_OK) == 0; }

std::string EtcdServer::Log() const {
  std::ifstream file(directory_ + "/log");
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

bool EtcdServer::Start() {
  for (int i = 0; i < kTries; ++i) {
    if (Spawn(RandomPort())) return true;
    Kill();
    std::filesystem::remove_all(directory_ + "/data");
  }
  return false;
}

bool EtcdServer::StartAgain() { return Spawn(port_); }

bool EtcdServer::Spawn(int port) {
  port_ = port;
  endpoint_ = absl::StrCat(scheme_, "://127.0.0.1:", port);
  const std::string peer = absl::StrCat("http://127.0.0.1:", port + 1);
  std::vector<std::string> words = {kProgram,
                                    "--data-dir",
                                    directory_ + "/data",
                                    "--listen-client-urls",
                                    endpoint_,
                                    "--advertise-client-urls",
                                    endpoint_,
                                    "--listen-peer-urls",
                                    peer,
                                    "--initial-advertise-peer-urls",
                                    peer,
                                    "--initial-cluster",
                                    "default=" + peer};
  words.insert(words.end(), options_.begin(), options_.end());
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  const std::string log = directory_ + "/log";
  pid_ = fork();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int fd = open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    dup2(fd, 1);
    dup2(fd, 2);
    execv(kProgram, arguments.data());
    _exit(127);
  }
  for (const double deadline = Now() + kStartSeconds; Now() < deadline;) {
    if (waitpid(pid_, nullptr, WNOHANG) == pid_) {  // a port that another one has
      pid_ = 0;
      return false;
    }
    if (absl::StrContains(Log(), "client requests on")) return true;
    poll(nullptr, 0, 20);  // the pause of a loop that asks
  }
  return false;
}

void EtcdServer::Kill() {
  if (pid_ == 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = 0;
}

void EtcdServer::Signal(int signal) { kill(pid_, signal); }

}  // namespace atl
