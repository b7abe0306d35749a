// Replicas of a checkpoint that differ become the same again, behind the rounds: on rank 0 of a
// region, over the links of the view (collectives/wan/transfer.h), on which training goes first.
//
//   1. The orchestrator has compared what the regions say of a checkpoint. To those of the majority
//      it says: give it. Give() serves CheckpointBytes of what the disk holds, until the next one
//      or the view's end; files are opened for each read, so nothing is kept from being removed.
//   2. To each of the others: mend it. A thread repairs its replica (checkpoint/repair.h): its own
//      inner state stays, the replicated files become the others', chunk by chunk; chunks that are
//      right are taken from the own disk, and each that comes is compared with its hash, and all of
//      them with the root that the orchestrator said.
//   3. Where there is no majority it says to each: look (an order without a root). The thread reads
//      the replica and compares its state with the round's digest (proving.h).
//   4. How it ended is told by TakeTended(). A view that ends meanwhile, or a checkpoint that was
//      removed, ends it; nothing was changed then.
//
// Thread rule: any thread calls; one thread of its own. Memory: a chunk (4 MiB) and manifests; 32
// MiB where it looks.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "base/range.h"
#include "base/status.h"
#include "checkpoint/chunk_source.h"
#include "checkpoint/encryption.h"
#include "checkpoint/manifest.h"
#include "collectives/wan/engine.h"
#include "proto/control.pb.h"

namespace atl {

// What a region gives of a checkpoint, as one run of bytes: the length of the manifest (8 bytes,
// little-endian), the manifest, then of each replicated file, by name, the hashes and the bytes.
struct GivenLayout {
  struct Piece {
    Range bytes;  // of the whole
    std::string file;
    bool hashes = false;
  };
  Range manifest;
  std::vector<Piece> pieces;
  int64_t size = 0;

  static constexpr int64_t kLengthBytes = 8;
  GivenLayout(const checkpoint::Manifest& manifest, int64_t manifest_bytes);
  const Piece* Find(const std::string& file, bool hashes) const;
};

// Errors: no such checkpoint, or one whose manifest can't be used.
StatusOr<std::shared_ptr<wan::ByteSource>> GiveCheckpoint(const std::string& path);

// The same at the other end: what `member` of (view, lane) gives under `name`. `stop` set and what
// is under way cancelled: everything fails. One thread, but Stop() any.
class GivenSource : public checkpoint::ChunkSource {
 public:
  GivenSource(wan::Engine* engine, ViewId view, LaneId lane, MemberIndex member,
              const std::string& region, const std::string& name);
  const std::string& name() const override { return label_; }
  StatusOr<std::string> ReadManifest() override;
  StatusOr<std::string> ReadHashes(const checkpoint::ManifestFile& file) override;
  StatusOr<std::string> ReadChunk(const checkpoint::ManifestFile& file, int64_t chunk) override;
  void Stop();

 private:
  // A member that does not give yet is asked again for some seconds.
  StatusOr<std::string> FetchPatiently(Range bytes);
  StatusOr<std::string> Fetch(Range bytes);
  StatusOr<Range> Find(const checkpoint::ManifestFile& file, bool hashes);

  wan::Engine* const engine_;
  const ViewId view_;
  const LaneId lane_;
  const MemberIndex member_;
  const std::string label_, name_;
  std::string manifest_text_;  // once read
  std::unique_ptr<GivenLayout> layout_;

  Mutex mutex_;
  CondVar changed_;
  std::shared_ptr<wan::Transfer> transfer_ ABSL_GUARDED_BY(mutex_);
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
};

class Mending {
 public:
  explicit Mending(std::string region) : region_(std::move(region)) {}
  ~Mending();  // ends what is under way

  // Of encrypted checkpoints: without it those can be given, but not mended. Before Mend().
  void SetKey(std::shared_ptr<const checkpoint::EncryptionKey> key);

  // Of the flat vector, padding included. Before Mend().
  void SetElements(int64_t elements);

  // `path`: this region's checkpoint of that round. Errors are logged: others may have it.
  void Give(wan::Engine* engine, const pb::View& view, int64_t round, const std::string& path);
  // `engine` outlives this object.
  void Mend(wan::Engine* engine, const pb::View& view, const pb::MendCheckpoint& order);

  // What has ended since the last call.
  std::vector<pb::CheckpointTended> TakeTended();
  // Until all that was to be mended has ended.
  void Wait();

 private:
  struct Job {
    wan::Engine* engine;
    pb::View view;
    pb::MendCheckpoint order;
  };
  void Run();
  pb::CheckpointTended MendOne(const Job& job);
  Status Repair(const Job& job, pb::CheckpointTended* tended);
  Status Prove(const Job& job);

  const std::string region_;
  Mutex mutex_;
  std::shared_ptr<const checkpoint::EncryptionKey> key_ ABSL_GUARDED_BY(mutex_);
  int64_t elements_ ABSL_GUARDED_BY(mutex_) = 0;
  CondVar changed_;
  std::deque<Job> jobs_ ABSL_GUARDED_BY(mutex_);
  std::vector<GivenSource*> sources_ ABSL_GUARDED_BY(mutex_);  // of the job under way
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<pb::CheckpointTended> tended_ ABSL_GUARDED_BY(mutex_);
  std::string given_ ABSL_GUARDED_BY(mutex_);  // the name under which something is served
  int64_t given_view_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace atl
