#include "checkpoint/transfer/download.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "base/units.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/sha256.h"
#include "checkpoint/staging.h"

namespace atl::checkpoint {
namespace {

constexpr int kMaxUnderWay = 48;
constexpr int kMaxOfSource = 16;
constexpr int kWorkers = 2;
constexpr double kTickSeconds = 0.1;
constexpr double kTellSeconds = 0.5;
constexpr double kLookSeconds = 1;
constexpr double kRateSeconds = 1.5;
constexpr double kDelaySeconds = 0.05;  // both ends' threads and disks
constexpr double kSyncSeconds = 1;
constexpr int kSyncChunks = 64;
constexpr double kBurstSeconds = 0.1;  // of a capped rate
constexpr int64_t kBlock = 1 << 20;
constexpr int64_t kCappedBlock = 128 << 10;
// So many bytes show that a source is not merely pretending.
constexpr int64_t kMoved = 64 << 10;

double Now() { return Clock::Real()->MonotonicSeconds(); }

int64_t Total(const std::vector<Range>& ranges) {
  int64_t total = 0;
  for (const Range& range : ranges) total += range.size();
  return total;
}

std::vector<int64_t> Sizes(const ChunkMap& chunks) {
  std::vector<int64_t> sizes;
  for (int64_t i = 0; i < chunks.count(); ++i) sizes.push_back(chunks.At(i).bytes.size());
  return sizes;
}

}  // namespace

// Aligned as PartFiles::Write likes it.
struct Download::Buffer {
  Buffer() : bytes(static_cast<uint8_t*>(std::aligned_alloc(kSafetensorsAlignment, kChunkBytes))) {
    CHECK(bytes != nullptr);
  }
  ~Buffer() { std::free(bytes); }
  Buffer(const Buffer&) = delete;
  uint8_t* const bytes;
};

Download::Download(const Options& options, std::shared_ptr<const Target> target,
                   std::vector<std::string> hashes, PartFiles* parts)
    : options_(options),
      target_(std::move(target)),
      hashes_(std::move(hashes)),
      parts_(parts),
      chunks_(target_->manifest),
      bitmap_(parts->bitmap()) {
  for (int64_t i = 0; i < chunks_.count(); ++i) {
    const int64_t size = chunks_.At(i).bytes.size();
    wanted_ += size;
    if (BitOf(bitmap_, i)) resumed_ += size;
  }
  verified_ = resumed_;
  for (int i = 0; i < kWorkers; ++i) workers_.push_back(std::make_unique<wan::Background>());
  syncer_ = std::make_unique<wan::Background>();
}

Download::~Download() {
  for (auto& [chunk, job] : jobs_) {
    if (job.transfer != nullptr) job.transfer->Cancel();
  }
  workers_.clear();
  syncer_.reset();
}

void Download::SetSources(std::vector<Session*> sessions) {
  sources_.resize(sessions.size());
  for (size_t i = 0; i < sessions.size(); ++i) {
    sources_[i].session = sessions[i];
    sources_[i].state.name = sessions[i]->name();
  }
  scheduler_ =
      std::make_unique<Scheduler>(Sizes(chunks_), bitmap_, static_cast<int>(sessions.size()));
}

// ---- events

void Download::Events::Post(std::function<void()> event) {
  std::lock_guard<std::mutex> lock(mutex);
  waiting.push_back(std::move(event));
  changed.notify_all();
}

void Download::OnHas(int source, FilesAt at, std::string has) {
  events_->Post([this, source, at = std::move(at), has = std::move(has)] {
    sources_[source].at = at;
    sources_[source].state.trouble.clear();
    scheduler_->SetHas(source, has);
  });
}

void Download::OnTrouble(int source, const Status& why) {
  events_->Post([this, source, why] {
    sources_[source].state.trouble = std::string(why.message());
    LOG(INFO) << sources_[source].state.name << ": " << why.message();
  });
}

void Download::Take() {
  double wait = kTickSeconds;
  if (cap_ > 0 && allowance_ < 0) {
    wait = std::clamp(-allowance_ / cap_, 0.001, kTickSeconds);
  }
  std::deque<std::function<void()>> events;
  {
    std::unique_lock<std::mutex> lock(events_->mutex);
    events_->changed.wait_for(lock, std::chrono::duration<double>(wait),
                              [this] { return !events_->waiting.empty(); });
    events.swap(events_->waiting);
  }
  for (const auto& event : events) event();
}

Status Download::Run() {
  began_ = allowed_at_ = moved_at_ = synced_at_ = Now();
  LookAtCap(began_);
  while (true) {
    Take();
    const double now = Now();
    Tick(now);
    const Status ended = Ended(now);
    if (!ended.ok()) return KeepForNextTime(ended);
    if (scheduler_->left() == 0 && !syncing_ && unsynced_ == 0) break;
    Fill(now);
    const bool due = unsynced_ >= kSyncChunks || now - synced_at_ > kSyncSeconds;
    if (unsynced_ > 0 && !syncing_ && (due || scheduler_->left() == 0)) BeginSync();
  }
  for (Source& source : sources_) source.state.bytes = source.ended;
  if (options_.progress) options_.progress(state());
  return OkStatus();
}

bool Download::Idle() const {
  return std::all_of(jobs_.begin(), jobs_.end(), [](const auto& entry) {
    return entry.second.transfer == nullptr && !entry.second.missing.empty();
  });
}

Status Download::Ended(double now) {
  if (!failure_.ok()) return failure_;
  if (scheduler_->left() == 0) return OkStatus();
  if (Idle()) {
    if (const auto chunk = scheduler_->Hopeless()) {
      return WithExitCode(absl::DataLossError(absl::StrCat(
                              Named(*chunk),
                              " is damaged at every source. What is right is kept: "
                              "the same command with one more source goes on from there")),
                          ExitCode::kFailed);
    }
  }
  return now - moved_at_ > options_.stall_seconds ? NothingComes() : OkStatus();
}

// What the last second has brought becomes durable too, unless it is the disk that failed.
Status Download::KeepForNextTime(const Status& why) {
  while (syncing_) Take();
  if (!failure_.ok()) return failure_;
  Status kept = parts_->Sync();
  if (kept.ok()) kept = parts_->WriteJournal(bitmap_);
  LOG_IF(WARNING, !kept.ok()) << kept.message();
  return why;
}

Status Download::NothingComes() const {
  std::vector<std::string> reasons;
  for (const Source& source : sources_) {
    reasons.push_back(
        absl::StrCat(source.state.name, ": ",
                     source.state.trouble.empty() ? "it gives nothing" : source.state.trouble));
  }
  return absl::UnavailableError(absl::StrCat(
      "nothing has come for ", FormatDuration(options_.stall_seconds), "; ", verified_, " of ",
      wanted_, " bytes are here and are kept: the same command goes on from there. ",
      absl::StrJoin(reasons, "; ")));
}

std::string Download::Named(int64_t chunk) const {
  const ChunkMap::Place place = chunks_.At(chunk);
  return absl::StrCat("chunk ", place.chunk, " of ", target_->manifest.files[place.file].name);
}

int64_t Download::Came() const {
  int64_t came = 0;
  for (const Source& source : sources_) came += source.state.bytes;
  return came;
}

DownloadState Download::state() const {
  DownloadState state = {wanted_, resumed_, verified_, Came(), again_, Now() - began_, {}};
  for (const Source& source : sources_) state.sources.push_back(source.state);
  return state;
}

void Download::LookAtCap(double now) {
  if (!options_.rate_cap || (capped_ > 0 && now - capped_ < kLookSeconds)) return;
  capped_ = now;
  const double cap = options_.rate_cap();
  if (cap == cap_) return;
  cap_ = cap;
  allowance_ = 0;
  for (auto& [chunk, job] : jobs_) {
    if (job.transfer == nullptr) continue;
    job.again = true;
    job.transfer->Cancel();  // OnFetched goes on
  }
}

void Download::Tick(double now) {
  LookAtCap(now);
  if (cap_ > 0) {
    allowance_ = std::min(kBurstSeconds * cap_, allowance_ + cap_ * (now - allowed_at_));
  }
  allowed_at_ = now;
  if (now - ticked_ < kTickSeconds) return;
  ticked_ = now;
  for (Source& source : sources_) source.state.bytes = source.ended;
  for (const auto& [chunk, job] : jobs_) {
    if (job.transfer == nullptr) continue;
    const int64_t received = job.transfer->Progress().received;
    sources_[job.source].state.bytes += received;
    scheduler_->SetMissing(chunk, std::max<int64_t>(1, Total(job.missing) - received));
  }
  for (size_t i = 0; i < sources_.size(); ++i) {
    Source& source = sources_[i];
    source.seen.emplace_back(now, source.state.bytes);
    while (source.seen.size() > 2 && source.seen[1].first < now - kRateSeconds) {
      source.seen.pop_front();
    }
    const double span = now - source.seen.front().first;
    const auto came = static_cast<double>(source.state.bytes - source.seen.front().second);
    if (span > kRateSeconds / 2 || (span > 0 && came / span > source.rate)) {
      source.rate = came / span;
    }
    scheduler_->SetRate(static_cast<int>(i), source.rate);
    // The rate of one who rests stays what it was.
    if (source.under_way == 0) source.seen = {source.seen.back()};
    if (now - looked_ > kLookSeconds) source.round_trip = source.session->round_trip();
  }
  if (now - looked_ > kLookSeconds) looked_ = now;
  const int64_t came = Came();
  if (came - moved_ >= kMoved || verified_ == wanted_) {
    moved_ = came;
    moved_at_ = now;
  }
  if (options_.progress && now - told_ > kTellSeconds) {
    told_ = now;
    options_.progress(state());
  }
}

// ---- asking

bool Download::HasRoom(const Source& source) const {
  const double window = 2 * source.rate * (source.round_trip + kDelaySeconds);
  const int most = 2 + static_cast<int>(std::ceil(window / static_cast<double>(kChunkBytes)));
  return source.under_way < std::min(most, kMaxOfSource);
}

void Download::Fill(double now) {
  for (bool any = true; any;) {
    any = false;
    for (size_t source = 0; source < sources_.size(); ++source) {
      any = FillOne(static_cast<int>(source), now) || any;
    }
  }
}

bool Download::FillOne(int number, double now) {
  if (!HasRoom(sources_[number]) || (cap_ > 0 && allowance_ < 0)) return false;
  if (jobs_.size() >= kMaxUnderWay) {
    // What waits for a source already has its buffer.
    for (const auto& [chunk, job] : jobs_) {
      const bool waits = job.source < 0 && !job.missing.empty();  // else it is being verified
      if (!waits || !scheduler_->CanGive(number, chunk, now)) continue;
      Begin(chunk, number, now);
      return true;
    }
    return false;
  }
  if (const auto chunk = scheduler_->Take(number, now)) {
    Begin(*chunk, number, now);
    return true;
  }
  if (sources_[number].under_way > 0) return false;  // it is at work itself
  const auto late = scheduler_->Late(number, now);
  if (!late) return false;
  Job& job = jobs_.at(late->chunk);
  if (job.transfer == nullptr || job.move_to >= 0) return false;
  job.move_to = number;
  job.transfer->Cancel();  // OnFetched goes on
  return false;
}

void Download::Begin(int64_t chunk, int number, double now) {
  (void)now;
  const ChunkMap::Place place = chunks_.At(chunk);
  Job& job = jobs_[chunk];
  if (job.buffer == nullptr) {
    if (spare_.empty()) spare_.push_back(std::make_unique<Buffer>());
    job.buffer = std::move(spare_.back());
    spare_.pop_back();
    job.missing = {place.bytes};
  }
  Source& source = sources_[number];
  const int64_t missing = Total(job.missing);
  CHECK_GT(missing, 0) << Named(chunk);
  scheduler_->Ask(chunk, number, missing);
  allowance_ -= static_cast<double>(missing);
  job.source = number;
  job.move_to = -1;
  ++source.under_way;
  wan::FetchRequest request;
  request.name = FileObject(source.at.hash, source.at.index[place.file]);
  request.ranges = job.missing;
  request.out = {job.buffer->bytes, static_cast<size_t>(place.bytes.size())};
  request.out_begin = place.bytes.begin;
  request.block_bytes = cap_ > 0 ? kCappedBlock : kBlock;
  request.rate_cap = cap_;
  request.done = [this, events = events_, chunk] {
    events->Post([this, chunk] { OnFetched(chunk); });
  };
  job.transfer = source.session->Fetch(std::move(request));
}

// ---- what has come

void Download::OnFetched(int64_t chunk) {
  Job& job = jobs_.at(chunk);
  const Status status = job.transfer->Wait();
  const wan::FetchProgress progress = job.transfer->Progress();
  const int number = job.source;
  Source& source = sources_[number];
  job.transfer.reset();
  job.source = -1;
  --source.under_way;
  source.ended += progress.received;
  again_ += progress.again;
  if (progress.received > 0) job.from.insert(number);
  if (status.ok()) {
    job.missing.clear();
    scheduler_->SetMissing(chunk, 0);
    return Verify(chunk);
  }
  if (progress.wanted > 0) job.missing = progress.missing;  // else it never began
  const int move_to = std::exchange(job.move_to, -1);
  scheduler_->Return(chunk);
  const bool again = std::exchange(job.again, false);
  if (alone_.count(chunk) > 0) Drop(chunk);  // all of it from one source, or nothing
  if (absl::IsCancelled(status) && move_to >= 0) {
    if (scheduler_->CanGive(move_to, chunk, Now())) Begin(chunk, move_to, Now());
    return;
  }
  if (absl::IsCancelled(status) && again) return;
  const Status why = progress.fallen.empty() ? status : progress.fallen[0].why;
  if (absl::IsInternal(why)) {  // it is there and cannot read its own disk
    source.state.trouble = std::string(why.message());
    ++source.state.wrong;
    scheduler_->Wrong(chunk, number, Now());
    return;  // what came of it before stays
  }
  Lost(number, why);
}

void Download::Lost(int number, const Status& why) {
  sources_[number].state.trouble = std::string(why.message());
  scheduler_->SetHas(number, "");
  sources_[number].session->Recheck();
}

// What has come of it is thrown away.
void Download::Drop(int64_t chunk) {
  again_ += chunks_.At(chunk).bytes.size() - Total(jobs_.at(chunk).missing);
  Free(chunk);
}

void Download::Free(int64_t chunk) {
  const auto at = jobs_.find(chunk);
  spare_.push_back(std::move(at->second.buffer));
  jobs_.erase(at);
}

void Download::Verify(int64_t chunk) {
  const ChunkMap::Place place = chunks_.At(chunk);
  const absl::string_view hash =
      absl::string_view(hashes_[place.file]).substr(place.chunk * kHashBytes, kHashBytes);
  const std::span<const uint8_t> bytes = {jobs_.at(chunk).buffer->bytes,
                                          static_cast<size_t>(place.bytes.size())};
  workers_[chunk % kWorkers]->Run([this, chunk, place, hash, bytes] {
    const bool right = Sha256({reinterpret_cast<const char*>(bytes.data()), bytes.size()}) == hash;
    const Status written = right ? parts_->Write(place.file, place.bytes.begin, bytes) : OkStatus();
    events_->Post([this, chunk, right, written] {
      if (right) return OnWritten(chunk, written);
      OnWrong(chunk, Now());
    });
  });
}

void Download::OnWritten(int64_t chunk, const Status& status) {
  if (!status.ok()) {
    failure_ = ExplainWriteError(
        Annotate(status,
                 absl::StrCat("what has come is kept: the same command goes on from ", "there")),
        parts_->folder(), wanted_ - verified_);
    return;
  }
  Free(chunk);
  alone_.erase(chunk);
  scheduler_->Done(chunk);
  SetBit(&bitmap_, chunk);
  verified_ += chunks_.At(chunk).bytes.size();
  ++unsynced_;
}

void Download::OnWrong(int64_t chunk, double now) {
  const std::set<int> from = jobs_.at(chunk).from;
  Drop(chunk);
  if (from.size() != 1) {
    alone_.insert(chunk);
    scheduler_->Return(chunk);
    return;
  }
  const int number = *from.begin();
  SourceState& state = sources_[number].state;
  ++state.wrong;
  state.trouble = absl::StrCat(Named(chunk), " is wrong there");
  const bool out = scheduler_->Wrong(chunk, number, now);
  LOG(WARNING) << state.name << ": " << state.trouble
               << (out ? absl::StrCat("; it is not asked for ", kOutSeconds, " s") : "");
}

// ---- what is durable

void Download::BeginSync() {
  syncing_ = true;
  synced_at_ = Now();
  const int chunks = unsynced_;
  syncer_->Run([this, chunks, bitmap = bitmap_] {
    Status status = parts_->Sync();
    if (status.ok()) status = parts_->WriteJournal(bitmap);
    events_->Post([this, chunks, status] {
      syncing_ = false;
      unsynced_ -= chunks;
      if (!status.ok()) failure_ = ExplainWriteError(status, parts_->folder(), wanted_ - verified_);
    });
  });
}

}  // namespace atl::checkpoint
