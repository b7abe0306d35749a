#include "checkpoint/transfer/session.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/random.h"
#include "checkpoint/sha256.h"
#include "checkpoint/transfer/key_file.h"

namespace atl::checkpoint {
namespace {

constexpr LaneId kLane = {0};
constexpr MemberIndex kSource = {1};
constexpr double kCatalogSeconds = 15;
// For a manifest or a bitmap: so long, and as long as a slow line needs.
constexpr double kObjectSeconds = 15;
constexpr double kSlowestRate = 64e3;
constexpr double kHaveSeconds = 1;
constexpr double kLookSeconds = 0.25;
// Calls have failed for so long.
constexpr double kUnconnectedSeconds = 3;
constexpr double kFirstPause = 0.5;
constexpr double kLastPause = 5;

double SecondsFor(int64_t bytes) {
  return kObjectSeconds + static_cast<double>(bytes) / kSlowestRate;
}

ViewId NewView(const wan::Key& key) {
  uint32_t number = 0;
  FillWithSystemRandom(&number, sizeof number);
  return ViewOf(key, number);
}

}  // namespace

Session::Session(wan::Engine* engine, Endpoint source, const wan::Key& key, Hooks hooks)
    : engine_(engine), source_(std::move(source)), view_(NewView(key)), hooks_(std::move(hooks)) {
  wan::Group group;
  group.view = view_;
  group.lane = kLane;
  group.self = {0};
  group.members = {Endpoint(), source_};
  group.names = {"this", source_.ToString()};
  group.key = key;
  group.transfers_only = true;
  const Status joined = engine_->Join(group, kCatalogSeconds);
  thread_ = std::thread([this, joined] {
    if (!joined.ok()) return hooks_.trouble(joined);
    Run();
  });
}

Session::~Session() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  engine_->Leave(view_);  // what is being fetched ends
  thread_.join();
}

void Session::SetTarget(std::shared_ptr<const Target> target) {
  std::lock_guard<std::mutex> lock(mutex_);
  target_ = std::move(target);
  changed_.notify_all();
}

void Session::Recheck() {
  std::lock_guard<std::mutex> lock(mutex_);
  recheck_ = true;
  changed_.notify_all();
}

double Session::round_trip() const {
  for (const wan::LinkStatus& link : engine_->Links()) {
    if (link.view == view_) return link.rtt_seconds;
  }
  return 0;
}

std::shared_ptr<wan::Transfer> Session::Fetch(wan::FetchRequest request) {
  request.sources = {kSource};
  return engine_->Fetch(view_, kLane, std::move(request));
}

StatusOr<std::string> Session::Get(const std::string& object, Range bytes, double seconds) {
  struct Waiter {
    std::mutex mutex;
    std::condition_variable changed;
    bool done = false;
  };
  const auto waiter = std::make_shared<Waiter>();
  std::string out(static_cast<size_t>(bytes.size()), '\0');
  wan::FetchRequest request;
  request.name = object;
  request.ranges = {bytes};
  request.out_begin = bytes.begin;
  request.out = {reinterpret_cast<uint8_t*>(out.data()), out.size()};
  request.done = [waiter] {
    std::lock_guard<std::mutex> lock(waiter->mutex);
    waiter->done = true;
    waiter->changed.notify_all();
  };
  const std::shared_ptr<wan::Transfer> transfer = Fetch(std::move(request));
  std::string unconnected;
  double unconnected_seconds = 0;
  for (double waited = 0; waited < seconds && unconnected_seconds < kUnconnectedSeconds;
       waited += kLookSeconds) {
    {
      std::unique_lock<std::mutex> lock(waiter->mutex);
      if (waiter->changed.wait_for(lock, std::chrono::duration<double>(kLookSeconds),
                                   [&] { return waiter->done; })) {
        break;
      }
    }
    unconnected = Unconnected();
    unconnected_seconds = unconnected.empty() ? 0 : unconnected_seconds + kLookSeconds;
  }
  transfer->Cancel();
  const Status status = transfer->Wait();
  if (status.ok()) return out;
  const wan::FetchProgress progress = transfer->Progress();
  std::string why(status.message());
  if (!progress.fallen.empty()) why = std::string(progress.fallen[0].why.message());
  if (absl::IsCancelled(status)) why = absl::StrCat("it did not give its ", object, " in time");
  return absl::UnavailableError(unconnected.empty() ? why : unconnected);
}

