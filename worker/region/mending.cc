#include "worker/region/mending.h"

#include <fcntl.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/chunks.h"
#include "checkpoint/names.h"
#include "checkpoint/repair.h"
#include "checkpoint/sha256.h"
#include "proto/round_plan.h"
#include "worker/region/proving.h"

namespace atl {
namespace {

using checkpoint::FileClass;
using checkpoint::Manifest;
using checkpoint::ManifestFile;

constexpr LaneId kLane{0};
constexpr double kPatienceSeconds = 20;  // until a source gives
constexpr double kRetrySeconds = 0.5;
constexpr size_t kMostWaiting = 8;

std::string NameOf(int64_t round) { return absl::StrCat("checkpoint-of-round-", round); }

class CheckpointBytes : public wan::ByteSource {
 public:
  CheckpointBytes(std::string path, std::string text, const Manifest& manifest)
      : path_(std::move(path)),
        head_(LengthOf(text) + text),
        layout_(manifest, static_cast<int64_t>(text.size())) {}

  int64_t size() const override { return layout_.size; }

  Status Read(int64_t offset, std::span<uint8_t> out) override {
    const auto from_head = static_cast<size_t>(std::clamp<int64_t>(
        static_cast<int64_t>(head_.size()) - offset, 0, static_cast<int64_t>(out.size())));
    if (from_head > 0) std::copy_n(head_.data() + offset, from_head, out.data());
    offset += static_cast<int64_t>(from_head);
    out = out.subspan(from_head);
    auto piece = std::upper_bound(
        layout_.pieces.begin(), layout_.pieces.end(), offset,
        [](int64_t at, const GivenLayout::Piece& one) { return at < one.bytes.end; });
    for (; !out.empty() && piece != layout_.pieces.end(); ++piece) {
      const int64_t size = std::min<int64_t>(piece->bytes.end - offset, std::ssize(out));
      const std::string file = absl::StrCat(
          path_, "/", piece->hashes ? checkpoint::ChunkHashName(piece->file) : piece->file);
      ASSIGN_OR_RETURN(const Fd opened, OpenFile(file, O_RDONLY));
      RETURN_IF_ERROR(ReadAt(opened, file, out.data(), size, offset - piece->bytes.begin));
      offset += size;
      out = out.subspan(static_cast<size_t>(size));
    }
    return OkStatus();
  }

 private:
  static std::string LengthOf(const std::string& text) {
    std::string bytes;
    for (int i = 0; i < GivenLayout::kLengthBytes; ++i) {
      bytes.push_back(static_cast<char>(static_cast<uint64_t>(text.size()) >> 8 * i));
    }
    return bytes;
  }

