// Gives the checkpoints of a directory to those who have its key.
//
// 1. Calls: a connection for a view that the key made (ViewOf) gets a group of two with the caller
//    as member 0 and us as member 1; others are dropped. At most kMaxCallers groups; one whose
//    caller has had no connection for kForgetSeconds is left, or sooner where there are too many:
//    callers that die and begin anew must not shut others out.
// 2. The directory is looked at every kLookSeconds: committed checkpoints, and those that are still
//    being pulled, whose journals tell what may be given of them. Each group serves their objects
//    (wire.h) under the hashes of their manifests; one that is gone is no longer served.
// 3. Files are read as they are. A chunk that is damaged here is found by who gets it.
// Thread rule: a thread of its own; OnCall the engine's.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/socket.h"
#include "base/status.h"
#include "checkpoint/transfer/wire.h"
#include "collectives/wan/engine.h"

namespace atl::checkpoint {

struct ServeOptions {
  std::string directory;
  Endpoint listen;  // port 0: any free one
  wan::Key key = {};
  bool encrypt = true;  // without: for measuring, and for lines that are encrypted already
};

// What is told about a server.
struct ServeState {
  std::vector<Offer> offers;
  int callers = 0;  // with a connection
  int64_t bytes_sent = 0;
  int64_t refused = 0;
};

class Server {
 public:
  // Listens, and has looked at the directory once. Errors: the port, the directory.
  static StatusOr<std::unique_ptr<Server>> Start(const ServeOptions& options);
  ~Server();

  Endpoint endpoint() const { return engine_->endpoint(); }
  ServeState state();

 private:
  using Objects = std::map<std::string, std::shared_ptr<wan::ByteSource>>;
  struct Caller {
    double silent_since = 0;  // 0: it has a connection
  };
  explicit Server(const ServeOptions& options) : options_(options) {}
  bool OnCall(const wan::Call& call);
  void Run();
  void Welcome(ViewId view);
  void Look();
  void LeaveOne();
  void Forget(double now);
  // `there` gets what by_path_ knows it by.
  void AddCommitted(const std::string& path, std::vector<Offer>* offers, Objects* objects,
                    std::set<std::string>* there);
  void AddPartial(const std::string& path, std::vector<Offer>* offers, Objects* objects);

  const ServeOptions options_;
  std::unique_ptr<wan::Engine> engine_;
  // The thread's.
  std::map<int64_t, Caller> callers_;       // by view
  std::map<std::string, Objects> by_path_;  // committed checkpoints, by path and manifest
  std::map<std::string, Offer> offer_by_path_;
  Objects objects_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::set<int64_t> called_;   // views to be joined; guarded by mutex_
  size_t known_ = 0;           // groups whose callers have a connection; guarded by mutex_
  std::vector<Offer> offers_;  // guarded by mutex_
  int connected_ = 0;          // guarded by mutex_
  bool stopping_ = false;      // guarded by mutex_
  std::thread thread_;
};

}  // namespace atl::checkpoint