std::string Session::Unconnected() const {
  for (const wan::LinkStatus& link : engine_->Links()) {
    if (link.view != view_ || link.connections > 0 || link.last_error.empty()) continue;
    return absl::StrCat("no connection: ", link.last_error,
                        " (does `atoll checkpoint serve` run there, with the same key?)");
  }
  return "";
}

bool Session::Pause(double seconds) {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait_for(lock, std::chrono::duration<double>(seconds),
                    [this] { return stopping_ || recheck_; });
  return !stopping_ && !recheck_;
}

std::shared_ptr<const Target> Session::AwaitTarget() {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return stopping_ || recheck_ || target_ != nullptr; });
  return stopping_ || recheck_ ? nullptr : target_;
}

void Session::Run() {
  double pause = kFirstPause;
  while (true) {
    const double began = Clock::Real()->MonotonicSeconds();
    const Status status = Serve();
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (stopping_) return;
      recheck_ = false;
    }
    if (!status.ok()) hooks_.trouble(status);
    const bool lasted = Clock::Real()->MonotonicSeconds() - began > kLastPause;
    pause = lasted ? kFirstPause : std::min(2 * pause, kLastPause);
    (void)Pause(pause);
  }
}

Status Session::Serve() {
  ASSIGN_OR_RETURN(const std::string catalog,
                   Get(kCatalogName, {0, kCatalogBytes}, kCatalogSeconds));
  ASSIGN_OR_RETURN(const std::vector<Offer> offers, ParseCatalog(catalog));
  hooks_.offers(offers);
  const std::shared_ptr<const Target> target = AwaitTarget();
  if (target == nullptr) return OkStatus();
  Offer of;
  ASSIGN_OR_RETURN(const FilesAt at, Locate(*target, offers, &of));
  do {
    ASSIGN_OR_RETURN(std::string has, Has(*target, at, of));
    hooks_.has(at, std::move(has));
  } while (Pause(of.complete ? 1e6 : kHaveSeconds));
  return OkStatus();
}

StatusOr<FilesAt> Session::Locate(const Target& target, const std::vector<Offer>& offers,
                                  Offer* of) {
  FilesAt at;
  for (const Offer& offer : offers) {
    if (offer.manifest_hash != target.hash) continue;
    *of = offer;
    at.hash = offer.manifest_hash;
    theirs_ = target.manifest;
    for (size_t i = 0; i < theirs_.files.size(); ++i) at.index.push_back(static_cast<int>(i));
    return at;
  }
  for (const Offer& offer : offers) {
    if (offer.round != target.manifest.description.round) continue;
    ASSIGN_OR_RETURN(const std::string text,
                     Get(ManifestObject(offer.manifest_hash), {0, offer.manifest_bytes},
                         SecondsFor(offer.manifest_bytes)));
    if (Sha256(text) != offer.manifest_hash) {
      return absl::DataLossError("its manifest is not the one that it offers");
    }
    ASSIGN_OR_RETURN(theirs_, ParseManifest(text));
    *of = offer;
    at.hash = offer.manifest_hash;
    std::map<std::string, int> by_root;
    for (size_t i = 0; i < theirs_.files.size(); ++i) {
      by_root[absl::StrCat(theirs_.files[i].root, theirs_.files[i].bytes)] = static_cast<int>(i);
    }
    for (const ManifestFile& file : target.manifest.files) {
      const auto found = by_root.find(absl::StrCat(file.root, file.bytes));
      at.index.push_back(found == by_root.end() ? -1 : found->second);
    }
    return at;
  }
  return absl::NotFoundError("it does not have this checkpoint");
}

StatusOr<std::string> Session::Has(const Target& target, const FilesAt& at, const Offer& of) {
  const ChunkMap chunks(target.manifest);
  const ChunkMap their_chunks(theirs_);
  const int64_t bytes = BitmapBytes(their_chunks.count());
  std::string theirs(static_cast<size_t>(bytes), '\xff');
  if (!of.complete) {
    ASSIGN_OR_RETURN(theirs, Get(HaveObject(of.manifest_hash), {0, bytes}, SecondsFor(bytes)));
  }
  std::string has(static_cast<size_t>(BitmapBytes(chunks.count())), '\0');
  for (size_t file = 0; file < at.index.size(); ++file) {
    if (at.index[file] < 0) continue;
    const int64_t count = ChunkCount(target.manifest.files[file].bytes);
    for (int64_t i = 0; i < count; ++i) {
      if (!BitOf(theirs, their_chunks.first(at.index[file]) + i)) continue;
      SetBit(&has, chunks.first(static_cast<int>(file)) + i);
    }
  }
  return has;
}

}  // namespace atl::checkpoint
