#include "checkpoint/transfer/remote_source.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/chunks.h"
#include "checkpoint/sha256.h"
#include "checkpoint/transfer/session.h"
#include "checkpoint/transfer/wire.h"

namespace atl::checkpoint {
namespace {

constexpr size_t kAhead = 8;
constexpr double kCatalogSeconds = 20;
constexpr double kObjectSeconds = 20;
// A slower line than this is no help.
constexpr double kSlowestRate = 64e3;

double SecondsFor(int64_t bytes) {
  return kObjectSeconds + static_cast<double>(bytes) / kSlowestRate;
}

class RemoteSource : public ChunkSource {
 public:
  RemoteSource(const Endpoint& source, int64_t round)
      : name_(absl::StrCat("atoll://", source.ToString())), round_(round) {}
  ~RemoteSource() override {
    for (Ahead& ahead : ahead_) ahead.transfer->Cancel();
    session_.reset();
  }

  Status Start(const Endpoint& source, const wan::Key& key, bool encrypt) {
    wan::EngineOptions options;
    options.only_calls_out = true;
    options.encrypt = encrypt;
    ASSIGN_OR_RETURN(engine_, wan::Engine::Create(options));
    Session::Hooks hooks;
    hooks.offers = [this](std::vector<Offer> offers) {
      std::lock_guard<std::mutex> lock(mutex_);
      offers_ = std::move(offers);
      changed_.notify_all();
    };
    hooks.has = [](const FilesAt&, const std::string&) {};
    hooks.trouble = [this](const Status& why) {
      std::lock_guard<std::mutex> lock(mutex_);
      trouble_ = why;
      changed_.notify_all();
    };
    session_ = std::make_unique<Session>(engine_.get(), source, key, hooks);
    return OkStatus();
  }

  const std::string& name() const override { return name_; }
  StatusOr<std::string> ReadManifest() override;
  StatusOr<std::string> ReadHashes(const ManifestFile& file) override;
  StatusOr<std::string> ReadChunk(const ManifestFile& file, int64_t chunk) override;
  void Expect(const std::vector<ChunkId>& chunks) override {
    expected_.assign(chunks.begin(), chunks.end());
  }

 private:
  struct Ahead {
    std::string file;
    int64_t chunk = 0;
    std::string bytes;
    std::shared_ptr<wan::Transfer> transfer;
  };
  StatusOr<Offer> AwaitOffer();
  // The number of a file with this content in the source's manifest.
  StatusOr<int64_t> NumberOf(const std::string& name, const std::string& root);
  void FetchAhead();

  const std::string name_;
  const int64_t round_;
  std::unique_ptr<wan::Engine> engine_;
  std::optional<Manifest> manifest_;
  std::string hash_;
  std::deque<ChunkId> expected_;
  std::list<Ahead> ahead_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<std::vector<Offer>> offers_;  // guarded by mutex_
  Status trouble_;                            // guarded by mutex_
  std::unique_ptr<Session> session_;
};

StatusOr<Offer> RemoteSource::AwaitOffer() {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait_for(lock, std::chrono::duration<double>(kCatalogSeconds),
                    [this] { return offers_.has_value() || !trouble_.ok(); });
  if (!offers_.has_value()) {
    return trouble_.ok() ? absl::DeadlineExceededError("it does not answer") : trouble_;
  }
  for (const Offer& offer : *offers_) {
    if (offer.round == round_ && offer.complete) return offer;
  }
  return absl::NotFoundError(absl::StrCat("it has no checkpoint of round ", round_));
}

StatusOr<std::string> RemoteSource::ReadManifest() {
  ASSIGN_OR_RETURN(const Offer offer, AwaitOffer());
  ASSIGN_OR_RETURN(std::string text,
                   session_->Get(ManifestObject(offer.manifest_hash), {0, offer.manifest_bytes},
                                 SecondsFor(offer.manifest_bytes)));
  if (Sha256(text) != offer.manifest_hash) {
    return absl::DataLossError("its manifest is not the one that it offers");
  }
  hash_ = offer.manifest_hash;
  ASSIGN_OR_RETURN(manifest_, ParseManifest(text));
  return text;
}

StatusOr<int64_t> RemoteSource::NumberOf(const std::string& name, const std::string& root) {
  if (!manifest_.has_value()) RETURN_IF_ERROR(ReadManifest().status());
  for (size_t i = 0; i < manifest_->files.size(); ++i) {
    const ManifestFile& file = manifest_->files[i];
    if (file.name == name && (root.empty() || file.root == root)) return static_cast<int64_t>(i);
  }
  return absl::NotFoundError(absl::StrCat("it has no such ", name));
}

StatusOr<std::string> RemoteSource::ReadHashes(const ManifestFile& file) {
  ASSIGN_OR_RETURN(const int64_t number, NumberOf(file.name, file.root));
  const int64_t bytes = ChunkCount(file.bytes) * static_cast<int64_t>(kHashBytes);
  return session_->Get(HashesObject(hash_, number), {0, bytes}, SecondsFor(bytes));
}

void RemoteSource::FetchAhead() {
  while (!expected_.empty() && ahead_.size() < kAhead) {
    const ChunkId next = expected_.front();
    expected_.pop_front();
    const StatusOr<int64_t> number = NumberOf(next.file, "");
    if (!number.ok() || next.chunk < 0) continue;
    const Range range = ChunkRange(next.chunk, manifest_->files[*number].bytes);
    if (range.empty()) continue;
    Ahead& ahead = ahead_.emplace_back();
    ahead.file = next.file;
    ahead.chunk = next.chunk;
    ahead.bytes.resize(static_cast<size_t>(range.size()));
    wan::FetchRequest request;
    request.name = FileObject(hash_, *number);
    request.ranges = {range};
    request.out = {reinterpret_cast<uint8_t*>(ahead.bytes.data()), ahead.bytes.size()};
    request.out_begin = range.begin;
    ahead.transfer = session_->Fetch(std::move(request));
  }
}

StatusOr<std::string> RemoteSource::ReadChunk(const ManifestFile& file, int64_t chunk) {
  ASSIGN_OR_RETURN(const int64_t number, NumberOf(file.name, file.root));
  FetchAhead();
  for (auto at = ahead_.begin(); at != ahead_.end(); ++at) {
    if (at->file != file.name || at->chunk != chunk) continue;
    // What the caller does not ask for after all, because it has it from elsewhere, is dropped.
    for (auto before = ahead_.begin(); before != at;) {
      before->transfer->Cancel();
      before = ahead_.erase(before);
    }
    const Status status = at->transfer->Wait();
    std::string bytes = std::move(at->bytes);
    ahead_.erase(at);
    if (status.ok()) return bytes;
    break;  // once more, by itself
  }
  const Range range = ChunkRange(chunk, file.bytes);
  return session_->Get(FileObject(hash_, number), range, SecondsFor(range.size()));
}

}  // namespace

StatusOr<std::unique_ptr<ChunkSource>> MakeRemoteSource(const Endpoint& source, const wan::Key& key,
                                                        int64_t round, bool encrypt) {
  auto remote = std::make_unique<RemoteSource>(source, round);
  RETURN_IF_ERROR(remote->Start(source, key, encrypt));
  return remote;
}

}  // namespace atl::checkpoint
