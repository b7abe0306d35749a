#include "checkpoint/transfer/pull.h"

#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "checkpoint/names.h"
#include "checkpoint/sha256.h"
#include "checkpoint/staging.h"
#include "checkpoint/transfer/choose.h"
#include "checkpoint/transfer/rate_file.h"
#include "checkpoint/transfer/session.h"

namespace atl::checkpoint {
namespace {

constexpr size_t kMaxSources = 32;
// After the first source's word the others have so long for theirs; all together, if none comes.
constexpr double kOthersSeconds = 3;
constexpr double kFirstSeconds = 30;
constexpr double kObjectSeconds = 10;  // of the first try; each further one has twice as long
constexpr int kTries = 4;
constexpr double kSlowRate = 256e3;

// What sources have said so far, until the download listens to them.
class Gathering {
 public:
  explicit Gathering(size_t sources) : heard_(sources), sources_(sources) {}

  void OnOffers(int source, const std::string& name, std::vector<Offer> offers) {
    std::lock_guard<std::mutex> lock(mutex_);
    sources_[source] = {name, std::move(offers)};
    heard_[source] = {true, OkStatus()};
    changed_.notify_all();
  }
  void OnTrouble(int source, const Status& why) {
    std::lock_guard<std::mutex> lock(mutex_);
    heard_[source].why = why;
    if (download_ != nullptr) download_->OnTrouble(source, why);
    changed_.notify_all();
  }
  void OnHas(int source, FilesAt at, std::string has) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (download_ != nullptr) download_->OnHas(source, std::move(at), std::move(has));
  }
  void Listen(Download* download) {
    std::lock_guard<std::mutex> lock(mutex_);
    download_ = download;
  }

  // Those who answered.
  StatusOr<std::vector<int>> Await(const std::vector<std::string>& names) {
    std::unique_lock<std::mutex> lock(mutex_);
    const auto all = [this] {
      return std::all_of(heard_.begin(), heard_.end(),
                         [](const Heard& heard) { return heard.offers || !heard.why.ok(); });
    };
    const auto any = [this] {
      return std::any_of(heard_.begin(), heard_.end(),
                         [](const Heard& heard) { return heard.offers; });
    };
    changed_.wait_for(lock, std::chrono::duration<double>(kFirstSeconds),
                      [&] { return any() || all(); });
    changed_.wait_for(lock, std::chrono::duration<double>(kOthersSeconds), all);
    std::vector<int> answered;
    std::vector<std::string> reasons;
    for (size_t i = 0; i < heard_.size(); ++i) {
      if (heard_[i].offers) answered.push_back(static_cast<int>(i));
      const std::string why =
          heard_[i].why.ok() ? "it does not answer" : std::string(heard_[i].why.message());
      reasons.push_back(absl::StrCat(names[i], ": ", why));
    }
    if (!answered.empty()) return answered;
    return absl::UnavailableError(
        absl::StrCat("no source can be reached. ", absl::StrJoin(reasons, "; ")));
  }
  SourceOffers offers(int source) {
    std::lock_guard<std::mutex> lock(mutex_);
    return sources_[source];
  }

 private:
  struct Heard {
    bool offers = false;
    Status why;
  };
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Heard> heard_;           // guarded by mutex_
  std::vector<SourceOffers> sources_;  // guarded by mutex_
  Download* download_ = nullptr;       // guarded by mutex_
};

class Puller {
 public:
  explicit Puller(const PullOptions& options) : options_(options) {}
  ~Puller() { sessions_.clear(); }

  StatusOr<PullResult> Run();

 private:
  Status Connect();
  StatusOr<std::string> GetManifest();
  StatusOr<std::vector<std::string>> GetHashes();
  StatusOr<std::string> GetObject(const std::string& object, int64_t bytes, const std::string& hash,
                                  const std::string& what);
  StatusOr<bool> IsThere() const;
  Status CheckSpace() const;

