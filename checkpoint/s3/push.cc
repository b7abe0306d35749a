#include "checkpoint/s3/push.h"

#include <openssl/evp.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mutex.h"
#include "checkpoint/chunks.h"
#include "checkpoint/manifest.h"
#include "checkpoint/names.h"
#include "checkpoint/sha256.h"

namespace atl::checkpoint {
namespace {

constexpr int64_t kMostParts = 9000;  // S3's limit is 10000

std::string Md5Hex(absl::string_view bytes) {
  uint8_t digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  CHECK_EQ(EVP_Digest(bytes.data(), bytes.size(), digest, &size, EVP_md5(), nullptr), 1);
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<char*>(digest), size));
}

class Pusher {
 public:
  explicit Pusher(const PushOptions& options)
      : options_(options), client_(options.settings, options.directory.bucket) {}
  StatusOr<PushResult> Run();

 private:
  // What a file is cut into, and whose bytes are known good.
  struct File {
    std::string name;
    int64_t bytes = 0;
    std::string root;
    std::string hashes;
  };

  std::string Key(const std::string& name) const { return result_.place.In(name).prefix; }
  Status CheckManifest(const std::string& text);
  Status PushFile(const File& file);
  Status PushHashes(const File& file);
  Status PushParts(const File& file);
  // The next part of `todo` as long as there is one.
  void PartThread(const File& file, const std::string& upload, int64_t part_bytes,
                  const std::map<int, S3Client::Part>& there);
  StatusOr<std::string> ReadVerified(ChunkReader* reader, const File& file, Range bytes) const;
  // Whether the object is there, as it should be.
  StatusOr<bool> IsThere(const std::string& key, int64_t bytes, const std::string& root);
  void Progress(int64_t bytes, bool was_there);

  const PushOptions& options_;
  S3Client client_;
  PushResult result_;
  std::atomic<int> next_part_{1};
  int parts_ = 0;
  Mutex mutex_;
  int64_t done_ ABSL_GUARDED_BY(mutex_) = 0;
  Status failed_ ABSL_GUARDED_BY(mutex_);
  std::map<int, S3Client::Part> sent_ ABSL_GUARDED_BY(mutex_);
};

void Pusher::Progress(int64_t bytes, bool was_there) {
  MutexLock lock(&mutex_);
  done_ += bytes;
  if (was_there) result_.bytes_there += bytes;
  if (options_.progress) options_.progress(done_, result_.bytes);
}

StatusOr<bool> Pusher::IsThere(const std::string& key, int64_t bytes, const std::string& root) {
  const StatusOr<S3Client::Object> object = client_.Head(key);
  if (absl::IsNotFound(object.status())) return false;
  RETURN_IF_ERROR(object.status());
  return object->bytes == bytes && object->root == root;
}

StatusOr<std::string> Pusher::ReadVerified(ChunkReader* reader, const File& file,
                                           Range bytes) const {
  std::string part;
  part.reserve(static_cast<size_t>(bytes.size()));
  for (int64_t chunk = bytes.begin / kChunkBytes; chunk * kChunkBytes < bytes.end; ++chunk) {
    const auto hash =
        absl::string_view(file.hashes).substr(static_cast<size_t>(chunk) * kHashBytes, kHashBytes);
    ASSIGN_OR_RETURN(const absl::string_view good, reader->ReadVerified(chunk, hash));
    absl::StrAppend(&part, good);
  }
  return part;
}

void Pusher::PartThread(const File& file, const std::string& upload, int64_t part_bytes,
                        const std::map<int, S3Client::Part>& there) {
  S3Client client(options_.settings, options_.directory.bucket);
  const auto push = [&](int number) -> Status {
    ASSIGN_OR_RETURN(ChunkReader reader,
                     ChunkReader::Open(absl::StrCat(options_.path, "/", file.name), file.bytes));
    const Range range{(number - 1) * part_bytes, std::min(number * part_bytes, file.bytes)};
    ASSIGN_OR_RETURN(const std::string bytes, ReadVerified(&reader, file, range));
    const auto found = there.find(number);
    const bool is_there = found != there.end() && found->second.bytes == range.size() &&
                          found->second.etag == Md5Hex(bytes);
    S3Client::Part part{range.size(), is_there ? found->second.etag : ""};
    if (!is_there) {
      ASSIGN_OR_RETURN(part.etag, client.UploadPart(Key(file.name), upload, number, bytes));
    }
    {
      MutexLock lock(&mutex_);
      sent_[number] = std::move(part);
    }
    Progress(range.size(), is_there);
    return OkStatus();
  };
  while (true) {
    const int number = next_part_.fetch_add(1);
    {
      MutexLock lock(&mutex_);
      if (number > parts_ || !failed_.ok()) return;
    }
    const Status status = push(number);
    if (status.ok()) continue;
    MutexLock lock(&mutex_);
    if (failed_.ok()) failed_ = status;
    return;
  }
}

