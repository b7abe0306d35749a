// The step log in etcd (docs/protocols/orchestrator.md has the keys and why it holds).
//
//   PREFIX/leader          who leads (leadership.h); lives with its lease
//   PREFIX/term            the same, for ever
//   PREFIX/key             the orchestrator's public key: who comes with another one is refused
//   PREFIX/step/N          step N, N in 16 hex digits, from 0 on
//   PREFIX/part/N/K        pieces of a step that does not fit into a request
//   PREFIX/image           number of the first step that the newest image lacks, its pieces
//   PREFIX/image/N/K       the image's pieces
//
// A write is one transaction that holds only if this process still leads and step N is not there:
//   1. A step that is longer than a request goes in pieces first; what a writer that died leaves
//      of them is overwritten by the next one, since the step's key comes last.
//   2. Where the answer does not come, the step may be there. It is sent again; the comparison
//      fails if it was, and then the value under the key, which nobody else could have sealed
//      alike, says whose it is.
//      Where the comparison fails for another reason, leadership.h says whether to try again.
//   3. An image goes in pieces, then one transaction makes it the newest, and removes the steps
//      that are in it and what is left of other images.
// Values are sealed (sealed_value.h).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "control/keys.h"
#include "orchestrator/store/etcd/client.h"
#include "orchestrator/store/etcd/leadership.h"
#include "orchestrator/store/etcd/sealed_value.h"
#include "orchestrator/store/step_log.h"

namespace atl {

class EtcdLog : public StepLog {
 public:
  struct Options {
    KeyPair keys;                    // of the orchestrator
    size_t piece_bytes = 900 << 10;  // etcd's default limit is 1.5 MiB a request
    int64_t image_bytes = 1 << 20;   // so many of steps want an image, at least
    double retry_seconds = 0.25;
  };

  // Waits until this process leads.
  static StatusOr<std::unique_ptr<EtcdLog>> Open(const Options& options,
                                                 const Leadership::Options& leadership);

  std::string name() const override { return "etcd at " + place_.ToString(); }
  StatusOr<std::optional<std::string>> ReadImage() override;
  Status ReadSteps(const std::function<Status(const std::vector<Record>& records)>& use) override;
  Status Append(const std::vector<Record>& records) override;
  bool WantsImage() const override;
  Status WriteImage(const std::string& image) override;
  Standing standing() const override { return leadership_->standing(); }
  void set_on_wait(OnWait on_wait) override { on_wait_ = std::move(on_wait); }

 private:
  EtcdLog(const Options& options, const EtcdPlace& place, std::unique_ptr<Leadership> leadership);
  Status CheckKey();
  Status Deposed();
  // A transaction's comparison failed: deposed, or to be tried again.
  Status NotAccepted();
  std::string Key(absl::string_view kind) const;
  std::string Key(absl::string_view kind, int64_t number) const;
  // Calls until it is done, deposed, or given up.
  Status Persist(const std::function<Status()>& call);
  Status TryAppend(const std::string& key, const std::string& value,
                   const std::vector<std::string>& pieces);
  Status PutAsLeader(const std::string& key, const std::string& value);
  StatusOr<std::string> ReadPieces(const std::string& folder, int64_t count);
  std::vector<std::string> Cut(const std::string& bytes) const;

  const Options options_;
  const EtcdPlace place_;
  const std::unique_ptr<Leadership> leadership_;
  const ValueSealer sealer_;
  EtcdClient client_;
  OnWait on_wait_;
  int64_t next_ = 0;         // step
  int64_t first_ = 0;        // step after the image
  int64_t steps_bytes_ = 0;  // of the steps since
  int64_t image_size_ = 0;
};

}  // namespace atl
