#include "cli/train_setup.h"

#include <google/protobuf/util/message_differencer.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/env.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/units.h"
#include "cli/estimate.h"
#include "cli/run_directory.h"
#include "proto/job_file.h"
#include "proto/model_presets.h"
#include "worker/data/dataset.h"

namespace atl {
namespace {

namespace fs = std::filesystem;

// The files of a job in its run directory; regions' directories are known by what is in them.
const std::set<std::string>& JobFiles() {
  static const std::set<std::string>* const files = new std::set<std::string>{
      "job.yaml",     "orchestrator.json", "orchestrator.log", "atoll.db",    "atoll.db-wal",
      "atoll.db-shm", "summary.json",      "rounds.jsonl",     "events.jsonl"};
  return *files;
}

bool IsRegionDirectory(const fs::directory_entry& entry) {
  std::error_code error;
  if (!entry.is_directory(error) || entry.is_symlink(error)) return false;
  for (const auto& inside : fs::directory_iterator(entry.path(), error)) {
    const std::string name = inside.path().filename().string();
    if (name == "checkpoints" || absl::StartsWith(name, "attempt-")) return true;
  }
  return false;
}

std::vector<fs::path> JobEntries(const std::string& run_dir) {
  std::vector<fs::path> entries;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(run_dir, error)) {
    const std::string name = entry.path().filename().string();
    if (absl::StartsWith(name, "former-")) continue;
    if (JobFiles().count(name) > 0 || IsRegionDirectory(entry)) entries.push_back(entry.path());
  }
  return entries;
}

// Bytes of checkpoints that are there already: a job that goes on replaces them.
int64_t CheckpointBytesOnDisk(const std::string& run_dir) {
  int64_t bytes = 0;
  std::error_code error;
  for (const auto& region : fs::directory_iterator(run_dir, error)) {
    std::error_code inner;
    for (const auto& entry :
         fs::recursive_directory_iterator(region.path() / "checkpoints", inner)) {
      std::error_code gone;
      const auto size = entry.is_regular_file(gone) ? entry.file_size(gone) : 0;
      if (!gone) bytes += static_cast<int64_t>(size);
    }
  }
  return bytes;
}

StatusOr<pb::Job> LoadTrainJob(const ParsedFlags& flags, const Stage& stage) {
  std::vector<std::string> overrides = flags.List("set");
  if (flags.Has("resume")) overrides.push_back(absl::StrCat("resume=", flags.Text("resume")));
  ASSIGN_OR_RETURN(pb::Job job, LoadJob(flags.positional()[0], overrides));
  if (!stage.regions.empty()) {
    std::vector<std::string> names;
    for (const auto& [name, place] : stage.regions) names.push_back(name);
    SetRegions(names, &job);
  } else if (flags.Has("regions")) {
    SetRegionCount(&job, static_cast<int>(flags.Count("regions")));
  }
  if (job.regions_size() == 0) SetRegionCount(&job, 1);
  RETURN_IF_ERROR(CheckJob(job));
  RETURN_IF_ERROR(CheckJobFiles(job));
  return job;
}

Status FindPrograms(TrainSetup* setup) {
  const std::string here = ExecutableDirectory();
  for (const auto& [name, path] : {std::pair("atoll-orchestrator", &setup->orchestrator_program),
                                   std::pair("atoll-worker", &setup->worker_program)}) {
    *path = FindProgram(name, here);
    if (path->empty()) {
      return EnvironmentError(absl::StrCat("there is no ", name, " in ", here,
                                           ", beside atoll itself: build or install all of atoll "
                                           "(scripts/build)"));
    }
  }
  setup->mpirun_program = FindProgram("mpirun", GetEnv("PATH").value_or("/usr/bin:/bin"));
  if (setup->mpirun_program.empty()) {
    return EnvironmentError(
        "there is no mpirun on the PATH, and workers of a region find one another through it: "
        "install Open MPI (on Debian and Ubuntu: apt-get install openmpi-bin)");
  }
  return OkStatus();
}

// Step 3, with the directory's lock held.
Status TakeOverState(TrainSetup* setup, Output* output) {
  const std::string& run_dir = setup->run_dir;
  const pb::Job& job = setup->job;
  if (!HasJobState(run_dir)) return OkStatus();
  if (job.resume() == "never") {
    ASSIGN_OR_RETURN(const std::string former, SetFormerJobAside(run_dir));
    output->Talk(absl::StrCat("resume is never: this starts anew; what was in ", run_dir,
                              " is kept in ", former, "\n"));
    return OkStatus();
  }
  const std::string former_path = run_dir + "/job.yaml";
  const auto former = LoadJob(former_path, {});
  if (!former.ok()) {
    return UsageError(
        absl::StrCat(run_dir, " holds a former job that can't be read (", former.status().message(),
                     "); choose another --run_dir, or begin anew in it with --resume=never"));
  }
  const std::vector<std::string> differing = KeysOfAnotherJob(*former, job);
  if (!differing.empty()) {
    return UsageError(absl::StrCat(run_dir, " holds another job: it differs in ",
                                   absl::StrJoin(differing, ", "), " (see ", former_path,
                                   "); choose another --run_dir, or begin anew in this one with "
                                   "--resume=never, which keeps the former files aside"));
  }
  const nlohmann::json summary = ReadSummary(run_dir);
  const auto committed = static_cast<int64_t>(NumberOr(summary, "rounds_committed", 0));
  if (job.resume() == "auto" && TextOr(summary, "state", "") == "done" &&
      committed >= job.train().rounds()) {
    setup->already_done = true;
    output->Talk(absl::StrCat("this job is done: all ", job.train().rounds(),
                              " rounds are committed. To train on: --set train.rounds=",
                              2 * job.train().rounds(), "; to begin anew: --resume=never\n"));
    return OkStatus();
  }
  output->Talk(job.resume() == "auto"
                   ? absl::StrCat("continuing the job in ", run_dir, ", which has ", committed,
                                  " committed rounds\n")
                   : absl::StrCat("resuming from ", job.resume(), " in ", run_dir,
                                  ": rounds after it are trained again\n"));
  return OkStatus();
}

StatusOr<double> CheckpointBytes(const pb::Job& job, int workers) {
  ASSIGN_OR_RETURN(const auto dataset, Dataset::Open(job.data(), job.seed()));
  ASSIGN_OR_RETURN(const pb::Model model, ResolveModel(job.model(), dataset->vocab_size()));
  return EstimateJob(job, model, job.regions_size(), workers).checkpoint_bytes;
}

}  // namespace