  const PullOptions options_;
  std::unique_ptr<wan::Engine> engine_;
  std::unique_ptr<Gathering> gathering_;
  std::vector<std::unique_ptr<Session>> sessions_;
  std::vector<int> answered_;
  Choice choice_;
  std::shared_ptr<Target> target_;
  std::unique_ptr<PartFiles> parts_;
};

Status Puller::Connect() {
  wan::EngineOptions engine;
  engine.only_calls_out = true;
  engine.encrypt = options_.encrypt;
  ASSIGN_OR_RETURN(engine_, wan::Engine::Create(engine));
  gathering_ = std::make_unique<Gathering>(options_.sources.size());
  std::vector<std::string> names;
  for (size_t i = 0; i < options_.sources.size(); ++i) {
    const std::string name = options_.sources[i].ToString();
    const int number = static_cast<int>(i);
    Gathering* const gathering = gathering_.get();
    Session::Hooks hooks;
    hooks.offers = [=](std::vector<Offer> offers) {
      gathering->OnOffers(number, name, std::move(offers));
    };
    hooks.has = [=](FilesAt at, std::string has) {
      gathering->OnHas(number, std::move(at), std::move(has));
    };
    hooks.trouble = [=](const Status& why) { gathering->OnTrouble(number, why); };
    sessions_.push_back(
        std::make_unique<Session>(engine_.get(), options_.sources[i], options_.key, hooks));
    names.push_back(name);
  }
  ASSIGN_OR_RETURN(answered_, gathering_->Await(names));
  return OkStatus();
}

// From whoever offers the chosen checkpoint, one after the other, with more and more time.
StatusOr<std::string> Puller::GetObject(const std::string& object, int64_t bytes,
                                        const std::string& hash, const std::string& what) {
  std::vector<std::string> reasons;
  double seconds = kObjectSeconds + static_cast<double>(bytes) / kSlowRate;
  for (int attempt = 0; attempt < kTries; ++attempt, seconds *= 2) {
    for (const int source : answered_) {
      const SourceOffers offers = gathering_->offers(source);
      const bool has = std::any_of(
          offers.offers.begin(), offers.offers.end(),
          [&](const Offer& offer) { return offer.manifest_hash == choice_.offer.manifest_hash; });
      if (!has) continue;
      StatusOr<std::string> got = sessions_[source]->Get(object, {0, bytes}, seconds);
      if (got.ok() && Sha256(*got) == hash) return got;
      reasons.push_back(absl::StrCat(
          offers.name, ": ", got.ok() ? "what it gave is not that" : got.status().message()));
      LOG(WARNING) << what << " from " << reasons.back();
    }
  }
  return absl::UnavailableError(
      absl::StrCat("nobody gives ", what, ". ", absl::StrJoin(reasons, "; ")));
}

StatusOr<std::string> Puller::GetManifest() {
  const Offer& offer = choice_.offer;
  ASSIGN_OR_RETURN(std::string text,
                   GetObject(ManifestObject(offer.manifest_hash), offer.manifest_bytes,
                             offer.manifest_hash, "the manifest"));
  target_ = std::make_shared<Target>();
  ASSIGN_OR_RETURN(target_->manifest, ParseManifest(text));
  target_->hash = offer.manifest_hash;
  if (OfferOf(target_->manifest, text, offer.complete) != offer) {
    return absl::DataLossError(
        "the manifest has another round, size or root than its source offered");
  }
  return text;
}

StatusOr<std::vector<std::string>> Puller::GetHashes() {
  std::vector<std::string> all;
  for (size_t i = 0; i < target_->manifest.files.size(); ++i) {
    const ManifestFile& file = target_->manifest.files[i];
    const int number = static_cast<int>(i);
    StatusOr<std::string> hashes = parts_->Hashes(number);
    if (!hashes.ok()) {
      const int64_t bytes = ChunkCount(file.bytes) * static_cast<int64_t>(kHashBytes);
      const std::string root = absl::HexStringToBytes(file.root);
      hashes = std::string();
      if (bytes > 0) {
        hashes = GetObject(HashesObject(target_->hash, number), bytes, root,
                           absl::StrCat("the chunk hashes of ", file.name));
      }
      RETURN_IF_ERROR(hashes.status());
      RETURN_IF_ERROR(WithExitCode(parts_->PutHashes(number, *hashes), ExitCode::kEnvironment));
    }
    all.push_back(*std::move(hashes));
  }
  return all;
}

StatusOr<bool> Puller::IsThere() const {
  const std::string path =
      absl::StrCat(options_.directory, "/", RoundName(target_->manifest.description.round));
  struct stat info;
  if (lstat(path.c_str(), &info) != 0) return false;
  const StatusOr<std::string> text =
      ReadFile(absl::StrCat(path, "/", kManifestName), kMaxManifestBytes);
  if (text.ok() && Sha256(*text) == target_->hash) {
    RETURN_IF_ERROR(Checkpoint::Open(path).status());
    return true;
  }
  return UsageError(absl::StrCat(
      path, " is there and is another one. Pull into another directory, or remove it"));
}

Status Puller::CheckSpace() const {
  const std::string folder =
      absl::StrCat(options_.directory, "/",
                   PullName(target_->manifest.description.round,
                            absl::BytesToHexString(target_->hash).substr(0, kTokenDigits)));
  struct stat info;
  if (lstat(folder.c_str(), &info) == 0) return OkStatus();  // its space is reserved
  return CheckFreeSpace(options_.directory, choice_.offer.bytes);
}

StatusOr<PullResult> Puller::Run() {
  if (options_.sources.empty() || options_.sources.size() > kMaxSources) {
    return UsageError(absl::StrCat("a pull needs 1 to ", kMaxSources, " sources"));
  }
  RETURN_IF_ERROR(WithExitCode(MakeDirectories(options_.directory), ExitCode::kEnvironment));
  RETURN_IF_ERROR(Connect());
  std::vector<SourceOffers> offers;
  for (const int source : answered_) offers.push_back(gathering_->offers(source));
  ASSIGN_OR_RETURN(choice_, Choose(offers, options_.round, options_.root));
  ASSIGN_OR_RETURN(const std::string text, GetManifest());
  PullResult result;
  result.round = choice_.offer.round;
  result.manifest_hash = absl::BytesToHexString(target_->hash);
  result.vouched = choice_.vouched;
  result.path = absl::StrCat(options_.directory, "/", RoundName(result.round));
  ASSIGN_OR_RETURN(result.was_there, IsThere());
  if (result.was_there) return result;
  RETURN_IF_ERROR(CheckSpace());
  ASSIGN_OR_RETURN(parts_, PartFiles::Open(options_.directory, target_->manifest, text));
  if (!parts_->complete()) {
    ASSIGN_OR_RETURN(std::vector<std::string> hashes, GetHashes());
    Download::Options download;
    download.rate_cap = [file = RateFile(options_.directory, options_.rate_cap)]() mutable {
      return file.Look();
    };
    download.stall_seconds = options_.stall_seconds;
    download.progress = options_.progress;
    Download chunks(download, target_, std::move(hashes), parts_.get());
    std::vector<Session*> sessions;
    for (const auto& session : sessions_) sessions.push_back(session.get());
    chunks.SetSources(std::move(sessions));
    gathering_->Listen(&chunks);
    for (const auto& session : sessions_) session->SetTarget(target_);
    const Status status = chunks.Run();
    result.download = chunks.state();
    gathering_->Listen(nullptr);
    RETURN_IF_ERROR(status);
  }
  sessions_.clear();
  ASSIGN_OR_RETURN(result.path, parts_->Commit());
  return result;
}

}  // namespace

StatusOr<PullResult> Pull(const PullOptions& options) { return Puller(options).Run(); }

}  // namespace atl::checkpoint
