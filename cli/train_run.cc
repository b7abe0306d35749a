#include "cli/train_run.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/env.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/units.h"
#include "cli/run_directory.h"
#include "proto/lease_terms.h"
#include "proto/round_plan.h"

namespace atl {
namespace {

namespace fs = std::filesystem;

constexpr double kStepSeconds = 0.2;
constexpr double kStartSeconds = 60;  // for the orchestrator to listen
constexpr double kLastWordSeconds = 5;
constexpr double kLeaveSeconds = 20;  // for regions to end after the job, and the job after them
constexpr double kKillSeconds = 3;    // between SIGTERM and SIGKILL; mpirun needs 1.9 of it
constexpr int kDeposed = 6;           // an orchestrator's exit code: another one has taken over
constexpr char kTemporaryPrefix[] = "atoll-run-";

double Now() { return Clock::Real()->MonotonicSeconds(); }

// Short, because names of sockets in it have a limit of about 100 characters.
std::string TemporaryBase() {
  const std::string chosen = GetEnv("TMPDIR").value_or("");
  return !chosen.empty() && chosen.size() <= 40 && access(chosen.c_str(), W_OK) == 0 ? chosen
                                                                                     : "/tmp";
}

// Directories of runs that were killed before they could remove them: nobody holds their lock.
void RemoveStaleDirectories(const std::string& base) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(base, error)) {
    struct stat info;
    const std::string path = entry.path().string();
    if (!absl::StartsWith(entry.path().filename().string(), kTemporaryPrefix) ||
        lstat(path.c_str(), &info) != 0 || !S_ISDIR(info.st_mode) || info.st_uid != geteuid() ||
        access((path + "/lock").c_str(), F_OK) != 0) {
      continue;  // a link, another user's, or one that is just being made
    }
    const auto lock = FileLock::Acquire(path + "/lock");
    if (lock.ok()) fs::remove_all(entry.path(), error);
  }
}

// The words that run `words` in a place.
std::vector<std::string> InPlace(const Place& place, const std::vector<std::string>& words) {
  std::vector<std::string> all = place.prefix;
  all.insert(all.end(), words.begin(), words.end());
  return all;
}

std::vector<std::string> MpirunWords(const TrainSetup& setup, const std::string& region,
                                     const std::string& address, const std::string& log_dir,
                                     const std::string& temporary) {
  const std::string workers = absl::StrCat(setup.workers);
  std::vector<std::string> words = {
      setup.mpirun_program,
      "-n",
      workers,
      // Several regions share this host's cores; by itself each mpirun would bind its ranks to the
      // first ones.
      "--host",
      absl::StrCat("localhost:", workers),
      "--oversubscribe",
      "--bind-to",
      "none",
      // Starts processes itself: no ssh, no scheduler.
      "--mca",
      "plm",
      "isolated",
      // Shared memory without ptrace rights, which containers often lack; loopback else.
      "--mca",
      "pml",
      "ob1",
      "--mca",
      "btl",
      "self,vader,tcp",
      "--mca",
      "btl_vader_single_copy_mechanism",
      "none",
      "--mca",
      "btl_tcp_if_include",
      "lo",
      "--mca",
      "oob_tcp_if_include",
      "lo",
      "--mca",
      "mpi_yield_when_idle",
      "1",
      "--mca",
      "orte_tmpdir_base",
      temporary,
      setup.worker_program,
      absl::StrCat("--orchestrator=", address),
      absl::StrCat("--region=", region),
      absl::StrCat("--lease=", setup.run_dir, "/keys/", region, ".lease"),
      absl::StrCat("--run_dir=", setup.run_dir),
      absl::StrCat("--wan_listen=", setup.PlaceOf(region).host, ":0"),
      absl::StrCat("--log_dir=", log_dir),
  };
  words.insert(words.end(), setup.worker_words.begin(), setup.worker_words.end());
  return words;
}

}  // namespace

TrainRun::TrainRun(const TrainSetup& setup, Output* output)
    : setup_(setup),
      output_(output),
      oom_kills_before_(OutOfMemoryKills()),
      leader_dir_(setup.run_dir),
      standby_dir_(setup.run_dir + "/standby"),
      orchestrator_restarts_(setup.restarts) {
  ShowProgress();
}

