#include "orchestrator/server/daemon.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/build_info.h"
#include "base/env.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "base/random.h"
#include "orchestrator/store/summary.h"
#include "proto/job_file.h"

namespace atl {
namespace {

// Summaries are due once a second.
constexpr double kLongestWaitSeconds = 1;
// After the end: a region that has left, but waits for the last word, gets it within this time.
constexpr double kLeastFarewellSeconds = 0.3;
// Between two looks for requests of `atoll drain`.
constexpr double kDrainSeconds = 0.5;
constexpr int64_t kReasonBytes = 1000;
// Between two lines about a log that is out of reach.
constexpr double kWaitingSeconds = 30;

std::string RandomBytes(size_t size) {
  std::string bytes(size, '\0');
  FillWithSystemRandom(bytes.data(), size);
  return bytes;
}

std::string SignalName(int signal) {
  switch (signal) {
    case SIGTERM:
      return "SIGTERM";
    case SIGINT:
      return "SIGINT";
    case SIGUSR1:
      return "SIGUSR1";
    default:
      return absl::StrCat("signal ", signal);
  }
}

}  // namespace

Daemon::Daemon(Options options, FileLock lock)
    : options_(std::move(options)),
      lock_(std::move(lock)),
      wall_at_start_(absl::ToDoubleSeconds(options_.clock->WallTime() - absl::UnixEpoch())),
      monotonic_at_start_(options_.clock->MonotonicSeconds()) {}

Daemon::~Daemon() {
  if (server_ != nullptr) std::remove(absl::StrCat(options_.run_dir, "/orchestrator.json").c_str());
}

StatusOr<std::unique_ptr<Daemon>> Daemon::Create(Options options) {
  RETURN_IF_ERROR(MakeDirectories(options.run_dir));
  const std::string path = absl::StrCat(options.run_dir, "/lock");
  StatusOr<FileLock> lock = FileLock::Acquire(path);
  if (absl::IsFailedPrecondition(lock.status())) {
    return EnvironmentError(absl::StrCat("another orchestrator runs in ", options.run_dir, " (",
                                         path, " is locked): stop it or take another --run_dir"));
  }
  if (!lock.ok()) return lock.status();
  std::unique_ptr<Daemon> daemon(new Daemon(std::move(options), *std::move(lock)));
  RETURN_IF_ERROR(daemon->Open());
  return daemon;
}

Status Daemon::Open() {
  const std::string& directory = options_.run_dir;
  // Of an orchestrator that was killed.
  std::remove(absl::StrCat(directory, "/orchestrator.json").c_str());
  if (options_.log != nullptr) {
    options_.log->set_on_wait(
        [this](const Status& why, double waited) { return WaitForLog(why, waited); });
  }
  const std::string database =
      options_.database.empty() ? absl::StrCat(directory, "/atoll.db") : options_.database;
  ASSIGN_OR_RETURN(store_, Store::Open(database, options_.log));
  if (options_.standby) {
    ASSIGN_OR_RETURN(const std::optional<JobRecord> job, store_->Job());
    if (job && job->ended > 0) {
      ended_before_ = job->exit_code;
      ASSIGN_OR_RETURN(files_, RunFiles::Open(directory, store_.get()));
      return files_->WriteSummary(Now());
    }
  }
  ControlServer::Options server;
  RETURN_IF_ERROR(MakeKeys(&server));
  ASSIGN_OR_RETURN(server_, ControlServer::Create(server));
  RETURN_IF_ERROR(
      WriteFileAtomically(absl::StrCat(directory, "/job.yaml"), JobToYaml(options_.job)));
  ASSIGN_OR_RETURN(files_, RunFiles::Open(directory, store_.get()));
  Core::Options core;
  core.job = options_.job;
  core.protocol = kControlProtocol;
  core.heartbeat_seconds = options_.heartbeat_seconds;
  core.random_bytes = RandomBytes;
  ASSIGN_OR_RETURN(core.history, store_->LoadHistory());
  core_ = std::make_unique<Core>(std::move(core));
  return Announce();
}

Status Daemon::MakeKeys(ControlServer::Options* server) {
  server->listen = options_.listen;
  ASSIGN_OR_RETURN(server->keys, LoadOrCreateOrchestratorKeys(options_.keys_dir));
  for (const pb::Region& region : options_.job.regions()) {
    // A lease that a standby made up would be refused by nobody, and fit no region.
    ASSIGN_OR_RETURN(const Lease lease,
                     options_.standby
                         ? LoadLease(absl::StrCat(options_.keys_dir, "/", region.name(), ".lease"))
                         : LoadOrCreateLease(options_.keys_dir, region.name(), server->keys));
    server->regions[lease.keys.public_key] = region.name();
  }
  return OkStatus();
}

Status Daemon::Announce() {
  const nlohmann::ordered_json json{{"address", address()},
                                    {"pid", getpid()},
                                    {"version", GetBuildInfo().version},
                                    {"started", TimeToText(Now())}};
  return WriteFileAtomically(absl::StrCat(options_.run_dir, "/orchestrator.json"),
                             json.dump(2) + "\n");
}

std::string Daemon::address() const {
  std::string address = server_->address();
  // "Any address" is no place to connect to.
  for (const char* any : {"tcp://0.0.0.0:", "tcp://[::]:"}) {
    if (absl::StartsWith(address, any)) {
      address = absl::StrReplaceAll(address, {{any, absl::StrCat("tcp://", HostName(), ":")}});
    }
  }
  return address;
}

double Daemon::Now() const {
  return wall_at_start_ + options_.clock->MonotonicSeconds() - monotonic_at_start_;
}

void Daemon::RequestStop(int signal) {
  stop_signal_.store(signal);
  if (server_ != nullptr) server_->Wake();
}

int Daemon::Run() {
  if (ended_before_) return *ended_before_;
  Take(core_->Start(Now()));
  while (!exit_code_) Serve(kLongestWaitSeconds);
  if (exit_code_ == kReplacedExitCode) return *exit_code_;
  Farewell();
  const Status written = files_->WriteSummary(Now());
  if (!written.ok()) LOG(ERROR) << "the last summary is missing: " << written.message();
  return *exit_code_;
}

void Daemon::Serve(double seconds) {
  double wait = seconds;
  if (wake_at_) wait = std::clamp(*wake_at_ - Now(), 0.0, seconds);
  if (!MayServe()) return;
  const std::optional<ControlServer::Incoming> incoming = server_->Receive(wait);
  if (!server_->open()) return;  // the core stands still meanwhile
  if (incoming) Take(core_->OnMessage(incoming->region, incoming->message, Now()));
  const int signal = stop_signal_.load();
  if (signal != 0 && !stop_told_) {
    stop_told_ = true;
    Take(core_->OnStop(SignalName(signal), Now()));
  }
  TakeDrainRequests();
  if (wake_at_ && Now() >= *wake_at_) Take(core_->OnTick(Now()));
  if (exit_code_) return;
  const Status flushed = files_->Flush(Now());
  if (!flushed.ok()) Abandon(flushed);
}

bool Daemon::MayServe() {
  if (options_.log == nullptr) return true;
  const StepLog::Standing standing = options_.log->standing();
  if (standing == StepLog::Standing::kDeposed) {
    if (!exit_code_) {
      LOG(ERROR) << "another orchestrator has taken the job over in " << options_.log->name()
                 << ": this one ends (exit code " << kReplacedExitCode
                 << "); start it again with --standby to have it wait in its turn";
    }
    exit_code_ = kReplacedExitCode;
    server_->Close();
    return false;
  }
  if (standing == StepLog::Standing::kUnsure && server_->open()) {
    LOG(WARNING) << options_.log->name() << " is out of reach, and another orchestrator may lead "
                 << "by now: this one listens no more until it knows; the view trains on";
    server_->Close();
  } else if (standing == StepLog::Standing::kLeading && !server_->open()) {
    const Status open = server_->Reopen();
    if (open.ok()) {
      LOG(INFO) << "this orchestrator still leads: listening again on " << address();
    } else {
      LOG_EVERY_N(WARNING, 10) << open.message();
    }
  }
  return true;
}

bool Daemon::WaitForLog(const Status& why, double seconds) {
  const bool begins = waited_ == 0 || seconds < waited_;
  waited_ = seconds;
  if (begins || seconds >= waiting_told_at_ + kWaitingSeconds) {
    waiting_told_at_ = seconds;
    LOG(WARNING) << "waiting for the store since " << static_cast<int64_t>(seconds)
                 << " s, while the view trains on: " << why.message();
  }
  if (seconds >= options_.give_up_seconds || stop_signal_.load() != 0) return false;
  return server_ == nullptr || MayServe();
}

void Daemon::TakeDrainRequests() {
  const double now = Now();
  if (now - drains_at_ < kDrainSeconds) return;
  drains_at_ = now;
  const std::string directory = absl::StrCat(options_.run_dir, "/drain");
  if (access(directory.c_str(), F_OK) != 0) return;
  for (const pb::Region& region : options_.job.regions()) {
    const std::string path = absl::StrCat(directory, "/", region.name());
    const auto reason = ReadFile(path, kReasonBytes);
    if (absl::IsNotFound(reason.status())) continue;
    std::remove(path.c_str());
    const std::string text(absl::StripAsciiWhitespace(reason.ok() ? *reason : ""));
    Take(core_->OnDrain(region.name(), text.empty() ? "drained by hand" : text, now));
  }
}

void Daemon::Take(Actions actions) {
  wake_at_ = actions.wake_at;
  const Status persisted = Persist(actions.records);
  if (!persisted.ok()) return Abandon(persisted);
  Send(actions.messages);
  if (actions.ended && !exit_code_) exit_code_ = actions.ended->exit_code;
}

Status Daemon::Persist(const std::vector<Record>& records) {
  RETURN_IF_ERROR(store_->Apply(records));
  for (const Record& record : records) {
    if (const auto* event = std::get_if<EventRecord>(&record)) LOG(INFO) << event->text;
  }
  return files_->Append(records, Now());
}

void Daemon::Abandon(const Status& status) {
  // Once is enough; what comes after the end is of no consequence for the job.
  if (exit_code_ || !MayServe()) return;
  const int code = static_cast<int>(ExitCodeOf(status));
  const std::string what(status.message());
  LOG(ERROR) << "the orchestrator cannot go on: " << what;
  exit_code_ = code;
  const Actions actions = core_->OnOwnFailure(what, code, Now());
  wake_at_ = actions.wake_at;
  // As far as there is room for it.
  const Status persisted = Persist(actions.records);
  if (!persisted.ok()) LOG(ERROR) << "nor is that stored: " << persisted.message();
  if (!MayServe()) return;  // it learned just now that another one leads: the job goes on there
  if (actions.ended) return Send(actions.messages);
  // The core had ended the job in the very step that could not be stored: that end does not count.
  for (const pb::Region& region : options_.job.regions()) {
    pb::OrchestratorMessage message;
    message.mutable_ended()->set_state(JobStateName(JobState::kFailed));
    message.mutable_ended()->set_reason(absl::StrCat("the orchestrator cannot go on: ", what));
    message.mutable_ended()->set_exit_code(code);
    server_->Send(region.name(), message);
  }
}

void Daemon::Send(const std::vector<Outgoing>& messages) {
  for (const Outgoing& outgoing : messages) server_->Send(outgoing.region, outgoing.message);
}

void Daemon::Farewell() {
  const double ended = Now();
  const double enough = ended + std::min(kLeastFarewellSeconds, options_.farewell_seconds);
  const double deadline = ended + options_.farewell_seconds;
  for (double now = ended; now < deadline; now = Now()) {
    const bool everyone_gone = core_->EveryoneGone();
    if (everyone_gone && now >= enough) return;
    const double until = everyone_gone ? enough : deadline;
    Serve(std::min(until - now, kLongestWaitSeconds));
  }
}

}  // namespace atl
