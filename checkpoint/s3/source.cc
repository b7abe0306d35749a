#include "checkpoint/s3/source.h"

#include <algorithm>
#include <deque>
#include <future>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/exit_code.h"
#include "checkpoint/chunks.h"
#include "checkpoint/names.h"
#include "checkpoint/sha256.h"

namespace atl::checkpoint {
namespace {

constexpr size_t kMostAhead = 8;

class S3Source : public ChunkSource {
 public:
  S3Source(const S3Settings& settings, const S3Place& place)
      : settings_(settings),
        place_(place),
        name_(place.ToString()),
        client_(settings, place.bucket) {}

  const std::string& name() const override { return name_; }
  StatusOr<std::string> ReadManifest() override {
    return client_.Get(place_.In(kManifestName).prefix, {}, kMaxManifestBytes);
  }
  StatusOr<std::string> ReadHashes(const ManifestFile& file) override {
    const auto bytes = ChunkCount(file.bytes) * static_cast<int64_t>(kHashBytes);
    return client_.Get(place_.In(ChunkHashName(file.name)).prefix, {}, bytes);
  }
  StatusOr<std::string> ReadChunk(const ManifestFile& file, int64_t chunk) override;

 private:
  struct Ahead {
    int64_t chunk = 0;
    std::unique_ptr<S3Client> client;
    std::future<StatusOr<std::string>> bytes;
  };
  void FetchAhead(const ManifestFile& file, int64_t chunk);

  const S3Settings settings_;
  const S3Place place_;
  const std::string name_;
  S3Client client_;
  std::vector<std::unique_ptr<S3Client>> idle_;
  std::string file_;         // that is read in order
  int64_t next_ = 0;         // chunk of it
  size_t window_ = 1;        // chunks to have under way
  std::deque<Ahead> ahead_;  // from next_ on, without a gap
};

void S3Source::FetchAhead(const ManifestFile& file, int64_t chunk) {
  Ahead one;
  one.chunk = chunk;
  if (idle_.empty()) {
    one.client = std::make_unique<S3Client>(settings_, place_.bucket);
  } else {
    one.client = std::move(idle_.back());
    idle_.pop_back();
  }
  one.bytes = std::async(
      std::launch::async,
      [client = one.client.get(), range = ChunkRange(chunk, file.bytes),
       key = place_.In(file.name).prefix] { return client->Get(key, range, range.size()); });
  ahead_.push_back(std::move(one));
}

StatusOr<std::string> S3Source::ReadChunk(const ManifestFile& file, int64_t chunk) {
  if (file.name == file_ && chunk == next_) {
    window_ = std::min(2 * window_, kMostAhead);
  } else {
    for (Ahead& one : ahead_) {
      one.bytes.wait();
      idle_.push_back(std::move(one.client));
    }
    ahead_.clear();
    window_ = 1;
  }
  file_ = file.name;
  next_ = chunk + 1;
  const int64_t count = ChunkCount(file.bytes);
  while (ahead_.size() < window_) {
    const int64_t more = ahead_.empty() ? chunk : ahead_.back().chunk + 1;
    if (more >= count) break;
    FetchAhead(file, more);
  }
  if (ahead_.empty()) return UsageError(absl::StrCat(file.name, " has no chunk ", chunk));
  Ahead one = std::move(ahead_.front());
  ahead_.pop_front();
  StatusOr<std::string> bytes = one.bytes.get();
  idle_.push_back(std::move(one.client));
  return bytes;
}

}  // namespace

std::unique_ptr<ChunkSource> MakeS3Source(const S3Settings& settings, const S3Place& place) {
  return std::make_unique<S3Source>(settings, place);
}

StatusOr<std::vector<S3Round>> ListS3Rounds(const S3Settings& settings, const S3Place& directory) {
  S3Client client(settings, directory.bucket);
  ASSIGN_OR_RETURN(const S3Client::Listing listing, client.List(directory.prefix, true));
  std::vector<S3Round> rounds;
  for (const std::string& folder : listing.folders) {
    const std::vector<absl::string_view> parts = absl::StrSplit(folder, '/');
    const auto round = RoundOfName(parts.back());
    if (!round) continue;
    S3Round one{*round, {directory.bucket, folder}, false};
    const auto manifest = client.Head(one.place.In(kManifestName).prefix);
    if (!manifest.ok() && !absl::IsNotFound(manifest.status())) return manifest.status();
    one.complete = manifest.ok();
    rounds.push_back(std::move(one));
  }
  std::sort(rounds.begin(), rounds.end(),
            [](const S3Round& a, const S3Round& b) { return a.round > b.round; });
  return rounds;
}

Status RemoveFromS3(const S3Settings& settings, const S3Place& place) {
  S3Client client(settings, place.bucket);
  const std::string manifest = place.In(kManifestName).prefix;
  RETURN_IF_ERROR(client.Delete(manifest));
  ASSIGN_OR_RETURN(const S3Client::Listing listing, client.List(place.prefix, false));
  for (const std::string& key : listing.keys) {
    if (!absl::StartsWith(key, place.prefix + "/")) continue;  // the server gave what is not ours
    RETURN_IF_ERROR(client.Delete(key));
  }
  return OkStatus();
}

}  // namespace atl::checkpoint
