#include "worker/region/checkpoint_giver.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/transfer/key_file.h"
#include "checkpoint/transfer/server.h"

namespace atl {
namespace {

constexpr double kAgainSeconds = 1;
constexpr double kHour = 3600;
constexpr int kLowest = 19;
// linux/ioprio.h, which not every system has.
constexpr int kIoThread = 1;      // IOPRIO_WHO_PROCESS
constexpr int kIoIdle = 3 << 13;  // IOPRIO_CLASS_IDLE
constexpr char kAddressName[] = ".transfer-address";

// Of this thread, and of those that it starts.
void GiveWay() {
  if (setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kLowest) != 0) {
    PLOG(WARNING) << "checkpoints are given with the priority of training";
  }
  (void)syscall(SYS_ioprio_set, kIoThread, gettid(), kIoIdle);
}

StatusOr<std::unique_ptr<checkpoint::Server>> StartServer(const CheckpointGiver::Options& options) {
  RETURN_IF_ERROR(MakeDirectories(options.directory));
  checkpoint::ServeOptions serve;
  serve.directory = options.directory;
  serve.listen = options.listen;
  serve.rate_cap = options.rate_cap;
  serve.yield = [busy = options.busy] {
    return busy() ? wan::Yield::kHold : wan::Yield::kSpare;
  };
  const std::string key = options.key_file.empty()
                              ? absl::StrCat(options.directory, "/", checkpoint::kKeyFileName)
                              : options.key_file;
  ASSIGN_OR_RETURN(serve.key, checkpoint::ReadOrMakeKeyFile(key));
  ASSIGN_OR_RETURN(auto server, checkpoint::Server::Start(serve));
  const std::string address = server->endpoint().ToString();
  RETURN_IF_ERROR(
      WriteFileAtomically(absl::StrCat(options.directory, "/", kAddressName), address + "\n"));
  LOG(INFO) << "checkpoints are given at " << address << " to those who have the key in " << key;
  return server;
}

}  // namespace

CheckpointGiver::CheckpointGiver(Options options) : options_(std::move(options)) {
  thread_ = std::thread([this] { Run(); });
}

CheckpointGiver::~CheckpointGiver() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

bool CheckpointGiver::Pause(double seconds) {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait_for(lock, std::chrono::duration<double>(seconds), [this] { return stopping_; });
  return !stopping_;
}

void CheckpointGiver::Run() {
  GiveWay();
  std::string told;
  std::unique_ptr<checkpoint::Server> server;
  do {
    auto started = StartServer(options_);
    if (started.ok()) {
      server = *std::move(started);
      break;
    }
    const std::string why(started.status().message());
    LOG_IF(WARNING, why != told) << "no checkpoints are given yet: " << why;
    told = why;
  } while (Pause(kAgainSeconds));
  while (Pause(kHour)) {
  }
  if (server == nullptr) return;
  LOG(INFO) << "checkpoints are no longer given; sent " << server->state().bytes_sent << " bytes";
  (void)std::remove(absl::StrCat(options_.directory, "/", kAddressName).c_str());
}

}  // namespace atl
