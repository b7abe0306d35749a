// Who leads: the holder of the key PREFIX/leader, which lives as long as its holder's lease.
//
//   1. Campaign: look every quarter of a second; where the key is absent, take a lease and put the
//      key with it, and PREFIX/term, if it is still absent (one transaction). The revision of that
//      transaction names the term.
//   2. While leading a thread keeps the lease alive, three times in its life.
//   3. Everything that a leader writes compares the key's create revision in the same transaction
//      (log.h): once the key is another's, or gone, nothing of the former leader is taken (L2).
//   4. The lease's life is counted from before a keepalive was sent, so that by its own clock a
//      leader is unsure before etcd lets anybody else lead.
//   5. A leader whose lease ran out (it was stopped, or etcd was) takes the key again, if it is
//      absent and PREFIX/term is still that of its own term: then nobody has led since, and
//      nothing was written. Else it is deposed, for ever.
//   6. A leader that ends revokes its lease: the next one need not wait.
//
// Thread rule: one thread, but `standing`, which any may ask.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "base/mutex.h"
#include "base/status.h"
#include "orchestrator/store/etcd/client.h"
#include "orchestrator/store/step_log.h"

namespace atl {

class Leadership {
 public:
  struct Options {
    EtcdPlace place;
    std::string description;  // of this process, for others: JSON
    int64_t ttl_seconds = 5;
    bool wait = false;                // for as long as it takes; else only for a dead one
    std::function<bool()> cancelled;  // asked often
    std::function<void(const std::string&)> say;
  };

  // Errors: another one leads (exit code 4); cancelled (kCancelled); etcd cannot be reached at the
  // beginning, or a certificate does not fit (4).
  static StatusOr<std::unique_ptr<Leadership>> Campaign(const Options& options);
  ~Leadership();

  // Holds as long as this process leads.
  EtcdCompare IsMine() const { return EtcdCompare::Created(key_, term_.load()); }
  StepLog::Standing standing() const;
  // Asks etcd who leads, and takes step 5 where nobody does. Then `standing` is right. Errors: of
  // the calls; nothing is known then.
  Status Verify(EtcdClient* client);

 private:
  Leadership(const Options& options, int64_t lease, int64_t term, double until);
  void KeepAlive();
  void Adopt(int64_t lease, int64_t term, double until);
  Status TakeAgain(EtcdClient* client) ABSL_EXCLUSIVE_LOCKS_REQUIRED(verifying_);

  const Options options_;
  const std::string key_;
  const std::string term_key_;
  Mutex verifying_;  // held while etcd is asked
  // Of a try of step 5 whose answer did not come.
  int64_t lease_of_try_ ABSL_GUARDED_BY(verifying_) = 0;
  std::atomic<int64_t> lease_;
  std::atomic<int64_t> term_;  // revision
  std::atomic<double> until_;  // the lease lives at least so long
  std::atomic<bool> deposed_{false};
  Mutex mutex_;
  CondVar changed_;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace atl