TrainRun::~TrainRun() {
  processes_.StopAll(0);
  if (temporary_.empty()) return;
  std::error_code error;
  fs::remove_all(temporary_, error);
}

Status TrainRun::MakeTemporaryDirectory() {
  const std::string base = TemporaryBase();
  RemoveStaleDirectories(base);
  std::string name = absl::StrCat(base, "/", kTemporaryPrefix, "XXXXXX");
  if (mkdtemp(name.data()) == nullptr) {
    return ErrnoError(errno, absl::StrCat("cannot make a temporary directory in ", base));
  }
  temporary_ = name;
  ASSIGN_OR_RETURN(FileLock lock, FileLock::Acquire(temporary_ + "/lock"));
  temporary_lock_.emplace(std::move(lock));
  return OkStatus();
}

void TrainRun::ShowProgress() {
  progress_ = std::make_unique<Progress>(leader_dir_, setup_.job.train().rounds(),
                                         Clock::Real()->WallTime(), output_);
}

std::vector<std::string> TrainRun::OrchestratorWords(const std::string& run_dir,
                                                     const std::string& port) const {
  const Place place = setup_.OrchestratorPlace();
  std::vector<std::string> words = InPlace(
      place,
      {setup_.orchestrator_program, absl::StrCat("--job=", setup_.run_dir, "/job.yaml"),
       absl::StrCat("--listen=tcp://", place.host, ":", port), absl::StrCat("--run_dir=", run_dir),
       absl::StrCat("--keys=", setup_.run_dir, "/keys"), "--exit_with_parent"});
  words.insert(words.end(), setup_.store.words.begin(), setup_.store.words.end());
  return words;
}

Status TrainRun::StartOrchestrator(const std::string& port) {
  if (const auto size = FileSize(OrchestratorLog()); size.ok()) log_offset_ = *size;
  SpawnOptions options;
  options.name = "orchestrator";
  options.words = OrchestratorWords(leader_dir_, port);
  options.output_path = OrchestratorLog();
  ASSIGN_OR_RETURN(orchestrator_, processes_.Spawn(options));
  orchestrator_restarts_.Started(Now());
  return OkStatus();
}

// Its own last word is the message; what it logged before is in the file.
Status TrainRun::OrchestratorError() const {
  const ProcessEnd end = *orchestrator_->end();
  const auto size = FileSize(OrchestratorLog());
  std::string last;
  if (size.ok() && *size > log_offset_) {
    for (const std::string& line : LastLines(OrchestratorLog(), 20)) {
      if (absl::StartsWith(line, "atoll-orchestrator: ")) last = line.substr(20);
    }
  }
  const auto code = end.signal == 0 && end.exit_code > 0 ? static_cast<ExitCode>(end.exit_code)
                                                         : ExitCode::kFailed;
  return WithExitCode(absl::InternalError(absl::StrCat("the orchestrator did not start (",
                                                       end.Text(), ")", last.empty() ? "" : ": ",
                                                       last, "; its log is ", OrchestratorLog())),
                      code);
}

StatusOr<std::string> TrainRun::AwaitAddress() {
  const double deadline = Now() + kStartSeconds;
  while (true) {
    const auto info = ReadOrchestratorInfo(leader_dir_);
    if (info && info->pid == orchestrator_->pid()) return info->address;
    processes_.Reap();
    if (orchestrator_->end()) return OrchestratorError();
    if (Now() > deadline) {
      return EnvironmentError(absl::StrCat("the orchestrator does not say where it listens after ",
                                           kStartSeconds, " s; its log is ", OrchestratorLog()));
    }
    if (const auto signal = signals_.Wait(0.02)) {
      return WithExitCode(absl::CancelledError(absl::StrCat(
                              SignalText(*signal), " while the orchestrator started: stopped")),
                          static_cast<ExitCode>(128 + *signal));
    }
  }
}