  const std::string path_, head_;
  const GivenLayout layout_;
};

}  // namespace

GivenLayout::GivenLayout(const Manifest& of, int64_t manifest_bytes)
    : manifest{kLengthBytes, kLengthBytes + manifest_bytes}, size(manifest.end) {
  for (const ManifestFile& file : of.files) {
    if (file.file_class != FileClass::kReplicated) continue;
    const auto hashes =
        checkpoint::ChunkCount(file.bytes) * static_cast<int64_t>(checkpoint::kHashBytes);
    for (const bool is_hashes : {true, false}) {
      const Range bytes{size, size + (is_hashes ? hashes : file.bytes)};
      size = bytes.end;
      if (!bytes.empty()) pieces.push_back({bytes, file.name, is_hashes});
    }
  }
}

const GivenLayout::Piece* GivenLayout::Find(const std::string& file, bool hashes) const {
  const auto found = std::find_if(pieces.begin(), pieces.end(), [&](const Piece& piece) {
    return piece.file == file && piece.hashes == hashes;
  });
  return found == pieces.end() ? nullptr : &*found;
}

StatusOr<std::shared_ptr<wan::ByteSource>> GiveCheckpoint(const std::string& path) {
  ASSIGN_OR_RETURN(std::string text, ReadFile(absl::StrCat(path, "/", checkpoint::kManifestName),
                                              checkpoint::kMaxManifestBytes));
  ASSIGN_OR_RETURN(const Manifest manifest, checkpoint::ParseManifest(text));
  return std::make_shared<CheckpointBytes>(path, std::move(text), manifest);
}

GivenSource::GivenSource(wan::Engine* engine, ViewId view, LaneId lane, MemberIndex member,
                         const std::string& region, const std::string& name)
    : engine_(engine),
      view_(view),
      lane_(lane),
      member_(member),
      label_(absl::StrCat("region ", region)),
      name_(name) {}

void GivenSource::Stop() {
  std::shared_ptr<wan::Transfer> transfer;
  {
    MutexLock lock(&mutex_);
    stopped_ = true;
    transfer = transfer_;
  }
  changed_.NotifyAll();
  if (transfer != nullptr) transfer->Cancel();
}

StatusOr<std::string> GivenSource::Fetch(Range bytes) {
  std::string out(static_cast<size_t>(bytes.size()), '\0');
  if (out.empty()) return out;
  wan::FetchRequest request;
  request.name = name_;
  request.sources = {member_};
  request.ranges = {bytes};
  request.out = {reinterpret_cast<uint8_t*>(out.data()), out.size()};
  request.out_begin = bytes.begin;
  std::shared_ptr<wan::Transfer> transfer;
  {
    MutexLock lock(&mutex_);
    if (stopped_) return absl::CancelledError("it was given up");
    transfer = transfer_ = engine_->Fetch(view_, lane_, std::move(request));
  }
  const Status fetched = transfer->Wait();
  MutexLock lock(&mutex_);
  transfer_ = nullptr;
  RETURN_IF_ERROR(fetched);
  return out;
}

StatusOr<std::string> GivenSource::FetchPatiently(Range bytes) {
  const double deadline = Clock::Real()->MonotonicSeconds() + kPatienceSeconds;
  for (;;) {
    StatusOr<std::string> fetched = Fetch(bytes);
    const double left = deadline - Clock::Real()->MonotonicSeconds();
    if (!absl::IsUnavailable(fetched.status()) || left <= 0) return fetched;
    MutexLock lock(&mutex_);
    if (!stopped_) changed_.WaitFor(&mutex_, std::min(left, kRetrySeconds));
  }
}

StatusOr<std::string> GivenSource::ReadManifest() {
  if (layout_ != nullptr) return manifest_text_;
  ASSIGN_OR_RETURN(const std::string length, FetchPatiently({0, GivenLayout::kLengthBytes}));
  uint64_t bytes = 0;
  for (int i = 0; i < GivenLayout::kLengthBytes; ++i) {
    bytes |= uint64_t{static_cast<uint8_t>(length[i])} << 8 * i;
  }
  if (bytes > static_cast<uint64_t>(checkpoint::kMaxManifestBytes)) {
    return absl::DataLossError(absl::StrCat(label_, " gives a manifest of ", bytes, " bytes"));
  }
  const int64_t begin = GivenLayout::kLengthBytes;
  ASSIGN_OR_RETURN(std::string text, Fetch({begin, begin + static_cast<int64_t>(bytes)}));
  ASSIGN_OR_RETURN(const Manifest manifest, checkpoint::ParseManifest(text));
  layout_ = std::make_unique<GivenLayout>(manifest, static_cast<int64_t>(text.size()));
  manifest_text_ = std::move(text);
  return manifest_text_;
}

// What is asked for may be of another manifest than the one that is given here.
StatusOr<Range> GivenSource::Find(const ManifestFile& file, bool hashes) {
  RETURN_IF_ERROR(ReadManifest().status());
  const int64_t bytes =
      hashes ? checkpoint::ChunkCount(file.bytes) * static_cast<int64_t>(checkpoint::kHashBytes)
             : file.bytes;
  const GivenLayout::Piece* const piece = layout_->Find(file.name, hashes);
  if (piece == nullptr || piece->bytes.size() != bytes) {
    return absl::NotFoundError(absl::StrCat(label_, " does not give such a ", file.name));
  }
  return piece->bytes;
}

StatusOr<std::string> GivenSource::ReadHashes(const ManifestFile& file) {
  ASSIGN_OR_RETURN(const Range bytes, Find(file, true));
  return Fetch(bytes);
}

StatusOr<std::string> GivenSource::ReadChunk(const ManifestFile& file, int64_t chunk) {
  ASSIGN_OR_RETURN(const Range bytes, Find(file, false));
  const Range part = checkpoint::ChunkRange(chunk, file.bytes);
  return Fetch({bytes.begin + part.begin, bytes.begin + part.end});
}

Mending::~Mending() {
  std::thread thread;
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
    for (GivenSource* source : sources_) source->Stop();
    thread = std::move(thread_);
  }
  changed_.NotifyAll();
  if (thread.joinable()) thread.join();
}

