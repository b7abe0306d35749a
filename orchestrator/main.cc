// atoll-orchestrator: one job, one process. Reads the job, takes its run directory, listens, and
// runs until the job ends; exits with the job's code. With --standby it first waits until the
// orchestrator that leads is gone.
//
// Signals: SIGTERM, SIGUSR1, SIGINT end the job in good order (regions finish their round, commit a
// checkpoint, leave: exit code 75); a second SIGINT ends the process at once (130).
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/clock.h"
#include "base/env.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/flags.h"
#include "base/log.h"
#include "base/parent_watch.h"
#include "control/keys.h"
#include "orchestrator/server/daemon.h"
#include "orchestrator/store/etcd/log.h"
#include "proto/job_file.h"

namespace atl {
namespace {

std::atomic<Daemon*> g_daemon{nullptr};
std::atomic<int> g_interrupts{0};
std::atomic<int> g_early_signal{0};  // came before there was a daemon

void OnSignal(int signal) {
  if (signal == SIGINT && g_interrupts.fetch_add(1) > 0) _exit(128 + SIGINT);
  Daemon* const daemon = g_daemon.load();
  if (daemon == nullptr) {
    g_early_signal.store(signal);
  } else {
    daemon->RequestStop(signal);
  }
}

void InstallSignalHandlers() {
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_RESTART;
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1}) sigaction(signal, &action, nullptr);
  // A reader of stdout that has gone away is no reason to end.
  signal(SIGPIPE, SIG_IGN);
}

CommandSpec Spec() {
  CommandSpec spec;
  spec.command = "atoll-orchestrator";
  spec.summary = "Runs one job: admits its regions, makes the view, keeps ledger and events.";
  spec.details =
      "Regions are started by hand or by a scheduler, one mpirun of atoll-worker each; `atoll "
      "train` starts everything on this host.\n\n"
      "Exit codes: the job's. 0 done, 1 failed, 2 configuration, 4 environment (port, disk, "
      "another "
      "orchestrator in the run directory, etcd), 6 another orchestrator took the job over, 75 "
      "stopped cleanly: start it again.";
  spec.flags = {
      {.name = "job", .placeholder = "JOB.yaml", .help = "The job file.", .required = true},
      {.name = "listen",
       .placeholder = "tcp://HOST:PORT",
       .help = "Where regions connect to; port 0 takes a free one.",
       .default_value = "tcp://127.0.0.1:0"},
      {.name = "run_dir",
       .placeholder = "DIR",
       .help = "Where the job is kept; else runs/ and the job's name."},
      {.name = "keys",
       .placeholder = "DIR",
       .help = "Keys of orchestrator and leases, made at the first use; else $ATOLL_KEYS, else "
               "~/.config/atoll/keys."},
      {.name = "store",
       .placeholder = "sqlite:PATH|etcd:ENDPOINTS",
       .help =
           "Where the job's state lives: a file, else atoll.db in the run directory, or an etcd "
           "cluster (https://HOST:PORT,...[/PREFIX]; the prefix is else /atoll/ and the job's "
           "name), from which a standby on another host goes on."},
      {.name = "store_ca",
       .placeholder = "FILE",
       .help = "PEM: the authority that signed etcd's certificates; else the system's."},
      {.name = "store_cert",
       .placeholder = "FILE",
       .help = "PEM: the certificate to show to etcd."},
      {.name = "store_key", .placeholder = "FILE", .help = "PEM: the key of --store_cert."},
      {.name = "standby",
       .kind = FlagKind::kSwitch,
       .placeholder = "",
       .help = "Waits until the orchestrator that leads is gone, then goes on in its place. Needs "
               "--store=etcd and a copy of its keys directory."},
      {.name = "set",
       .kind = FlagKind::kList,
       .placeholder = "KEY=VALUE",
       .help = "Overrides a key of the job file: --set train.rounds=12. May be given often."},
      {.name = "regions",
       .kind = FlagKind::kCount,
       .placeholder = "N",
       .help = "Uses the first N regions of the job; adds region-N where it lists fewer.",
       .min = 1,
       .max = 4096},
      {.name = "resume",
       .placeholder = "auto|never|PATH",
       .help = "Overrides the job's key resume."},
      {.name = "exit_with_parent",
       .kind = FlagKind::kSwitch,
       .placeholder = "",
       .help = "Ends at once when the process that started it is gone."},
  };
  return spec;
}

StatusOr<pb::Job> LoadJobFrom(const ParsedFlags& flags) {
  std::vector<std::string> overrides = flags.List("set");
  if (flags.Has("resume")) overrides.push_back(absl::StrCat("resume=", flags.Text("resume")));
  ASSIGN_OR_RETURN(pb::Job job, LoadJob(flags.Text("job"), overrides));
  if (flags.Has("regions")) SetRegionCount(&job, static_cast<int>(flags.Count("regions")));
  if (job.regions_size() == 0) SetRegionCount(&job, 1);
  return job;
}

