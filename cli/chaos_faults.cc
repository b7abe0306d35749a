#include "cli/chaos_faults.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/clock.h"
#include "base/random.h"
#include "base/units.h"
#include "cli/run_directory.h"

namespace atl {
namespace {

namespace fs = std::filesystem;

constexpr double kLookSeconds = 0.02;
constexpr double kRecoverySeconds = 90;  // for regions to be back, before the next fault
constexpr double kNextRoundSeconds = 60;
constexpr double kStartSeconds = 20;
constexpr double kReduceSeconds = 3;
constexpr double kLoss = 0.3;

double Now() { return Clock::Real()->MonotonicSeconds(); }

// The words of a process's command line; none if it is gone.
std::vector<std::string> CommandLine(const std::string& pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/cmdline"), std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  return absl::StrSplit(text, '\0');
}

}  // namespace

const char* FaultName(FaultKind kind) {
  switch (kind) {
    case FaultKind::kKillRegion:
      return "kill";
    case FaultKind::kStopRegion:
      return "stop";
    case FaultKind::kKillOrchestrator:
      return "kill orchestrator";
    case FaultKind::kStopOrchestrator:
      return "stop orchestrator";
    case FaultKind::kCut:
      return "cut";
    case FaultKind::kCutOneWay:
      return "cut one way";
    case FaultKind::kLoss:
      return "loss";
    case FaultKind::kBlackHole:
      break;
  }
  return "black hole";
}

StatusOr<std::vector<FaultKind>> FaultKindsFromText(const std::string& text) {
  std::vector<FaultKind> kinds;
  for (int kind = 0; kind < kDrawnFaultKinds && text.empty(); ++kind) {
    kinds.push_back(static_cast<FaultKind>(kind));
  }
  if (text.empty()) return kinds;
  std::vector<std::string> names;
  for (int kind = 0; kind < kFaultKinds; ++kind) {
    names.push_back(FaultName(static_cast<FaultKind>(kind)));
  }
  for (const absl::string_view name : absl::StrSplit(text, ',')) {
    const auto found = std::find(names.begin(), names.end(), name);
    if (found == names.end()) {
      return absl::InvalidArgumentError(absl::StrCat("no kind of fault is called \"", name,
                                                     "\"; there are ", absl::StrJoin(names, ", ")));
    }
    kinds.push_back(static_cast<FaultKind>(found - names.begin()));
  }
  return kinds;
}

std::string ChaosFault::Text(const std::vector<std::string>& regions) const {
  std::string text = FaultName(kind);
  const bool of_orchestrator =
      kind == FaultKind::kKillOrchestrator || kind == FaultKind::kStopOrchestrator;
  if (!of_orchestrator) absl::StrAppend(&text, " ", regions[region]);
  if (kind == FaultKind::kCut) absl::StrAppend(&text, " - ", regions[other]);
  if (kind == FaultKind::kCutOneWay) absl::StrAppend(&text, " > ", regions[other]);
  if (seconds > 0) absl::StrAppend(&text, ", ", FormatDuration(seconds));
  return text;
}

std::vector<ChaosFault> PlanFaults(uint64_t seed, int faults, int regions, int64_t rounds,
                                   const std::vector<FaultKind>& all_kinds) {
  const CounterRandom random(seed);
  uint64_t drawn = 0;
  const auto draw = [&](int64_t below) {
    return static_cast<int>(random.Bits(drawn++) % static_cast<uint64_t>(below));
  };
  std::vector<ChaosFault> plan;
  std::vector<FaultKind> kinds;
  for (int i = 0; i < faults; ++i) {
    if (kinds.empty()) kinds = all_kinds;
    ChaosFault fault;
    const int place = draw(static_cast<int64_t>(kinds.size()));
    fault.kind = kinds[place];
    kinds.erase(kinds.begin() + place);
    fault.region = draw(regions);
    fault.other = (fault.region + 1 + draw(std::max(1, regions - 1))) % regions;
    fault.round = 1 + i * std::max<int64_t>(1, rounds - 2) / std::max(1, faults);
    fault.delay = 0.5 * random.Uniform(drawn++);
    const bool lasts =
        fault.kind != FaultKind::kKillRegion && fault.kind != FaultKind::kKillOrchestrator;
    if (lasts) fault.seconds = fault.kind == FaultKind::kLoss ? 5 : 2 + draw(6);
    plan.push_back(fault);
  }
  return plan;
}

Injector::Injector(const RunningLab* lab, std::string run_dir, std::vector<std::string> regions,
                   std::vector<ChaosFault> faults, double away_seconds)
    : lab_(lab),
      run_dir_(std::move(run_dir)),
      regions_(std::move(regions)),
      faults_(std::move(faults)),
      away_seconds_(away_seconds),
      thread_([this] { Run(); }) {}

Injector::~Injector() { Stop(); }

void Injector::Stop() {
  {
    MutexLock lock(&mutex_);
    stop_ = true;
  }
  changed_.NotifyAll();
  if (thread_.joinable()) thread_.join();
}

template <typename Done>
bool Injector::Await(double seconds, Done done) {
  const double deadline = Now() + seconds;
  for (;;) {
    if (done()) return true;
    MutexLock lock(&mutex_);
    if (stop_ || Now() >= deadline) return false;
    changed_.WaitFor(&mutex_, kLookSeconds);
  }
}

RoundLine Injector::Newest() const {
  RoundLine newest;
  for (const std::string& line : LastLines(run_dir_ + "/rounds.jsonl", 2)) {
    const auto parsed = ParseRoundLine(line);
    if (parsed && parsed->round > newest.round) newest = *parsed;
  }
  return newest;
}

// As it last said; it adds whom it waits for.
bool Injector::Reduces(int region, int64_t round) const {
  const nlohmann::json summary = ReadSummary(run_dir_);
  const auto entries = summary.find("regions");
  if (entries == summary.end() || !entries->is_array()) return false;
  const std::string reduces = absl::StrCat("all-reduce of round ", round, ";");
  return std::any_of(entries->begin(), entries->end(), [&](const auto& entry) {
    return entry.is_object() && TextOr(entry, "name", "") == regions_[region] &&
           absl::StartsWith(TextOr(entry, "doing", "") + ";", reduces);
  });
}

int Injector::Training() const {
  const nlohmann::json summary = ReadSummary(run_dir_);
  const auto regions = summary.find("regions");
  if (regions == summary.end() || !regions->is_array()) return 0;
  return static_cast<int>(std::count_if(regions->begin(), regions->end(), [](const auto& region) {
    return region.is_object() && TextOr(region, "state", "") == "training";
  }));
}

std::vector<pid_t> Injector::WorkersOf(int region) const {
  std::vector<pid_t> pids;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename().string();
    int pid = 0;
    if (!absl::SimpleAtoi(name, &pid)) continue;
    const std::vector<std::string> words = CommandLine(name);
    const auto has = [&](const std::string& word) {
      return std::find(words.begin(), words.end(), word) != words.end();
    };
    // mpirun's command line has the same words.
    if (words.empty() || !absl::EndsWith(words[0], "atoll-worker")) continue;
    if (has("--region=" + regions_[region]) && has("--run_dir=" + run_dir_)) pids.push_back(pid);
  }
  return pids;
}

