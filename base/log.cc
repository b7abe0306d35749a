#include "base/log.h"

#include <fcntl.h>
#include <unistd.h>

namespace atl {

void InitLogging(const char* program, const std::string& stderr_path) {
  if (!stderr_path.empty()) {
    const int fd = open(stderr_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd >= 0) {
      dup2(fd, STDERR_FILENO);
      close(fd);
    }
  }
  FLAGS_logtostderr = true;
  FLAGS_stop_logging_if_full_disk = true;
  google::InitGoogleLogging(program);
}

void LogCrashes() { google::InstallFailureSignalHandler(); }

}  // namespace atl
