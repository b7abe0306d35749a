// atoll-worker: one process of a region, started by mpirun, srun or a pod. Rank 0 leads: it alone
// talks to the orchestrator and tells the others what to do.
//
//   1. flags, logging, MPI;
//   2. rank 0: lease, control connection, Leader (event loop and command thread); the others:
//      FollowLeader;
//   3. all end with the same exit code. A rank that fails where the others can't know ends the
//      region by force.
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "base/build_info.h"
#include "base/clock.h"
#include "base/env.h"
#include "base/flags.h"
#include "base/log.h"
#include "base/parent_watch.h"
#include "base/random.h"
#include "collectives/mpi/mpi_communicator.h"
#include "collectives/mpi/mpi_environment.h"
#include "control/client.h"
#include "control/keys.h"
#include "control/server.h"
#include "proto/lease_terms.h"
#include "worker/program/last_words.h"
#include "worker/program/leader.h"

namespace atl {
namespace {

std::atomic<int> g_signals{0};
std::atomic<int> g_signal{0};
std::atomic<ControlClient*> g_client{nullptr};

// First SIGTERM, SIGUSR1 or SIGINT: stop after the round. A second SIGINT: now.
void OnSignal(int signal) {
  if (g_signals.fetch_add(1) > 0 && signal == SIGINT) _exit(128 + SIGINT);
  g_signal.store(signal);
  if (ControlClient* client = g_client.load()) client->Wake();
}

const char* StopSignal() {
  switch (g_signal.load()) {
    case SIGTERM:
      return "SIGTERM";
    case SIGUSR1:
      return "SIGUSR1";
    case SIGINT:
      return "SIGINT";
    default:
      return nullptr;
  }
}

void InstallSignalHandlers() {
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_RESTART;
  for (int signal : {SIGTERM, SIGUSR1, SIGINT}) sigaction(signal, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

CommandSpec Spec() {
  CommandSpec spec;
  spec.command = "atoll-worker";
  spec.summary = "one worker of a region; start one per accelerator with mpirun, rank 0 leads";
  spec.details =
      "The job comes from the orchestrator. Exit codes: 0 done, 1 failed, 2 configuration, 4 "
      "environment, "
      "5 orchestrator lost, 75 stopped cleanly with a checkpoint.";
  const auto flag = [&](const char* name, FlagKind kind, const char* placeholder, const char* help,
                        const char* fallback = "") {
    FlagSpec flag;
    flag.name = name;
    flag.kind = kind;
    flag.placeholder = placeholder;
    flag.help = help;
    flag.default_value = fallback;
    spec.flags.push_back(flag);
  };
  flag("orchestrator", FlagKind::kText, "tcp://HOST:PORT,...",
       "where the orchestrator listens, and where its standbys will");
  spec.flags.back().required = true;
  flag("region", FlagKind::kText, "NAME", "this region's name in the job");
  spec.flags.back().required = true;
  flag("lease", FlagKind::kText, "FILE",
       "the region's lease; else NAME.lease in the keys directory");
  flag("keys", FlagKind::kText, "DIR",
       "keys directory; else $ATOLL_KEYS, else ~/.config/atoll/keys");
  flag("run_dir", FlagKind::kText, "DIR", "where NAME/checkpoints go; else runs/JOB");
  flag("wan_listen", FlagKind::kText, "HOST:PORT|none",
       "data-plane address to listen on; else any port of the address that reaches the "
       "orchestrator. none: no other region can call this one, it only calls out");
  flag("wan_advertise", FlagKind::kText, "HOST",
       "host that other regions dial, where that differs from wan_listen");
  flag("data_tokens", FlagKind::kText, "FILE", "this site's copy of the job's data.tokens");
  flag("encryption_key", FlagKind::kText, "FILE",
       "encrypt checkpoints with the key in this file; the same key in all regions");
  flag("encryption_key_command", FlagKind::kText, "COMMAND",
       "the same, with the key that this shell command prints");
  flag("trainer", FlagKind::kText, "MODULE.so", "trainer module; else the libtorch one");
  flag("log_dir", FlagKind::kText, "DIR",
       "append stderr to DIR/rank-R.log, leave last words there");
  flag(
      "lease_end", FlagKind::kText, "TIME",
      "when the site takes the accelerators back, as 2026-11-30T18:00:00Z; the region leaves after "
      "the last round that fits. Else: as the job file says");
  flag("lease_lead", FlagKind::kDuration, "TIME",
       "the site really ends so much before the end of the lease. Else: as the job file says");
  flag("orchestrator_wait", FlagKind::kDuration, "TIME",
       "how long to wait for the orchestrator's first answer", "30s");
  flag("orchestrator_lost", FlagKind::kDuration, "TIME",
       "how long to go without it where it is needed", "10m");
  return spec;
}

int RankFromEnvironment(const char* name) {
  int value = 0;
  if (const auto text = GetEnv(name)) (void)absl::SimpleAtoi(*text, &value);
  return value;
}

StatusOr<RegionWorkerOptions> WorkerOptions(const ParsedFlags& flags) {
  RegionWorkerOptions options;
  options.region = flags.Text("region");
  options.run_dir = flags.Text("run_dir");
  options.wan_advertise = flags.Text("wan_advertise");
  options.trainer_module = flags.Text("trainer");
  options.data_tokens = flags.Text("data_tokens");
  options.encryption_key = flags.Text("encryption_key");
  options.encryption_key_command = flags.Text("encryption_key_command");
  if (!options.encryption_key.empty() && !options.encryption_key_command.empty()) {
    return UsageError("give --encryption_key or --encryption_key_command, not both");
  }
  options.local_rank = RankFromEnvironment("OMPI_COMM_WORLD_LOCAL_RANK");
  options.stop_requested = [] { return StopSignal() != nullptr; };
  absl::string_view address = flags.Text("orchestrator");
  if (!absl::ConsumePrefix(&address, "tcp://")) {
    return UsageError(
        absl::StrCat("--orchestrator=", flags.Text("orchestrator"), " does not begin with tcp://"));
  }
  // The first one: which of this host's addresses reaches it is asked.
  auto orchestrator = Endpoint::Parse(std::string(address.substr(0, address.find(','))));
  if (!orchestrator.ok())
    return Annotate(UsageError(std::string(orchestrator.status().message())), "--orchestrator");
  options.orchestrator = *orchestrator;
  if (flags.Text("wan_listen") == "none") {
    if (!options.wan_advertise.empty()) {
      return UsageError(
          "--wan_listen=none says that nobody can call, --wan_advertise whom to call");
    }
    options.wan_only_calls_out = true;
  } else if (flags.Has("wan_listen")) {
    auto listen = Endpoint::Parse(flags.Text("wan_listen"));
    if (!listen.ok())
      return Annotate(UsageError(std::string(listen.status().message())), "--wan_listen");
    options.wan_listen = *listen;
  }
  return options;
}

StatusOr<Lease> FindLease(const ParsedFlags& flags) {
  if (flags.Has("lease")) return LoadLease(flags.Text("lease"));
  ASSIGN_OR_RETURN(const std::string directory, KeysDirectory(flags.Text("keys")));
  return LoadLease(absl::StrCat(directory, "/", flags.Text("region"), ".lease"));
}

// What the command line says of the lease; the rest is as the job file says.
Status TakeLease(const ParsedFlags& flags, pb::Hello* hello) {
  if (flags.Has("lease_lead")) hello->set_lease_lead(flags.Seconds("lease_lead"));
  if (!flags.Has("lease_end")) return OkStatus();
  const auto end = ParseLeaseTime(flags.Text("lease_end"));
  if (!end.ok()) {
    return UsageError(absl::StrCat("--lease_end=", flags.Text("lease_end"), ": ",
                                   std::string(end.status().message())));
  }
  hello->set_lease_end(*end);
  return OkStatus();
}

std::string RandomHex() {
  uint64_t bits = 0;
  FillWithSystemRandom(&bits, sizeof bits);
  return absl::StrFormat("%016x", bits);
}

// For the thread that writes checkpoints while training goes on; null where MPI can't serve two
// threads at once on some rank.
StatusOr<std::unique_ptr<Communicator>> SavesCommunicator(const MpiEnvironment& environment,
                                                          Communicator& control) {
  ASSIGN_OR_RETURN(const auto able,
                   control.AllGatherBytes(environment.threads_at_once() ? "able" : ""));
  for (const std::string& rank : able) {
    if (!rank.empty() || able.size() == 1) continue;
    LOG(WARNING) << "this MPI serves one thread at a time: training waits for checkpoints";
    return nullptr;
  }
  MpiOptions options;
  options.share_memory = false;  // a few words a save
  return MakeMpiCommunicator(options);
}

// Rank 0. The region's followers have had Finish when this returns with *region_ended.
AgentExit Lead(const ParsedFlags& flags, RegionWorker& worker, Communicator& control,
               const AbortRegion& abort, bool* region_ended) {
  const auto finish_early = [&](const Status& status) {
    pb::RegionCommand finish;
    finish.mutable_finish()->set_exit_code(static_cast<int>(ExitCodeOf(status)));
    *region_ended = RunCommand(finish, worker, control, abort).ok();
    return AgentExit{ExitCodeOf(status), std::string(status.message()), true};
  };
  auto lease = FindLease(flags);
  if (!lease.ok()) return finish_early(lease.status());
  if (lease->region != flags.Text("region")) {
    return finish_early(UsageError(absl::StrCat("the lease is of region ", lease->region,
                                                ", but --region=", flags.Text("region"))));
  }
  auto client = ControlClient::Create(flags.Text("orchestrator"), *lease);
  if (!client.ok()) return finish_early(client.status());
  g_client.store(client->get());
  AgentOptions options;
  options.hello.set_protocol(kControlProtocol);
  const Status taken = TakeLease(flags, &options.hello);
  if (!taken.ok()) return finish_early(taken);
  options.wall_offset = absl::ToDoubleSeconds(Clock::Real()->WallTime() - absl::UnixEpoch()) -
                        Clock::Real()->MonotonicSeconds();
  options.survives = true;
  options.hello.set_region(flags.Text("region"));
  options.hello.set_attempt(RandomHex());
  options.hello.set_workers(control.size());
  options.hello.set_host(HostName());
  options.hello.set_pid(getpid());
  options.hello.set_version(GetBuildInfo().version);
  options.orchestrator_wait_seconds = flags.Seconds("orchestrator_wait");
  options.orchestrator_lost_seconds = flags.Seconds("orchestrator_lost");
  auto* leader =
      new Leader(std::move(options), client->get(), &worker, &control, abort, StopSignal);
  AgentExit exit = leader->Run(region_ended);
  g_client.store(nullptr);
  if (*region_ended) {
    delete leader;
  } else {
    // The command thread is stuck and may still use them; the process is about to end.
    (void)client->release();
  }
  return exit;
}

int Main(int argc, char** argv) {
  ParsedFlags flags;
  if (const auto exit = ParseMain(Spec(), argc, argv, &flags)) return *exit;
  const std::string log_dir = flags.Text("log_dir");
  const int env_rank = RankFromEnvironment("OMPI_COMM_WORLD_RANK");
  if (!log_dir.empty()) MakeDirectories(log_dir).IgnoreError();
  InitLogging(argv[0], log_dir.empty() ? "" : absl::StrCat(log_dir, "/rank-", env_rank, ".log"));
  LogCrashes();
  // Before MPI, which takes its time: whoever is told to leave then leaves with 75 too.
  InstallSignalHandlers();
  auto options = WorkerOptions(flags);
  if (!options.ok()) {
    LOG(ERROR) << options.status().message();
    return static_cast<int>(ExitCodeOf(options.status()));
  }
  auto environment = MpiEnvironment::Create();
  if (!environment.ok()) {
    LOG(ERROR) << environment.status().message();
    return static_cast<int>(ExitCode::kEnvironment);
  }
  std::unique_ptr<ParentWatch> parent_watch;
  if (GetEnv("OMPI_COMM_WORLD_SIZE")) parent_watch = std::make_unique<ParentWatch>();
  auto control = MakeMpiCommunicator();
  if (!control.ok()) {
    LOG(ERROR) << control.status().message();
    (*environment)->Abort(static_cast<int>(ExitCode::kEnvironment));
  }
  auto saves = SavesCommunicator(**environment, **control);
  if (!saves.ok()) {
    LOG(ERROR) << saves.status().message();
    (*environment)->Abort(static_cast<int>(ExitCode::kEnvironment));
  }
  options->saves = saves->get();
  LastWords words;
  words.region = flags.Text("region");
  words.rank = (*control)->rank();
  RegionWorker worker(*std::move(options), control->get());
  const AbortRegion abort = [&](const pb::RegionAnswer& answer) {
    words.doing = worker.doing();
    words.what = answer.error();
    words.exit_code = static_cast<ExitCode>(answer.exit_code());
    words.is_cause = answer.blames().empty();
    LeaveLastWords(log_dir, words);
    (*environment)->Abort(answer.exit_code());
  };

  AgentExit exit;
  bool region_ended = true;
  if ((*control)->rank() == 0) {
    exit = Lead(flags, worker, **control, abort, &region_ended);
  } else {
    const auto code = FollowLeader(worker, **control, abort);
    region_ended = code.ok();
    exit.code = code.ok() ? *code : ExitCode::kFailed;
    exit.is_cause = false;
    if (!code.ok()) exit.why = std::string(code.status().message());
  }
  const bool well = exit.code == ExitCode::kDone || exit.code == ExitCode::kStoppedCleanly;
  if (!well && !exit.why.empty()) {
    words.doing = worker.doing();
    words.what = exit.why;
    words.exit_code = exit.code;
    words.is_cause = exit.is_cause;
    LeaveLastWords(log_dir, words);
  }
  if (!region_ended) {
    if ((*control)->size() > 1) (*environment)->Abort(static_cast<int>(exit.code));
    _exit(static_cast<int>(exit.code));
  }
  parent_watch.reset();
  return static_cast<int>(exit.code);
}

}  // namespace
}  // namespace atl

int main(int argc, char** argv) { return atl::Main(argc, argv); }
