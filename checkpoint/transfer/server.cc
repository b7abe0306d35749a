#include "checkpoint/transfer/server.h"

#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/names.h"
#include "checkpoint/sha256.h"
#include "checkpoint/transfer/key_file.h"
#include "checkpoint/transfer/part_files.h"
#include "checkpoint/transfer/served.h"

namespace atl::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxCallers = 64;
constexpr double kForgetSeconds = 60;
constexpr double kTurnSeconds = 1;
constexpr double kLookSeconds = 2;
constexpr LaneId kLane = {0};

double Now() { return Clock::Real()->MonotonicSeconds(); }

std::vector<std::string> PullsIn(const std::string& directory) {
  std::vector<std::string> paths;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    if (IsPullName(entry->path().filename().string())) paths.push_back(entry->path().string());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

}  // namespace

StatusOr<std::unique_ptr<Server>> Server::Start(const ServeOptions& options) {
  std::error_code error;
  if (!fs::is_directory(options.directory, error)) {
    return UsageError(absl::StrCat(options.directory, " is no directory"));
  }
  std::unique_ptr<Server> server(new Server(options));
  wan::EngineOptions engine;
  engine.listen = options.listen;
  engine.encrypt = options.encrypt;
  engine.on_call = [raw = server.get()](const wan::Call& call) { return raw->OnCall(call); };
  ASSIGN_OR_RETURN(server->engine_, wan::Engine::Create(engine));
  server->Look();
  server->thread_ = std::thread([raw = server.get()] { raw->Run(); });
  return server;
}

Server::~Server() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
  engine_.reset();
}

ServeState Server::state() {
  std::lock_guard<std::mutex> lock(mutex_);
  return {offers_, connected_, engine_->bytes_sent(), engine_->connections_refused()};
}

bool Server::OnCall(const wan::Call& call) {
  if (call.lane != kLane || call.from.value != 0 || call.to.value != 1 ||
      !IsViewOf(options_.key, call.view)) {
    return false;
  }
  std::lock_guard<std::mutex> lock(mutex_);
  if (known_ + called_.size() >= kMaxCallers && called_.count(call.view.value) == 0) return false;
  called_.insert(call.view.value);
  changed_.notify_all();
  return true;
}

void Server::Run() {
  double look_at = Now() + kLookSeconds;
  while (true) {
    std::set<int64_t> called;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait_for(lock, std::chrono::duration<double>(kTurnSeconds),
                        [this] { return stopping_ || !called_.empty(); });
      if (stopping_) return;
      called.swap(called_);
    }
    for (const int64_t view : called) Welcome({view});
    const double now = Now();
    Forget(now);
    if (now >= look_at) {
      Look();
      look_at = Now() + kLookSeconds;
    }
    std::lock_guard<std::mutex> lock(mutex_);
    known_ = static_cast<size_t>(connected_);
  }
}

void Server::Welcome(ViewId view) {
  wan::Group group;
  group.view = view;
  group.lane = kLane;
  group.self = {1};
  group.members = {Endpoint(), engine_->endpoint()};
  // Port 0 of an unknown host would mean that nobody can be called.
  if (group.members[1].host.empty()) group.members[1].host = "localhost";
  group.names = {"caller", "this"};
  group.key = options_.key;
  group.transfers_only = true;
  if (callers_.count(view.value) > 0) return;
  if (callers_.size() >= kMaxCallers) LeaveOne();
  for (const auto& [name, source] : objects_) {
    const Status served = engine_->Serve(view, kLane, name, source);
    LOG_IF(WARNING, !served.ok()) << served.message();
  }
  const Status joined = engine_->Join(group, kTurnSeconds);
  if (joined.ok()) {
    callers_[view.value].silent_since = Now();
  } else {
    LOG(WARNING) << "a caller could not be welcomed: " << joined.message();
  }
}

// The one that has been without a connection for longest.
void Server::LeaveOne() {
  auto oldest = callers_.end();
  for (auto at = callers_.begin(); at != callers_.end(); ++at) {
    if (at->second.silent_since == 0) continue;
    const bool older =
        oldest == callers_.end() || at->second.silent_since < oldest->second.silent_since;
    if (older) oldest = at;
  }
  if (oldest == callers_.end()) return;
  engine_->Leave({oldest->first});
  callers_.erase(oldest);
}

void Server::Forget(double now) {
  std::map<int64_t, int> connections;
  for (const wan::LinkStatus& link : engine_->Links()) {
    connections[link.view.value] += link.connections;
  }
  int connected = 0;
  for (auto at = callers_.begin(); at != callers_.end();) {
    if (connections[at->first] > 0) {
      at->second.silent_since = 0;
      ++connected;
    } else if (at->second.silent_since == 0) {
      at->second.silent_since = now;
    } else if (now - at->second.silent_since > kForgetSeconds) {
      engine_->Leave({at->first});
      at = callers_.erase(at);
      continue;
    }
    ++at;
  }
  std::lock_guard<std::mutex> lock(mutex_);
  connected_ = connected;
}