// What to type where; on stdout, because it is the answer to starting this program.
void PrintHowToJoin(const Daemon& daemon, const pb::Job& job, const ParsedFlags& flags) {
  std::printf("listening on %s\n", daemon.address().c_str());
  const std::string keys = flags.Has("keys") ? absl::StrCat(" --keys=", flags.Text("keys")) : "";
  for (const pb::Region& region : job.regions()) {
    std::printf("region %s: mpirun -n WORKERS atoll-worker --orchestrator=%s --region=%s%s\n",
                region.name().c_str(), daemon.address().c_str(), region.name().c_str(),
                keys.c_str());
  }
  std::fflush(stdout);
}

// For who reads etcd: which process leads.
std::string Description() {
  const nlohmann::ordered_json json{
      {"host", HostName()},
      {"pid", getpid()},
      {"since", absl::FormatTime(Clock::Real()->WallTime(), absl::UTCTimeZone())}};
  return json.dump();
}

// Once this process leads.
StatusOr<std::unique_ptr<EtcdLog>> OpenEtcd(absl::string_view text, const ParsedFlags& flags,
                                            const Daemon::Options& options) {
  Leadership::Options leadership;
  ASSIGN_OR_RETURN(leadership.place,
                   EtcdPlace::Parse(std::string(text), flags.Text("store_ca"),
                                    flags.Text("store_cert"), flags.Text("store_key")));
  if (leadership.place.prefix.empty()) {
    leadership.place.prefix = absl::StrCat("/atoll/", options.job.name());
  }
  leadership.description = Description();
  leadership.wait = options.standby;
  leadership.cancelled = [] { return g_early_signal.load() != 0; };
  leadership.say = [](const std::string& text) { LOG(INFO) << text; };
  EtcdLog::Options log;
  if (options.standby) {
    // Made by the orchestrator that began the job: one of its own would open nothing.
    if (!FileSize(options.keys_dir + "/orchestrator.key").ok()) {
      return UsageError(absl::StrCat(options.keys_dir,
                                     " holds no orchestrator.key: copy the keys "
                                     "directory of the orchestrator that began the job"));
    }
  }
  ASSIGN_OR_RETURN(log.keys, LoadOrCreateOrchestratorKeys(options.keys_dir));
  return EtcdLog::Open(log, leadership);
}

StatusOr<std::unique_ptr<EtcdLog>> OpenStore(const ParsedFlags& flags, Daemon::Options* options) {
  absl::string_view text = flags.Text("store");
  if (absl::ConsumePrefix(&text, "etcd:")) return OpenEtcd(text, flags, *options);
  for (const char* name : {"store_ca", "store_cert", "store_key"}) {
    if (flags.Has(name)) return UsageError(absl::StrCat("--", name, " needs --store=etcd:..."));
  }
  if (options->standby) {
    return UsageError("--standby needs a store that both hosts reach: --store=etcd:ENDPOINTS");
  }
  if (flags.Has("store")) {
    if (!absl::ConsumePrefix(&text, "sqlite:") || text.empty()) {
      return UsageError(absl::StrCat("--store=", flags.Text("store"),
                                     " is neither sqlite:PATH nor etcd:ENDPOINTS"));
    }
    options->database = std::string(text);
  }
  return std::unique_ptr<EtcdLog>();
}

StatusOr<int> RunJob(const ParsedFlags& flags) {
  ASSIGN_OR_RETURN(const pb::Job job, LoadJobFrom(flags));
  Daemon::Options options;
  options.job = job;
  options.run_dir =
      flags.Has("run_dir") ? flags.Text("run_dir") : absl::StrCat("runs/", job.name());
  options.listen = flags.Text("listen");
  ASSIGN_OR_RETURN(options.keys_dir, KeysDirectory(flags.Text("keys")));
  options.standby = flags.Switch("standby");
  StatusOr<std::unique_ptr<EtcdLog>> log = OpenStore(flags, &options);
  if (absl::IsCancelled(log.status())) return static_cast<int>(ExitCode::kStoppedCleanly);
  RETURN_IF_ERROR(log.status());
  options.log = log->get();
  ASSIGN_OR_RETURN(const std::unique_ptr<Daemon> daemon, Daemon::Create(std::move(options)));
  if (daemon->ended_before()) {
    LOG(INFO) << "the job has ended already (exit code " << *daemon->ended_before() << ")";
    return *daemon->ended_before();
  }
  g_daemon.store(daemon.get());
  if (const int signal = g_early_signal.load()) daemon->RequestStop(signal);
  PrintHowToJoin(*daemon, job, flags);
  const int code = daemon->Run();
  g_daemon.store(nullptr);
  return code;
}

int Main(int argc, char** argv) {
  ParsedFlags flags;
  if (const std::optional<int> code = ParseMain(Spec(), argc, argv, &flags)) return *code;
  InitLogging("atoll-orchestrator");
  InstallSignalHandlers();
  std::optional<ParentWatch> watch;
  if (flags.Switch("exit_with_parent")) watch.emplace();
  const StatusOr<int> code = RunJob(flags);
  if (code.ok()) return *code;
  std::fprintf(stderr, "atoll-orchestrator: %s\n", std::string(code.status().message()).c_str());
  return static_cast<int>(ExitCodeOf(code.status()));
}

}  // namespace
}  // namespace atl

int main(int argc, char** argv) { return atl::Main(argc, argv); }