Status TrainRun::StartRegion(Region* region) {
  const std::string& name = region->evidence.name;
  region->evidence.end.reset();
  region->evidence.directory = NextAttemptDirectory(setup_.run_dir, name);
  RETURN_IF_ERROR(MakeDirectories(region->evidence.directory));
  // One of its own: mpiruns that share one remove it under each other when they start at once.
  const std::string temporary = absl::StrCat(temporary_, "/", name, "-", ++region->attempts);
  RETURN_IF_ERROR(MakeDirectories(temporary));
  SpawnOptions options;
  options.name = absl::StrCat("region ", name);
  options.words = InPlace(setup_.PlaceOf(name), MpirunWords(setup_, name, address_,
                                                            region->evidence.directory, temporary));
  options.output_path = region->evidence.directory + "/mpirun.log";
  options.environment = {{"TMPDIR", temporary}};
  if (IsRoot()) {
    options.environment["OMPI_ALLOW_RUN_AS_ROOT"] = "1";
    options.environment["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1";
  }
  // Of a scheduler or an mpirun around this one: they would make mpirun look for other hosts.
  options.dropped_prefixes = {"SLURM_",         "PMI_",           "PMIX_",
                              "OMPI_COMM_",     "OMPI_UNIVERSE_", "OMPI_MCA_ess",
                              "OMPI_MCA_orte_", "PBS_",           "LSB_"};
  ASSIGN_OR_RETURN(region->session, processes_.Spawn(options));
  region->restarts.Started(Now());
  return OkStatus();
}

void TrainRun::OnSignal(int signal) {
  if (stopping_ && signal == SIGINT) {
    progress_->Say("second SIGINT: stopping everything now");
    killed_ = true;
    return;
  }
  progress_->Say(
      absl::StrCat(SignalText(signal),
                   stopping_ ? ": already stopping after this round"
                             : ": the regions finish their round, commit a checkpoint and leave",
                   " (Ctrl-C again: stop now, and lose what is not committed)"));
  stopping_ = true;
  processes_.SignalLeader(*orchestrator_, SIGTERM);
}

void TrainRun::NoteRegionEnds() {
  bool all_left = true;
  bool lost = false;
  for (Region& region : regions_) {
    NoteRegionEnd(&region);
    all_left = all_left && region.evidence.end && !region.start_at;
    lost = lost || (region.evidence.end && !LeftWell(*region.evidence.end));
  }
  if (all_left && all_left_at_ == 0) {
    all_left_at_ = Now();
    regions_lost_ = lost;
  }
}

void TrainRun::NoteRegionEnd(Region* region) {
  if (region->session == nullptr || region->evidence.end || !region->session->end()) return;
  region->evidence.end = region->session->end();
  const ProcessEnd& end = *region->evidence.end;
  if (end.exit_code == static_cast<int>(ExitCode::kStoppedCleanly) && end.signal == 0 &&
      !stopping_) {
    progress_->Say(
        absl::StrCat("region ", region->evidence.name, " left: exit code ", end.exit_code));
  }
  if (LeftWell(end) || killed_) return;
  const bool wrong = end.signal == 0 && end.exit_code == static_cast<int>(ExitCode::kUsage);
  std::optional<double> wait;
  const bool orchestrated = !orchestrator_->end() || orchestrator_start_at_;
  if (!stopping_ && orchestrated && !wrong) wait = region->restarts.Ended(Now());
  std::string next = "it is not started again";
  if (wait) {
    region->start_at = Now() + *wait;
    next = absl::StrCat("starting it again in ", FormatDuration(*wait), " (",
                        region->restarts.in_a_row(), " of ", region->restarts.most(), ")");
  }
  progress_->Say(
      absl::StrCat("region ", region->evidence.name, " ended: ", end.Text(), "; ", next));
  if (orchestrated && !stopping_) {
    ShowFailure(region->evidence, wait ? next + "; it then fetches the state and joins" : next);
  }
}

void TrainRun::ShowFailure(const RegionEvidence& evidence, const std::string& next) {
  auto failure = FindFailure({evidence});
  if (!failure) return;
  if (failure->doing.empty()) failure->doing = LastDoing(evidence.name);
  if (failure->time == absl::InfinitePast()) failure->time = Clock::Real()->WallTime();
  FailureContext context;
  context.run_dir = setup_.run_dir;
  context.job = setup_.job.name();
  context.oom_kills = OutOfMemoryKills() - oom_kills_before_;
  context.next = next;
  context.inner_steps = InnerSteps(setup_.job);
  context.goes_on = true;
  context.workers = evidence.workers;
  for (const Region& other : regions_) {
    if (other.session != nullptr && !other.evidence.end) {
      context.others.push_back(other.evidence.name);
    }
  }
  std::string text = FailureText(*failure, ReadSummary(leader_dir_), context);
  text.pop_back();  // its last line break
  progress_->Say(text);
}

void TrainRun::StartAgain() {
  const double now = Now();
  for (Region& region : regions_) {
    if (!region.start_at || now < *region.start_at) continue;
    region.start_at.reset();
    if (stopping_) continue;
    const Status status = StartRegion(&region);
    if (!status.ok()) progress_->Say(std::string(status.message()));
  }
  const auto due = [&](std::optional<double>* at) {
    const bool is = *at && now >= **at;
    if (is) at->reset();
    return is;
  };
  Status status;
  if (!stopping_ && LeaderListens() && due(&standby_start_at_)) status = StartStandby();
  if (due(&orchestrator_start_at_)) status.Update(StartOrchestrator(PortOf(leader_address_)));
  if (!status.ok()) progress_->Say(std::string(status.message()));
}

bool TrainRun::OrchestratorIsOver() {
  if (!orchestrator_->end()) return false;
  if (orchestrator_start_at_) return false;
  const ProcessEnd& end = *orchestrator_->end();
  const bool has_standby = standby_ != nullptr && !standby_->end();
  const bool deposed = end.signal == 0 && end.exit_code == kDeposed && has_standby;
  if ((end.signal == 0 && !deposed) || stopping_) return true;
  const std::optional<double> wait = orchestrator_restarts_.Ended(Now());
  if (has_standby) {
    TakeOver(wait);
    return false;
  }
  if (!wait) return true;
  orchestrator_start_at_ = Now() + *wait;
  progress_->Say(absl::StrCat("the orchestrator ended: ", end.Text(), "; starting it again in ",
                              FormatDuration(*wait), " (", orchestrator_restarts_.in_a_row(),
                              " of ", orchestrator_restarts_.most(), "); the regions train on"));
  return false;
}

bool TrainRun::Step() {
  if (const auto signal = signals_.Wait(kStepSeconds)) OnSignal(*signal);
  processes_.Reap();
  progress_->Update(Now());
  if (killed_ || OrchestratorIsOver()) return true;
  NoteStandbyEnd();
  NoteRegionEnds();
  StartAgain();
  // Nobody is left who could tell the orchestrator more: it need not be given so long.
  const double seconds = regions_lost_ ? kLastWordSeconds : kLeaveSeconds;
  return all_left_at_ > 0 && Now() - all_left_at_ > seconds;
}

void TrainRun::AwaitRegions(double seconds) {
  const double deadline = Now() + seconds;
  while (Now() < deadline && !killed_) {
    processes_.Reap();
    NoteRegionEnds();
    if (processes_.AllOver()) return;
    if (const auto signal = signals_.Wait(0.05)) OnSignal(*signal);
  }
}

// The dead leave no words: what the region last told the orchestrator.
std::string TrainRun::LastDoing(const std::string& region) const {
  const nlohmann::json summary = ReadSummary(leader_dir_);
  const auto regions = summary.find("regions");
  if (region.empty() || regions == summary.end() || !regions->is_array()) return "";
  for (const nlohmann::json& entry : *regions) {
    if (!entry.is_object() || TextOr(entry, "name", "") != region) continue;
    const std::string doing = TextOr(entry, "doing", "");
    return doing.empty() ? "" : absl::StrCat(doing, ", as it last said");
  }
  return "";
}

namespace {

// On a full disk nobody's last words may have found room.
void NoteFullDisk(const std::string& directory, std::string* what) {
  constexpr uint64_t kLittle = 64 << 20;
  std::error_code error;
  const auto space = std::filesystem::space(directory, error);
  if (error || space.available >= kLittle) return;
  absl::StrAppend(what, "; the disk of ", directory, " has little space left (",
                  FormatBytes(static_cast<double>(space.available)), " free)");
}

}  // namespace

TrainResult TrainRun::Conclude() {
  TrainResult result;
  result.run_dir = leader_dir_;
  const bool decided = orchestrator_->end() && orchestrator_->end()->signal == 0;
  // Told by the orchestrator that the job is over, regions leave by themselves.
  if (decided && !killed_) AwaitRegions(kLeaveSeconds);
  processes_.StopAll(kKillSeconds);
  progress_->Finish(Now());
  result.oom_kills = OutOfMemoryKills() - oom_kills_before_;
  if (killed_) {
    result.exit_code = 128 + SIGINT;
    result.message = "stopped at once; what was not in a checkpoint is lost";
    return result;
  }
  const int code = decided ? orchestrator_->end()->exit_code : 1;
  if (decided && (code == 0 || (code == 75 && !regions_lost_))) {
    result.exit_code = code;
    return result;
  }
  std::vector<RegionEvidence> evidence;
  for (const Region& region : regions_) {
    if (region.session != nullptr) evidence.push_back(region.evidence);
  }
  if (orchestrator_->end() && !decided) {  // the regions, if they ended, followed it
    Failure failure;
    failure.what = absl::StrCat("the orchestrator (pid ", orchestrator_->pid(),
                                ") died: ", orchestrator_->end()->Text());
    failure.log = OrchestratorLog();
    failure.log_lines = LastLines(OrchestratorLog(), 5);
    failure.pid = orchestrator_->pid();
    result.failure = failure;
  } else {
    result.failure = FindFailure(evidence);
  }
  if (!result.failure) {
    Failure failure;
    const nlohmann::json summary = ReadSummary(leader_dir_);
    failure.what = TextOr(summary, "reason", "");
    if (failure.what.empty()) failure.what = "the job ended without a reason";
    failure.exit_code = code;
    failure.log = OrchestratorLog();
    failure.log_lines = LastLines(OrchestratorLog(), 5);
    result.failure = failure;
  }
  if (result.failure->exit_code == static_cast<int>(ExitCode::kEnvironment)) {
    NoteFullDisk(setup_.run_dir, &result.failure->what);
  }
  if (result.failure->doing.empty()) result.failure->doing = LastDoing(result.failure->region);
  // The job's code is the orchestrator's, unless it did not know of the failure.
  const bool knew = decided && code != 0 && code != 75 && !(regions_lost_ && code == 76);
  result.exit_code = knew ? code : result.failure->exit_code;
  return result;
}

StatusOr<TrainResult> TrainRun::Run() {
  RETURN_IF_ERROR(MakeTemporaryDirectory());
  RETURN_IF_ERROR(StartOrchestrator("0"));
  ASSIGN_OR_RETURN(leader_address_, AwaitAddress());
  address_ = leader_address_;
  if (setup_.store.standby) {
    RETURN_IF_ERROR(StartStandby());
    absl::StrAppend(&address_, ",", standby_address_);
  }
  for (const pb::Region& described : setup_.job.regions()) {
    Region& region = regions_.emplace_back(setup_.restarts);
    region.evidence.name = described.name();
    region.evidence.workers = setup_.workers;
    // A lease that is still to begin: nothing runs there before.
    const double wait = TermsOf(described.lease()).start -
                        absl::ToDoubleSeconds(Clock::Real()->WallTime() - absl::UnixEpoch());
    if (wait > 0) {
      region.start_at = Now() + wait;
      progress_->Say(absl::StrCat("region ", described.name(),
                                  " is started when its lease begins, in ", FormatDuration(wait)));
      continue;
    }
    RETURN_IF_ERROR(StartRegion(&region));
  }
  while (!Step()) {
  }
  if (!killed_ && !orchestrator_->end()) {
    // It waits for regions that won't come back.
    processes_.SignalLeader(*orchestrator_, SIGTERM);
    AwaitRegions(kLeaveSeconds);
  }
  return Conclude();
}

}  // namespace atl