Status Pusher::PushParts(const File& file) {
  int64_t part_bytes = options_.part_bytes;
  while (part_bytes * kMostParts < file.bytes) part_bytes *= 2;
  parts_ = static_cast<int>((file.bytes + part_bytes - 1) / part_bytes);
  next_part_.store(1);
  {
    MutexLock lock(&mutex_);
    sent_.clear();
  }
  ASSIGN_OR_RETURN(std::string upload, client_.FindUpload(Key(file.name)));
  std::map<int, S3Client::Part> there;
  if (!upload.empty()) {
    auto parts = client_.ListParts(Key(file.name), upload);
    if (parts.ok()) {
      there = *std::move(parts);
    } else {
      upload.clear();
    }
  }
  if (upload.empty()) {
    ASSIGN_OR_RETURN(upload, client_.CreateUpload(Key(file.name), file.root));
  }
  std::vector<std::thread> threads;
  for (int i = 0; i < std::min(options_.threads, parts_); ++i) {
    threads.emplace_back([&] { PartThread(file, upload, part_bytes, there); });
  }
  for (std::thread& thread : threads) thread.join();
  std::map<int, S3Client::Part> sent;
  {
    MutexLock lock(&mutex_);
    RETURN_IF_ERROR(failed_);
    sent = sent_;
  }
  const Status completed = client_.CompleteUpload(Key(file.name), upload, sent);
  if (completed.ok()) return completed;
  // The server may have done it and its answer got lost; then the upload is no more.
  const StatusOr<bool> is_there = IsThere(Key(file.name), file.bytes, file.root);
  return is_there.ok() && *is_there ? OkStatus() : completed;
}

Status Pusher::PushHashes(const File& file) {
  const std::string key = Key(ChunkHashName(file.name));
  ASSIGN_OR_RETURN(const bool there,
                   IsThere(key, static_cast<int64_t>(file.hashes.size()), file.root));
  return there ? OkStatus() : client_.Put(key, file.hashes, file.root);
}

Status Pusher::PushFile(const File& file) {
  const std::string key = Key(file.name);
  ASSIGN_OR_RETURN(const bool there, IsThere(key, file.bytes, file.root));
  if (there) {
    Progress(file.bytes, true);
  } else if (file.bytes > options_.part_bytes) {
    RETURN_IF_ERROR(PushParts(file));
    // An upload that was begun for other contents keeps the metadata of its beginning.
    ASSIGN_OR_RETURN(const bool right, IsThere(key, file.bytes, file.root));
    if (!right) {
      RETURN_IF_ERROR(client_.Delete(key));
      return WithExitCode(absl::AbortedError(absl::StrCat(
                              "an unfinished upload of another checkpoint was in the way of s3://",
                              options_.directory.bucket, "/", key, "; it is gone now: push again")),
                          ExitCode::kEnvironment);
    }
  } else {
    ASSIGN_OR_RETURN(ChunkReader reader,
                     ChunkReader::Open(absl::StrCat(options_.path, "/", file.name), file.bytes));
    ASSIGN_OR_RETURN(const std::string bytes, ReadVerified(&reader, file, {0, file.bytes}));
    RETURN_IF_ERROR(client_.Put(key, bytes, file.root));
    Progress(file.bytes, false);
  }
  return PushHashes(file);
}

Status Pusher::CheckManifest(const std::string& text) {
  const std::string key = Key(kManifestName);
  const StatusOr<std::string> there = client_.Get(key, {}, kMaxManifestBytes);
  if (absl::IsNotFound(there.status())) return OkStatus();
  RETURN_IF_ERROR(there.status());
  result_.was_there = *there == text;
  if (result_.was_there) return OkStatus();
  if (options_.replace) return client_.Delete(key);
  return UsageError(absl::StrCat(result_.place.ToString(),
                                 " is another checkpoint of this round: take another prefix, or "
                                 "--replace to have this one there instead"));
}

StatusOr<PushResult> Pusher::Run() {
  const std::string path = absl::StrCat(options_.path, "/", kManifestName);
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxManifestBytes));
  const StatusOr<Manifest> manifest = ParseManifest(text);
  if (!manifest.ok()) return Annotate(manifest.status(), path + " can't be used");
  result_.round = manifest->description.round;
  result_.place = options_.directory.In(RoundName(result_.round));
  std::vector<File> files;
  for (const ManifestFile& listed : manifest->files) {
    File file{listed.name, listed.bytes, listed.root, ""};
    const std::string hashes = absl::StrCat(options_.path, "/", ChunkHashName(listed.name));
    ASSIGN_OR_RETURN(file.hashes,
                     ReadFile(hashes, ChunkCount(listed.bytes) * static_cast<int64_t>(kHashBytes)));
    if (Sha256Hex(file.hashes) != listed.root) {
      return UsageError(absl::StrCat(hashes,
                                     " does not fit its root in the manifest: repair the "
                                     "checkpoint first"));
    }
    result_.bytes += listed.bytes;
    files.push_back(std::move(file));
  }
  RETURN_IF_ERROR(CheckManifest(text));
  for (const File& file : files) {
    RETURN_IF_ERROR(Annotate(PushFile(file), absl::StrCat("while pushing ", file.name)));
  }
  if (!result_.was_there) {
    RETURN_IF_ERROR(client_.Put(Key(kManifestName), text,
                                manifest->files.empty() ? "" : RootOf(*manifest, false)));
  }
  return result_;
}

}  // namespace

StatusOr<PushResult> PushToS3(const PushOptions& options) {
  CHECK_EQ(options.part_bytes % kChunkBytes, 0);
  return Pusher(options).Run();
}

}  // namespace atl::checkpoint
