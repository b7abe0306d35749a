// Gives the checkpoints of a directory to those who have its key.
//
// 1. Calls: a connection for a view that the key made (ViewOf) gets a group of two with the caller
//    as member 0 and us as member 1; others are dropped. At most kMaxCallers groups; one whose
//    caller has had no connection for kForgetSeconds is left, or sooner where there are too many:
//    callers that die and begin anew must not shut others out.
// 2. The directory is looked at every kLookSeconds, by stat; it is read only where something has
//    changed: committed checkpoints, and those that are still being pulled, whose journals tell
//    what may be given of them. Each group serves their objects (wire.h) under the hashes of their
//    manifests; one that is gone is no longer served.
// 3. Files are read as they are, kMaxOpenFiles of them open at a time. A chunk that is damaged here
//    is found by who gets it.
// 4. A checkpoint that is read is held for kHoldSeconds (retention.h), so that a pull that
//    takes longer than a job's checkpoints live can end: at most kMaxHeld of them.
// 5. What is sent is bounded by the rate cap (rate_file.h), and goes behind other traffic as far
//    as `yield` says.
// Thread rule: a thread of its own; OnCall the engine's.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/socket.h"
#include "base/status.h"
#include "checkpoint/transfer/open_files.h"
#include "checkpoint/transfer/rate_file.h"
#include "checkpoint/transfer/served.h"
#include "checkpoint/transfer/wire.h"
#include "collectives/wan/engine.h"

namespace atl::checkpoint {

struct ServeOptions {
  std::string directory;
  Endpoint listen;  // port 0: any free one
  wan::Key key = {};
  bool encrypt = true;          // without: for measuring, and for lines that are encrypted already
  double rate_cap = 0;          // bytes a second, of all callers together; 0: none
  std::function<wan::Yield()> yield;  // wan::EngineOptions
};

// What is told about a server.
struct ServeState {
  std::vector<Offer> offers;
  int callers = 0;  // with a connection
  int64_t bytes_sent = 0;
  int64_t refused = 0;
  double rate_cap = 0;
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
  // One checkpoint of the directory, as it was found.
  struct Known {
    Offer offer;
    Objects objects;
    Status trouble;  // not OK: it cannot be given, and is read again at `again_at`
    double again_at = 0;
    std::shared_ptr<Hold> hold;
  };
  explicit Server(const ServeOptions& options);
  bool OnCall(const wan::Call& call);
  void Run();
  void Welcome(ViewId view);
  void Look();
  void LeaveOne();
  void Forget(double now);
  // What is there, by what stat says of it: key -> path. Committed ones, and those that come.
  void Find(std::map<std::string, std::string>* committed,
            std::map<std::string, std::string>* coming) const;
  Status ReadCommitted(const std::string& path, Known* known);
  Status ReadComing(const std::string& path, Known* known);
  // The known one of this key, read if it is new; null: it cannot be given now.
  Known* Know(const std::string& key, const std::string& path, bool committed);
  void Publish(std::vector<Offer> offers, Objects objects);
  void LookAtRate();

  const ServeOptions options_;
  std::unique_ptr<wan::Engine> engine_;
  // The thread's.
  const std::shared_ptr<OpenFiles> files_;
  const std::shared_ptr<std::atomic<int>> held_ = std::make_shared<std::atomic<int>>(0);
  std::map<int64_t, Caller> callers_;   // by view
  std::map<std::string, Known> known_;  // by path and what stat says of it
  Objects objects_;
  RateFile rate_file_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::set<int64_t> called_;   // views to be joined; guarded by mutex_
  size_t met_ = 0;             // groups whose callers have a connection; guarded by mutex_
  std::vector<Offer> offers_;  // guarded by mutex_
  int connected_ = 0;          // guarded by mutex_
  double cap_ = 0;             // guarded by mutex_
  bool stopping_ = false;      // guarded by mutex_
  std::thread thread_;
};

}  // namespace atl::checkpoint
