// One source of a pull: the connection to it, what it offers, what of the wanted checkpoint it has.
//
// 1. A group of two over the engine's links (ViewOf): we call, it is called. The engine makes the
//    connections again when they break.
// 2. Its catalog is fetched, again and again until it comes.
// 3. Once the pull knows what it wants (SetTarget), the source's own manifest tells which of the
//    wanted files it has: those with the same root. A region's checkpoint differs from another's in
//    some files only.
// 4. What it has is told as a bitmap; from a source that is itself still pulling, anew each second.
// 5. When a fetch from it fails (Recheck) it all begins again with 2.
// Thread rule: a thread of its own; the public methods any thread.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/range.h"
#include "base/socket.h"
#include "base/status.h"
#include "checkpoint/transfer/wire.h"
#include "collectives/wan/engine.h"

namespace atl::checkpoint {

struct Target {
  Manifest manifest;
  std::string hash;  // of the manifest, raw
};

// Where a source has the target's files.
struct FilesAt {
  std::string hash;        // of its own manifest, raw
  std::vector<int> index;  // by the target's files: its number there, or -1
};

class Session {
 public:
  struct Hooks {
    std::function<void(std::vector<Offer>)> offers;
    // `has`: a bit a chunk of the target.
    std::function<void(FilesAt at, std::string has)> has;
    std::function<void(const Status& why)> trouble;
  };

  Session(wan::Engine* engine, Endpoint source, const wan::Key& key, Hooks hooks);
  ~Session();  // the engine must still be there

  std::string name() const { return source_.ToString(); }
  void SetTarget(std::shared_ptr<const Target> target);
  void Recheck();
  // Bytes of an object, at least one, by a deadline.
  StatusOr<std::string> Get(const std::string& object, Range bytes, double seconds);
  // Its `sources` are filled in.
  std::shared_ptr<wan::Transfer> Fetch(wan::FetchRequest request);
  double round_trip() const;

 private:
  void Run();
  // Why there is no connection; empty if there is one, or no call has failed yet.
  std::string Unconnected() const;
  // One way through 2 to 4. Returns when it is to begin again.
  Status Serve();
  StatusOr<FilesAt> Locate(const Target& target, const std::vector<Offer>& offers, Offer* of);
  StatusOr<std::string> Has(const Target& target, const FilesAt& at, const Offer& of);
  // False: it ends, or began again.
  bool Pause(double seconds);
  std::shared_ptr<const Target> AwaitTarget();

  wan::Engine* const engine_;
  const Endpoint source_;
  const ViewId view_;
  const Hooks hooks_;
  Manifest theirs_;  // the thread's
  std::mutex mutex_;
  std::condition_variable changed_;
  std::shared_ptr<const Target> target_;  // guarded by mutex_
  bool stopping_ = false;                 // guarded by mutex_
  bool recheck_ = false;                  // guarded by mutex_
  std::thread thread_;
};

}  // namespace atl::checkpoint
