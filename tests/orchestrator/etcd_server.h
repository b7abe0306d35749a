// A real etcd of one member for tests: started on ports that are free, in a directory of its own,
// stopped, killed and started again.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace atl {

class EtcdServer {
 public:
  // `options`: more of etcd's flags. `scheme` https: with its certificates in `options`.
  explicit EtcdServer(std::string directory, std::vector<std::string> options = {},
                      std::string scheme = "http");
  ~EtcdServer();
  // Whether etcd is installed; without it nothing of this can be tested.
  static bool Installed();

  const std::string& endpoint() const { return endpoint_; }
  // Until it serves; takes other ports while somebody else has those.
  bool Start();
  void Kill();              // SIGKILL; what it has promised is on disk
  void Signal(int signal);  // SIGSTOP, SIGCONT
  bool StartAgain();        // at the same address

 private:
  bool Spawn(int port);
  std::string Log() const;

  const std::string directory_;
  const std::vector<std::string> options_;
  const std::string scheme_;
  std::string endpoint_;
  int port_ = 0;
  pid_t pid_ = 0;
};

}  // namespace atl
