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
// What could not be read is read again after so long, changed or not.
constexpr double kAgainSeconds = 30;
constexpr size_t kMaxOpenFiles = 64;
constexpr double kHoldSeconds = 60;
constexpr int kMaxHeld = 2;
constexpr LaneId kLane = {0};

double Now() { return Clock::Real()->MonotonicSeconds(); }

// Changes whenever the file or directory does; empty: it is not there.
std::string Mark(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0) return "";
  return absl::StrCat("#", info.st_dev, ".", info.st_ino, ".", info.st_size, ".",
                      info.st_mtim.tv_sec, ".", info.st_mtim.tv_nsec);
}

}  // namespace

Server::Server(const ServeOptions& options)
    : options_(options),
      files_(std::make_shared<OpenFiles>(kMaxOpenFiles)),
      rate_file_(options.directory, options.rate_cap) {}

StatusOr<std::unique_ptr<Server>> Server::Start(const ServeOptions& options) {
  std::error_code error;
  if (!fs::is_directory(options.directory, error)) {
    return UsageError(absl::StrCat(options.directory, " is no directory"));
  }
  std::unique_ptr<Server> server(new Server(options));
  wan::EngineOptions engine;
  engine.listen = options.listen;
  engine.encrypt = options.encrypt;
  engine.yield = options.yield;
  engine.on_call = [raw = server.get()](const wan::Call& call) { return raw->OnCall(call); };
  ASSIGN_OR_RETURN(server->engine_, wan::Engine::Create(engine));
  server->LookAtRate();
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
  return {offers_, connected_, engine_->bytes_sent(), engine_->connections_refused(), cap_};
}

bool Server::OnCall(const wan::Call& call) {
  if (call.lane != kLane || call.from.value != 0 || call.to.value != 1 ||
      !IsViewOf(options_.key, call.view)) {
    return false;
  }
  std::lock_guard<std::mutex> lock(mutex_);
  if (met_ + called_.size() >= kMaxCallers && called_.count(call.view.value) == 0) return false;
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
    LookAtRate();
    if (now >= look_at) {
      Look();
      look_at = Now() + kLookSeconds;
    }
    for (auto& [key, known] : known_) {
      if (known.hold != nullptr) known.hold->ReleaseIfUntouched(now, kHoldSeconds);
    }
    std::lock_guard<std::mutex> lock(mutex_);
    met_ = static_cast<size_t>(connected_);
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

void Server::LookAtRate() {
  const double cap = rate_file_.Look();
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (cap == cap_) return;
    cap_ = cap;
  }
  engine_->CapServing(cap);
}

// ---- what is there