void Mending::Give(wan::Engine* engine, const pb::View& view, int64_t round,
                   const std::string& path) {
  auto bytes = GiveCheckpoint(path);
  Status given = bytes.status();
  MutexLock lock(&mutex_);
  if (given_view_ == view.id() && given_ != NameOf(round)) {
    engine->StopServing(ViewId{view.id()}, kLane, given_);
  }
  if (given.ok()) {
    given = engine->Serve(ViewId{view.id()}, kLane, NameOf(round), *std::move(bytes));
  }
  given_view_ = view.id();
  given_ = NameOf(round);
  LOG_IF(WARNING, !given.ok()) << "cannot give the checkpoint of round " << round
                               << " to the others: " << given.message();
}

void Mending::Mend(wan::Engine* engine, const pb::View& view, const pb::MendCheckpoint& order) {
  {
    MutexLock lock(&mutex_);
    if (jobs_.size() >= kMostWaiting) {
      LOG(WARNING) << order.path() << " is not mended: " << jobs_.size() << " others wait";
      return;
    }
    jobs_.push_back({engine, view, order});
    if (!thread_.joinable()) thread_ = std::thread([this] { Run(); });
  }
  changed_.NotifyAll();
}

std::vector<pb::CheckpointTended> Mending::TakeTended() {
  MutexLock lock(&mutex_);
  return std::exchange(tended_, {});
}

void Mending::Wait() {
  MutexLock lock(&mutex_);
  while (!jobs_.empty() || busy_) changed_.Wait(&mutex_);
}

void Mending::Run() {
  for (;;) {
    Job job;
    {
      MutexLock lock(&mutex_);
      busy_ = false;
      changed_.NotifyAll();
      while (jobs_.empty() && !stopping_) changed_.Wait(&mutex_);
      if (stopping_) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
      busy_ = true;
    }
    pb::CheckpointTended tended = MendOne(job);
    MutexLock lock(&mutex_);
    tended_.push_back(std::move(tended));
  }
}

void Mending::SetKey(std::shared_ptr<const checkpoint::EncryptionKey> key) {
  MutexLock lock(&mutex_);
  key_ = std::move(key);
}

void Mending::SetElements(int64_t elements) {
  MutexLock lock(&mutex_);
  elements_ = elements;
}

Status Mending::Prove(const Job& job) {
  std::shared_ptr<const checkpoint::EncryptionKey> key;
  int64_t elements = 0;
  {
    MutexLock lock(&mutex_);
    key = key_;
    elements = elements_;
  }
  return HasItsState(job.order.path(), key.get(), elements, [this] {
    MutexLock lock(&mutex_);
    return stopping_;
  });
}

pb::CheckpointTended Mending::MendOne(const Job& job) {
  const double start = Clock::Real()->MonotonicSeconds();
  pb::CheckpointTended tended;
  tended.set_view(job.order.view());
  tended.set_round(job.order.round());
  tended.set_path(job.order.path());
  const bool looks = job.order.replicated_root().empty();
  const Status status = looks ? Prove(job) : Repair(job, &tended);
  tended.set_seconds(Clock::Real()->MonotonicSeconds() - start);
  tended.set_failure(std::string(status.message()));
  LOG(INFO) << job.order.path() << (looks ? " has the round's state" : " is mended")
            << (status.ok() ? "" : ": no, ") << status.message();
  return tended;
}

Status Mending::Repair(const Job& job, pb::CheckpointTended* tended) {
  checkpoint::RepairOptions options;
  options.path = job.order.path();
  options.replicated_root = job.order.replicated_root();
  std::shared_ptr<const checkpoint::EncryptionKey> key;
  std::vector<GivenSource*> sources;
  for (const std::string& region : job.order.sources()) {
    const int member = MemberOf(job.view, region);
    if (member < 0 || region == region_) continue;
    auto source =
        std::make_unique<GivenSource>(job.engine, ViewId{job.view.id()}, kLane, MemberIndex{member},
                                      region, NameOf(job.order.round()));
    sources.push_back(source.get());
    options.sources.push_back(std::move(source));
  }
  {
    MutexLock lock(&mutex_);
    if (stopping_) return absl::CancelledError("this region ends");
    sources_ = sources;
    key = key_;
  }
  options.key = key.get();
  const auto repaired = checkpoint::Repair(options);
  {
    MutexLock lock(&mutex_);
    sources_.clear();
  }
  RETURN_IF_ERROR(repaired.status());
  for (const checkpoint::FetchedFrom& from : repaired->fetched) {
    tended->set_chunks(tended->chunks() + from.chunks);
    tended->set_bytes(tended->bytes() + from.bytes);
  }
  if (!repaired->whole()) {
    return absl::UnavailableError(absl::StrCat("no region gave ", repaired->lost.front().file,
                                               ", chunk ", repaired->lost.front().chunk));
  }
  return OkStatus();
}

}  // namespace atl