void SetRegions(const std::vector<std::string>& names, pb::Job* job) {
  const pb::Job before = *job;
  job->clear_regions();
  for (const std::string& name : names) {
    pb::Region* const region = job->add_regions();
    for (const pb::Region& described : before.regions()) {
      if (described.name() == name) *region = described;
    }
    region->set_name(name);
    region->clear_serve();
  }
}

std::string FindProgram(const std::string& name, const std::string& path) {
  for (absl::string_view directory : absl::StrSplit(path, ':', absl::SkipEmpty())) {
    const std::string candidate = absl::StrCat(directory, "/", name);
    struct stat info;
    if (stat(candidate.c_str(), &info) == 0 && S_ISREG(info.st_mode) &&
        access(candidate.c_str(), X_OK) == 0) {
      return candidate;
    }
  }
  return "";
}

std::vector<std::string> KeysOfAnotherJob(const pb::Job& former, const pb::Job& job) {
  using google::protobuf::FieldDescriptor;
  using google::protobuf::util::MessageDifferencer;
  std::vector<std::string> keys;
  const auto compare = [&](const google::protobuf::Message& a, const google::protobuf::Message& b,
                           const std::string& prefix) {
    const google::protobuf::Descriptor* type = a.GetDescriptor();
    for (int i = 0; i < type->field_count(); ++i) {
      const FieldDescriptor* field = type->field(i);
      MessageDifferencer differencer;
      if (!differencer.CompareWithFields(a, b, {field}, {field})) {
        keys.push_back(absl::StrCat(prefix, field->name()));
      }
    }
  };
  if (former.seed() != job.seed()) keys.push_back("seed");
  compare(former.model(), job.model(), "model.");
  compare(former.data(), job.data(), "data.");
  if (former.sync().method() != job.sync().method()) keys.push_back("sync.method");
  if (former.train().global_batch() != job.train().global_batch()) {
    keys.push_back("train.global_batch");
  }
  return keys;
}

StatusOr<std::string> SetFormerJobAside(const std::string& run_dir) {
  const std::vector<fs::path> entries = JobEntries(run_dir);
  for (int number = 1;; ++number) {
    const std::string former = absl::StrCat(run_dir, "/former-", number);
    if (mkdir(former.c_str(), 0755) != 0) {
      if (errno == EEXIST) continue;
      return ErrnoError(errno, absl::StrCat("cannot create directory ", former));
    }
    for (const fs::path& entry : entries) {
      const std::string target = former + "/" + entry.filename().string();
      if (rename(entry.c_str(), target.c_str()) != 0) {
        return ErrnoError(errno, absl::StrCat("cannot move ", entry.string(), " to ", target));
      }
    }
    return former;
  }
}

Status CheckFreeSpace(const std::string& run_dir, const pb::Job& job, double checkpoint_bytes) {
  ASSIGN_OR_RETURN(const int64_t free, FreeSpaceBytes(run_dir));
  const pb::CheckpointPolicy& policy = job.checkpoint();
  const int64_t written =
      policy.every() > 0 ? job.train().rounds() / policy.every() + 1 : int64_t{1};
  // One more than is kept, while it is written.
  const int64_t at_once = std::min(policy.keep() + 1, written);
  const double needed = checkpoint_bytes * job.regions_size() * static_cast<double>(at_once) -
                        static_cast<double>(CheckpointBytesOnDisk(run_dir));
  if (needed <= static_cast<double>(free)) return OkStatus();
  return EnvironmentError(absl::StrCat(
      "not enough disk space in ", run_dir, ": ", FormatBytes(static_cast<double>(free)),
      " are free, and the checkpoints of ", job.regions_size(), " regions will take ",
      FormatBytes(needed), " (", FormatBytes(checkpoint_bytes), " each, ", at_once,
      " of a region at once); free some, choose another --run_dir, or keep fewer "
      "(--set checkpoint.keep=1)"));
}