void Server::AddCommitted(const std::string& path, std::vector<Offer>* offers, Objects* objects,
                          std::set<std::string>* there) {
  // A round that is saved again has another manifest under the same name.
  struct stat info;
  if (stat(absl::StrCat(path, "/", kManifestName).c_str(), &info) != 0) return;
  const std::string key =
      absl::StrCat(path, "#", info.st_ino, "#", info.st_mtim.tv_sec, ".", info.st_mtim.tv_nsec);
  there->insert(key);
  if (by_path_.count(key) == 0) {
    StatusOr<std::string> text =
        ReadFile(absl::StrCat(path, "/", kManifestName), kMaxManifestBytes);
    if (!text.ok()) return;
    const StatusOr<Manifest> manifest = ParseManifest(*text);
    if (!manifest.ok()) return;
    const Offer offer = OfferOf(*manifest, *text, true);
    Objects mine;
    for (size_t i = 0; i < manifest->files.size(); ++i) {
      const ManifestFile& file = manifest->files[i];
      const auto number = static_cast<int64_t>(i);
      mine[FileObject(offer.manifest_hash, number)] =
          ServedFile(absl::StrCat(path, "/", file.name), file.bytes);
      mine[HashesObject(offer.manifest_hash, number)] =
          ServedFile(absl::StrCat(path, "/", ChunkHashName(file.name)),
                     ChunkCount(file.bytes) * static_cast<int64_t>(kHashBytes));
    }
    mine[ManifestObject(offer.manifest_hash)] = ServedBytes(*std::move(text));
    by_path_[key] = std::move(mine);
    offer_by_path_[key] = offer;
  }
  offers->push_back(offer_by_path_[key]);
  objects->insert(by_path_[key].begin(), by_path_[key].end());
}

void Server::AddPartial(const std::string& path, std::vector<Offer>* offers, Objects* objects) {
  StatusOr<std::string> text =
      ReadFile(absl::StrCat(path, "/", kPartManifestName), kMaxManifestBytes);
  std::error_code error;
  if (!text.ok() || !fs::exists(absl::StrCat(path, "/", kJournalName), error)) return;
  const StatusOr<Manifest> manifest = ParseManifest(*text);
  if (!manifest.ok()) return;
  const Offer offer = OfferOf(*manifest, *text, false);
  for (const Offer& other : *offers) {
    if (other.manifest_hash == offer.manifest_hash) return;
  }
  for (size_t i = 0; i < manifest->files.size(); ++i) {
    const ManifestFile& file = manifest->files[i];
    const auto number = static_cast<int64_t>(i);
    const std::string hashes = absl::StrCat(path, "/", ChunkHashName(file.name));
    if (!fs::exists(hashes, error)) return;  // it has only just begun
    (*objects)[FileObject(offer.manifest_hash, number)] =
        ServedFile(absl::StrCat(path, "/", file.name, ".part"), file.bytes);
    (*objects)[HashesObject(offer.manifest_hash, number)] =
        ServedFile(hashes, ChunkCount(file.bytes) * static_cast<int64_t>(kHashBytes));
  }
  (*objects)[ManifestObject(offer.manifest_hash)] = ServedBytes(*std::move(text));
  (*objects)[HaveObject(offer.manifest_hash)] =
      ServedJournal(absl::StrCat(path, "/", kJournalName), ChunkMap(*manifest).count());
  offers->push_back(offer);
}

void Server::Look() {
  std::vector<Offer> offers;
  Objects objects;
  std::set<std::string> there;
  for (const Found& found : List(options_.directory, nullptr)) {
    if (static_cast<int64_t>(offers.size()) >= kMaxOffers / 2) break;
    AddCommitted(found.path, &offers, &objects, &there);
  }
  std::erase_if(by_path_, [&](const auto& entry) { return there.count(entry.first) == 0; });
  std::erase_if(offer_by_path_, [&](const auto& entry) { return there.count(entry.first) == 0; });
  for (const std::string& path : PullsIn(options_.directory)) {
    if (static_cast<int64_t>(offers.size()) >= kMaxOffers) break;
    AddPartial(path, &offers, &objects);
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!objects_.empty() && offers == offers_) return;
    offers_ = offers;
  }
  objects[kCatalogName] = ServedBytes(EncodeCatalog(offers));
  for (const auto& [view, caller] : callers_) {
    for (const auto& [name, source] : objects_) {
      if (objects.count(name) == 0) engine_->StopServing({view}, kLane, name);
    }
    for (const auto& [name, source] : objects) {
      const auto before = objects_.find(name);
      if (before != objects_.end() && before->second == source) continue;
      const Status served = engine_->Serve({view}, kLane, name, source);
      LOG_IF(WARNING, !served.ok()) << served.message();
    }
  }
  objects_ = std::move(objects);
}

}  // namespace atl::checkpoint