std::vector<pid_t> Injector::Orchestrator() const {
  const auto info = ReadOrchestratorInfo(run_dir_);
  if (!info || !info->alive) return {};
  return {info->pid};
}

Status Injector::Signal(const std::vector<pid_t>& pids, int signal) {
  if (pids.empty()) return absl::NotFoundError("there is no such process now");
  for (const pid_t pid : pids) kill(pid, signal);
  return OkStatus();
}

Status Injector::Begin(const ChaosFault& fault) {
  const std::string& region = regions_[fault.region];
  const std::string& other = regions_[fault.other];
  switch (fault.kind) {
    case FaultKind::kKillRegion:
      return Signal(WorkersOf(fault.region), SIGKILL);
    case FaultKind::kStopRegion:
      return Signal(WorkersOf(fault.region), SIGSTOP);
    case FaultKind::kKillOrchestrator:
      return Signal(Orchestrator(), SIGKILL);
    case FaultKind::kStopOrchestrator:
      return Signal(Orchestrator(), SIGSTOP);
    case FaultKind::kCut:
      return lab_->Cut(region, other);
    case FaultKind::kCutOneWay:
      return lab_->Control({"cut", absl::StrCat(region, ">", other)}).status();
    case FaultKind::kLoss:
      return lab_->Set({region, absl::StrCat("loss=", kLoss)});
    case FaultKind::kBlackHole:
      break;
  }
  for (const std::string& one : regions_) {
    if (one != region) RETURN_IF_ERROR(lab_->Cut(region, one));
  }
  return OkStatus();
}