void Server::Find(std::map<std::string, std::string>* committed,
                  std::map<std::string, std::string>* coming) const {
  std::map<int64_t, std::string> rounds, replaced;
  std::error_code error;
  for (fs::directory_iterator entry(options_.directory, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    const std::string path = absl::StrCat(options_.directory, "/", name);
    if (const auto round = RoundOfName(name)) {
      rounds[*round] = path;
    } else if (const auto moved = RoundOfReplacedName(name)) {
      replaced[*moved] = path;
    } else if (IsPullName(name)) {
      const std::string manifest = Mark(absl::StrCat(path, "/", kPartManifestName));
      if (manifest.empty() || Mark(absl::StrCat(path, "/", kJournalName)).empty()) continue;
      const std::string hashes = Mark(absl::StrCat(path, "/", kChunkFolder));
      (*coming)[absl::StrCat(path, Mark(path), manifest, hashes)] = path;
    }
  }
  rounds.merge(replaced);  // as in List
  for (const auto& [round, path] : rounds) {
    const std::string manifest = Mark(absl::StrCat(path, "/", kManifestName));
    // A round that is saved again or repaired has another folder under the same name.
    if (!manifest.empty()) (*committed)[absl::StrCat(path, Mark(path), manifest)] = path;
  }
}

Status Server::ReadCommitted(const std::string& path, Known* known) {
  ASSIGN_OR_RETURN(const auto opened, Checkpoint::Open(path));
  const std::string name = fs::path(path).filename().string();
  const int64_t round = opened->description().round;
  if (RoundOfName(name) != round && RoundOfReplacedName(name) != round) {
    return absl::FailedPreconditionError(absl::StrCat("it holds round ", round));
  }
  ASSIGN_OR_RETURN(std::string text,
                   ReadFile(absl::StrCat(path, "/", kManifestName), kMaxManifestBytes));
  ASSIGN_OR_RETURN(const Manifest manifest, ParseManifest(text));
  const Offer offer = OfferOf(manifest, text, true);
  known->hold = std::make_shared<Hold>(path, held_, kMaxHeld);
  for (size_t i = 0; i < manifest.files.size(); ++i) {
    const ManifestFile& file = manifest.files[i];
    const auto number = static_cast<int64_t>(i);
    known->objects[FileObject(offer.manifest_hash, number)] =
        ServedFile(absl::StrCat(path, "/", file.name), file.bytes, files_, known->hold);
    known->objects[HashesObject(offer.manifest_hash, number)] =
        ServedFile(absl::StrCat(path, "/", ChunkHashName(file.name)),
                   ChunkCount(file.bytes) * static_cast<int64_t>(kHashBytes), files_, known->hold);
  }
  known->objects[ManifestObject(offer.manifest_hash)] = ServedBytes(std::move(text));
  known->offer = offer;
  return OkStatus();
}

Status Server::ReadComing(const std::string& path, Known* known) {
  ASSIGN_OR_RETURN(std::string text,
                   ReadFile(absl::StrCat(path, "/", kPartManifestName), kMaxManifestBytes));
  ASSIGN_OR_RETURN(const Manifest manifest, ParseManifest(text));
  const Offer offer = OfferOf(manifest, text, false);
  std::error_code error;
  for (size_t i = 0; i < manifest.files.size(); ++i) {
    const ManifestFile& file = manifest.files[i];
    const auto number = static_cast<int64_t>(i);
    const std::string hashes = absl::StrCat(path, "/", ChunkHashName(file.name));
    if (!fs::exists(hashes, error)) return absl::NotFoundError("it has only just begun");
    known->objects[FileObject(offer.manifest_hash, number)] =
        ServedFile(absl::StrCat(path, "/", file.name, ".part"), file.bytes, files_);
    known->objects[HashesObject(offer.manifest_hash, number)] =
        ServedFile(hashes, ChunkCount(file.bytes) * static_cast<int64_t>(kHashBytes), files_);
  }
  known->objects[ManifestObject(offer.manifest_hash)] = ServedBytes(std::move(text));
  known->objects[HaveObject(offer.manifest_hash)] =
      ServedJournal(absl::StrCat(path, "/", kJournalName), ChunkMap(manifest).count());
  known->offer = offer;
  return OkStatus();
}

Server::Known* Server::Know(const std::string& key, const std::string& path, bool committed) {
  const auto [at, fresh] = known_.try_emplace(key);
  Known& known = at->second;
  if (!fresh && (known.trouble.ok() || Now() < known.again_at)) {
    return known.trouble.ok() ? &known : nullptr;
  }
  known = {};
  known.trouble = committed ? ReadCommitted(path, &known) : ReadComing(path, &known);
  if (known.trouble.ok()) return &known;
  // For want of descriptors: soon.
  known.again_at = absl::IsResourceExhausted(known.trouble) ? 0 : Now() + kAgainSeconds;
  known.objects.clear();
  return nullptr;
}

void Server::Look() {
  std::map<std::string, std::string> committed, coming;
  Find(&committed, &coming);
  std::erase_if(known_, [&](const auto& entry) {
    return committed.count(entry.first) == 0 && coming.count(entry.first) == 0;
  });
  std::vector<Known*> given;
  for (const auto& [key, path] : committed) {
    if (Known* const known = Know(key, path, true)) given.push_back(known);
  }
  // Newest first, as many as there is room for.
  std::sort(given.begin(), given.end(),
            [](const Known* a, const Known* b) { return a->offer.round > b->offer.round; });
  given.resize(std::min(given.size(), static_cast<size_t>(kMaxOffers / 2)));
  const std::vector<Known*> whole = given;
  for (const auto& [key, path] : coming) {
    if (static_cast<int64_t>(given.size()) >= kMaxOffers) break;
    Known* const known = Know(key, path, false);
    if (known == nullptr) continue;
    const bool twice = std::any_of(whole.begin(), whole.end(), [known](const Known* other) {
      return other->offer.manifest_hash == known->offer.manifest_hash;
    });
    if (!twice) given.push_back(known);
  }
  std::vector<Offer> offers;
  Objects objects;
  for (const Known* const known : given) {
    offers.push_back(known->offer);
    objects.insert(known->objects.begin(), known->objects.end());
  }
  Publish(std::move(offers), std::move(objects));
}

void Server::Publish(std::vector<Offer> offers, Objects objects) {
  const auto catalog = objects_.find(kCatalogName);
  if (catalog != objects_.end()) {
    objects.insert(*catalog);
    if (objects == objects_) return;
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
  std::lock_guard<std::mutex> lock(mutex_);
  offers_ = std::move(offers);
}

}  // namespace atl::checkpoint
