// `atoll train --standby`: a second orchestrator beside the one that leads (docs/standby.md).
//
//   1. It is started once the first one listens: that has made the keys.
//   2. The one that leads is killed, or deposed: the standby leads on by itself, and is what the
//      run now watches. Once it listens another one is started in its place: not before, lest that
//      one is quicker and leads.
//   3. A standby that is killed is started again, as often as an orchestrator is.
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/socket.h"
#include "cli/run_directory.h"
#include "cli/train_run.h"

namespace atl {
namespace {

double Now() { return Clock::Real()->MonotonicSeconds(); }

// A standby listens only once it leads. So the port is none of those that the system gives to
// connections, lest one has it by then.
StatusOr<std::string> FreeAddress(const std::string& host) {
  constexpr int kFirst = 15000, kPorts = 15000;
  for (int attempt = 0; attempt < 100; ++attempt) {
    const auto port = static_cast<uint16_t>(
        kFirst + (getpid() * int64_t{101} + attempt * int64_t{7919}) % kPorts);
    if (ListenTcp({host, port}).ok()) return absl::StrCat("tcp://", host, ":", port);
  }
  return EnvironmentError(absl::StrCat("no port of ", host, " is free for a standby"));
}

}  // namespace

std::string PortOf(const std::string& address) { return address.substr(address.rfind(':') + 1); }

bool LeftWell(const ProcessEnd& end) {
  return end.well() ||
         (end.signal == 0 && end.exit_code == static_cast<int>(ExitCode::kStoppedCleanly));
}

Status TrainRun::StartStandby() {
  if (standby_address_.empty()) {
    ASSIGN_OR_RETURN(standby_address_, FreeAddress(setup_.OrchestratorPlace().host));
  }
  RETURN_IF_ERROR(MakeDirectories(standby_dir_));
  SpawnOptions options;
  options.name = "standby";
  options.words = OrchestratorWords(standby_dir_, PortOf(standby_address_));
  options.words.push_back("--standby");
  options.output_path = standby_dir_ + "/orchestrator.log";
  ASSIGN_OR_RETURN(standby_, processes_.Spawn(options));
  return OkStatus();
}

void TrainRun::TakeOver(std::optional<double> wait) {
  progress_->Finish(Now());
  progress_->Say(absl::StrCat("the orchestrator ended: ", orchestrator_->end()->Text(),
                              "; its standby takes over, with its files in ", standby_dir_,
                              "; the regions train on"));
  orchestrator_ = std::exchange(standby_, nullptr);
  std::swap(leader_dir_, standby_dir_);
  std::swap(leader_address_, standby_address_);
  log_offset_ = 0;
  ShowProgress();
  if (wait) standby_start_at_ = Now() + *wait;
}

bool TrainRun::LeaderListens() const {
  const auto info = ReadOrchestratorInfo(leader_dir_);
  return info && info->pid == orchestrator_->pid();
}

void TrainRun::NoteStandbyEnd() {
  if (standby_ == nullptr || !standby_->end()) return;
  const ProcessEnd end = *standby_->end();
  standby_ = nullptr;
  if (LeftWell(end) || stopping_) return;
  const std::optional<double> wait =
      end.signal == 0 ? std::nullopt : orchestrator_restarts_.Ended(Now());
  if (wait) standby_start_at_ = Now() + *wait;
  progress_->Say(absl::StrCat("the standby ended: ", end.Text(), "; its log is ", standby_dir_,
                              "/orchestrator.log; ",
                              wait ? "it is started again" : "it is not started again"));
}

}  // namespace atl