Place TrainSetup::PlaceOf(const std::string& region) const {
  for (const auto& [name, place] : stage.regions) {
    if (name == region) return place;
  }
  return Place();
}

Place TrainSetup::OrchestratorPlace() const {
  return stage.regions.empty() ? Place() : stage.regions[0].second;
}

std::vector<FlagSpec> StoreFlags() {
  return {
      {.name = "store",
       .placeholder = "sqlite:PATH|etcd:ENDPOINTS",
       .help = "where the orchestrator keeps the job (atoll-orchestrator --help); else atoll.db in "
               "the run directory"},
      {.name = "store_ca",
       .placeholder = "FILE",
       .help = "PEM: the authority that signed etcd's certificates; else the system's"},
      {.name = "store_cert", .placeholder = "FILE", .help = "PEM: the certificate to show to etcd"},
      {.name = "store_key", .placeholder = "FILE", .help = "PEM: the key of --store_cert"},
      {.name = "standby",
       .kind = FlagKind::kSwitch,
       .placeholder = "",
       .help = "start a second orchestrator beside the first one: it takes over when that is "
               "killed. Needs --store=etcd"},
  };
}

StatusOr<OrchestratorStore> OrchestratorStoreOf(const ParsedFlags& flags) {
  OrchestratorStore store;
  for (const char* name : {"store", "store_ca", "store_cert", "store_key"}) {
    if (flags.Has(name)) store.words.push_back(absl::StrCat("--", name, "=", flags.Text(name)));
  }
  store.is_etcd = absl::StartsWith(flags.Text("store"), "etcd:");
  store.standby = flags.Switch("standby");
  if (store.standby && !store.is_etcd) {
    return UsageError("--standby needs a store that both reach: --store=etcd:ENDPOINTS");
  }
  if (store.is_etcd && flags.Text("resume") == "never") {
    return UsageError(
        "--resume=never leaves what etcd holds of the job: remove it there (docs/standby.md), or "
        "choose another prefix, --store=etcd:ENDPOINTS/PREFIX");
  }
  return store;
}

StatusOr<TrainSetup> PrepareTraining(const ParsedFlags& flags, Output* output, const Stage& stage) {
  TrainSetup setup;
  setup.stage = stage;
  ASSIGN_OR_RETURN(setup.job, LoadTrainJob(flags, stage));
  setup.workers = static_cast<int>(flags.Count("workers"));
  setup.restarts = flags.Count("restart");
  if (flags.Has("encryption_key")) {
    setup.worker_words.push_back(
        absl::StrCat("--encryption_key=", fs::absolute(flags.Text("encryption_key")).string()));
  }
  if (flags.Has("encryption_key_command")) {
    setup.worker_words.push_back(
        absl::StrCat("--encryption_key_command=", flags.Text("encryption_key_command")));
  }
  RETURN_IF_ERROR(FindPrograms(&setup));

  const std::string run_dir = flags.Has("run_dir")
                                  ? flags.Text("run_dir")
                                  : absl::StrCat("runs/", setup.job.name(), stage.run_dir_suffix);
  setup.run_dir = fs::absolute(run_dir).lexically_normal().string();
  while (setup.run_dir.size() > 1 && setup.run_dir.back() == '/') setup.run_dir.pop_back();
  RETURN_IF_ERROR(Annotate(MakeDirectories(setup.run_dir), "while making the run directory"));
  const auto lock = FileLock::Acquire(setup.run_dir + "/lock");
  if (!lock.ok()) {
    if (lock.status().code() != absl::StatusCode::kFailedPrecondition) return lock.status();
    return EnvironmentError(absl::StrCat("a job is running in ", setup.run_dir,
                                         ": look at it with `atoll status ", setup.run_dir,
                                         "`, or choose another --run_dir"));
  }
  RETURN_IF_ERROR(TakeOverState(&setup, output));
  if (setup.already_done) return setup;
  ASSIGN_OR_RETURN(const double checkpoint_bytes, CheckpointBytes(setup.job, setup.workers));
  RETURN_IF_ERROR(CheckFreeSpace(setup.run_dir, setup.job, checkpoint_bytes));
  RETURN_IF_ERROR(WriteFileAtomically(setup.run_dir + "/job.yaml", JobToYaml(setup.job)));
  // Of a former run; the new orchestrator's is waited for.
  unlink((setup.run_dir + "/orchestrator.json").c_str());
  return setup;
}

}  // namespace atl