Status Injector::End(const ChaosFault& fault) {
  switch (fault.kind) {
    case FaultKind::kStopRegion:
      return Signal(WorkersOf(fault.region), SIGCONT);
    case FaultKind::kStopOrchestrator:
      return Signal(Orchestrator(), SIGCONT);
    case FaultKind::kCut:
    case FaultKind::kCutOneWay:  // both ways, then
      return lab_->Heal(regions_[fault.region], regions_[fault.other]);
    case FaultKind::kLoss:
      return lab_->Set({regions_[fault.region], "loss=0"});
    case FaultKind::kBlackHole:
      for (const std::string& one : regions_) {
        if (one != regions_[fault.region]) RETURN_IF_ERROR(lab_->Heal(regions_[fault.region], one));
      }
      return OkStatus();
    default:
      return OkStatus();
  }
}

FaultOutcome Injector::Inject(const ChaosFault& fault) {
  FaultOutcome outcome;
  outcome.fault = fault;
  const bool hits_region = fault.kind == FaultKind::kKillRegion ||
                           fault.kind == FaultKind::kStopRegion ||
                           fault.kind == FaultKind::kBlackHole;
  // In the midst of an all-reduce, if it is seen in one.
  if (hits_region) {
    Await(kReduceSeconds, [&] { return Reduces(fault.region, Committed() + 1); });
  }
  Status begun;
  int64_t view = 0;
  // A process that is being started is not there for a moment.
  Await(kStartSeconds, [&] {
    const RoundLine newest = Newest();
    outcome.committed = newest.round;
    view = newest.view;
    outcome.in_all_reduce = hits_region && Reduces(fault.region, newest.round + 1);
    outcome.at = Now();
    begun = Begin(fault);
    return !absl::IsNotFound(begun);
  });
  if (!begun.ok()) {
    outcome.error = std::string(begun.message());
    return outcome;
  }
  const auto committed_more = [&] {
    const RoundLine newest = Newest();
    if (outcome.next_round == 0 && newest.round > outcome.committed) {
      outcome.next_round = Now() - outcome.at;
    }
    if (hits_region && outcome.without < 0 && newest.view > view) {
      outcome.without = Now() - outcome.at;
    }
    const bool missed = outcome.without > 0 || fault.kind != FaultKind::kKillRegion;
    return outcome.next_round > 0 && missed;
  };
  Await(fault.seconds, [&] {
    committed_more();
    return false;
  });
  const Status ended = End(fault);
  if (!ended.ok() && !absl::IsNotFound(ended)) outcome.error = std::string(ended.message());
  if (!Await(kNextRoundSeconds, committed_more) && outcome.next_round == 0) {
    outcome.next_round = -1;
  }
  return outcome;
}

void Injector::StepAway() {
  if (!Await(kRecoverySeconds, [&] { return Committed() >= 1; })) return;
  const int64_t before = Committed();
  const std::vector<pid_t> pids = Orchestrator();
  if (!Signal(pids, SIGSTOP).ok()) return;
  Await(away_seconds_, [] { return false; });
  // A dead one says nothing more; the one that follows it hears what was done meanwhile.
  Signal(pids, SIGKILL).IgnoreError();
  int64_t now = before;
  double since = Now();
  Await(kNextRoundSeconds, [&] {
    const int64_t committed = Committed();
    if (committed > before && now == before) since = Now();
    now = committed;
    return now > before && Now() > since + 1;  // a second for those that waited to be reported
  });
  rounds_while_away_ = now - before;
}

void Injector::Run() {
  if (away_seconds_ > 0) StepAway();
  const int enough = std::max(2, static_cast<int>(regions_.size()) - 1);
  for (const ChaosFault& fault : faults_) {
    const auto due = [&] { return Committed() >= fault.round; };
    const auto recovered = [&] { return Training() >= enough; };
    while (!Await(1, due)) {
      MutexLock lock(&mutex_);
      if (stop_) return;
    }
    Await(kRecoverySeconds, recovered);
    Await(fault.delay, [] { return false; });
    {
      MutexLock lock(&mutex_);
      if (stop_) return;
    }
    FaultOutcome outcome = Inject(fault);
    MutexLock lock(&mutex_);
    if (stop_ && !outcome.error.empty()) return;  // the job ended first
    outcomes_.push_back(std::move(outcome));
  }
}

}  // namespace atl
