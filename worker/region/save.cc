// Saving a region's checkpoint at a round's edge, and finding those on disk.
//
// Sections: "model" (outer parameters; between rounds also the inner ones), the method's outer
// vectors ("outer/momentum"), the region's own ones ("optim/residual", with an int codec), the
// inner optimizer's moments ("optim/exp_avg", "optim/exp_avg_sq").
// Every worker brings its slices. Training stands still while they are copied to an arena; the rest
// is done behind it (checkpoint/background_saver.h):
//   1. every rank takes an arena, and all tell one another whether they got one;
//   2. all did: copy, begin, answer `pending`; how it ended is told by TakeEndedSaves();
//   3. somebody's arenas are both being written: nobody saves, answer `skipped`;
//   4. the command says `wait`, this MPI has no communicator for a thread of its own, or somebody
//      has no memory for a copy: the saves before end first, then this one is written from where
//      the state lies, while training stands still.
#include <algorithm>
#include <cstring>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "proto/round_plan.h"
#include "worker/region/replica.h"

namespace atl {
namespace {

// What a rank says of its arena.
constexpr char kTaken[] = "taken", kFull[] = "full", kNoMemory[] = "no memory";

pb::SaveEnded EndOf(int64_t round, const StatusOr<checkpoint::SaveResult>& saved, double seconds) {
  pb::SaveEnded ended;
  ended.set_round(round);
  ended.set_seconds(seconds);
  if (saved.ok()) {
    ended.set_path(saved->path);
    ended.set_bytes(saved->bytes);
    ended.set_replicated_root(saved->replicated.root);
    for (const checkpoint::Replicated::File& file : saved->replicated.files) {
      pb::ReplicatedFile* const told = ended.add_replicated();
      told->set_name(file.name);
      told->set_chunks(file.prefixes);
    }
    LOG(INFO) << "saved " << saved->path << ", " << saved->bytes << " bytes";
  } else {
    ended.set_error(std::string(saved.status().message()));
    ended.set_exit_code(static_cast<int>(ExitCodeOf(saved.status())));
  }
  return ended;
}

}  // namespace

// A slice of this rank, where it lies now: in memory of the host, or in a vector of the trainer's
// that lies on its device.
struct RegionWorker::LiveSlice {
  Range range;
  const float* host = nullptr;
  Vector vector = Vector::kParameters;
  int64_t position = 0;  // in `vector`
};

struct RegionWorker::LiveSection {
  std::string prefix;
  checkpoint::SectionClass section_class;
  std::vector<LiveSlice> slices;
};

std::string RegionWorker::CheckpointDirectory(const std::string& region) const {
  const std::string run_dir =
      options_.run_dir.empty() ? absl::StrCat("runs/", job_.name()) : options_.run_dir;
  return absl::StrCat(run_dir, "/", region, "/checkpoints");
}

std::string RegionWorker::ModelText() const { return model_.ShortDebugString(); }

std::vector<checkpoint::TensorSpec> RegionWorker::TensorSpecs() const {
  std::vector<checkpoint::TensorSpec> specs;
  for (const TensorInfo& tensor : trainer_->tensors())
    specs.push_back({tensor.name, tensor.shape, tensor.elements});
  return specs;
}

std::vector<checkpoint::Slice> RegionWorker::SlicesOf(const LaneVector& vector) const {
  std::vector<checkpoint::Slice> slices;
  const Range own = replica_->lanes->LanesOfWorker(control_->rank(), control_->size());
  for (int64_t lane = own.begin; lane < own.end; ++lane) {
    const float* data = (*vector.by_lane)[lane - own.begin].data();
    for (size_t segment = 0; segment < replica_->lanes->segments().size(); ++segment) {
      const Range slice = replica_->lanes->Slice(static_cast<int>(segment), static_cast<int>(lane));
      slices.push_back({slice, data});
      data += slice.size();
    }
  }
  return slices;
}

std::vector<RegionWorker::LiveSlice> RegionWorker::TrainersSlices(Vector vector,
                                                                  bool concatenated) const {
  std::vector<LiveSlice> slices;
  int64_t offset = 0;
  for (const Range& range : replica_->inner->owned()) {
    LiveSlice slice{range, nullptr, vector, concatenated ? offset : range.begin};
    if (!trainer_->on_device()) slice.host = trainer_->data(vector) + slice.position;
    slices.push_back(slice);
    offset += range.size();
  }
  return slices;
}

std::vector<RegionWorker::LiveSection> RegionWorker::LiveSections() const {
  using checkpoint::SectionClass;
  const SectionClass inner_class = replica_->method->inner_state_replicated()
                                       ? SectionClass::kReplicated
                                       : SectionClass::kRegional;
  const auto lane_slices = [this](const LaneVector& vector) {
    std::vector<LiveSlice> slices;
    for (const checkpoint::Slice& slice : SlicesOf(vector)) {
      slices.push_back({slice.range, slice.data});
    }
    return slices;
  };
  std::vector<LiveSection> sections;
  sections.push_back(
      {"model", SectionClass::kReplicated, TrainersSlices(Vector::kParameters, false)});
  for (const LaneVector& vector : replica_->method->OuterVectors()) {
    sections.push_back({vector.section, SectionClass::kReplicated, lane_slices(vector)});
  }
  if (inner_class == SectionClass::kRegional &&
      job_.checkpoint().inner_state() == pb::CheckpointPolicy::DROP) {
    return sections;
  }
  for (const LaneVector& vector : replica_->method->RegionalVectors()) {
    sections.push_back({vector.section, SectionClass::kRegional, lane_slices(vector)});
  }
  sections.push_back({"optim/exp_avg", inner_class, TrainersSlices(Vector::kExpAvg, true)});
  sections.push_back({"optim/exp_avg_sq", inner_class, TrainersSlices(Vector::kExpAvgSq, true)});
  return sections;
}

checkpoint::SaveOptions RegionWorker::SaveOptionsOf(const pb::SaveCheckpoint& command) const {
  checkpoint::SaveOptions options;
  options.directory = CheckpointDirectory(options_.region);
  options.keep = static_cast<int>(job_.checkpoint().keep());
  options.keep_every = job_.checkpoint().keep_every();
  options.key = key_;
  options.tensors = TensorSpecs();
  options.description.round = command.round();
  options.description.digest = command.digest();
  options.description.next_sample = command.next_sample();
  for (const pb::SampleRange& range : command.returned()) {
    options.description.returned.push_back({range.begin(), range.end()});
  }
  options.description.inner_steps =
      view_.inner_steps_done() + (command.round() - view_.first_round() + 1) * InnerSteps(job_);
  options.description.optimizer_updates = replica_->inner->updates();
  options.description.region = options_.region;
  options.description.job = job_.name();
  options.description.model_yaml = ModelText();
  options.description.seed = job_.seed();
  return options;
}

// Fills in the sections; with an arena, their slices are copied to it, one behind the other.
Status RegionWorker::Freeze(const std::vector<LiveSection>& sections, float* arena,
                            checkpoint::SaveOptions* options) {
  for (const LiveSection& section : sections) {
    checkpoint::Section& frozen = options->sections.emplace_back();
    frozen.prefix = section.prefix;
    frozen.section_class = section.section_class;
    for (const LiveSlice& slice : section.slices) {
      const float* data = slice.host;
      if (arena != nullptr) {
        const int64_t size = slice.range.size();
        if (slice.host != nullptr) {
          std::memcpy(arena, slice.host, size * sizeof(float));
        } else {
          RETURN_IF_ERROR(trainer_->Read(slice.vector, slice.position, {arena, size_t(size)}));
        }
        data = arena;
        arena += size;
      }
      frozen.slices.push_back({slice.range, data});
    }
  }
  return OkStatus();
}

// In the first round, behind its steps.
void RegionWorker::PrepareSaves() {
  const bool comes = job_.checkpoint().every() > 0 && options_.saves != nullptr &&
                     WritesCheckpoints(view_, job_, options_.region);
  if (saves_prepared_ || !comes) return;
  saves_prepared_ = true;
  saver_->Prepare(ElementsOf(LiveSections()));
}

int64_t RegionWorker::ElementsOf(const std::vector<LiveSection>& sections) {
  int64_t elements = 0;
  for (const LiveSection& section : sections) {
    for (const LiveSlice& slice : section.slices) elements += slice.range.size();
  }
  return elements;
}

// Takes an arena on every rank, or on none. Null: `*why` says what is in the way.
StatusOr<float*> RegionWorker::TakeArena(int64_t elements, std::string* why) {
  const StatusOr<float*> taken = saver_->Take(elements);
  const std::string mine = !taken.ok() ? kNoMemory : *taken == nullptr ? kFull : kTaken;
  LOG_IF(WARNING, !taken.ok()) << taken.status().message();
  auto all = control_->size() == 1 ? StatusOr<std::vector<std::string>>({mine})
                                   : control_->AllGatherBytes(mine);
  *why = "";
  if (all.ok()) {
    for (const std::string& one : *all) {
      if (one == kNoMemory || (one == kFull && why->empty())) *why = one;
    }
    if (why->empty()) return *taken;
  }
  if (mine == kTaken) saver_->GiveBack();
  RETURN_IF_ERROR(all.status());
  return nullptr;
}

Status RegionWorker::Save(const pb::SaveCheckpoint& command, pb::RegionAnswer* answer) {
  const ScopedPhase phase(&phases_, Phase::kCheckpoint);
  Doing(absl::StrCat("copying the state for the checkpoint of round ", command.round()));
  const std::vector<LiveSection> sections = LiveSections();
  bool wait = command.wait() || options_.saves == nullptr;
  float* arena = nullptr;
  if (wait) saver_->Wait();
  if (!wait || trainer_->on_device()) {
    std::string why;
    ASSIGN_OR_RETURN(arena, TakeArena(ElementsOf(sections), &why));
    if (why == kFull) {
      answer->set_skipped(true);
      return OkStatus();
    }
    if (why == kNoMemory) {
      wait = true;
      saver_->Wait();
    }
  }
  checkpoint::SaveOptions options = SaveOptionsOf(command);
  if (arena == nullptr && trainer_->on_device()) {
    options.ready = EnvironmentError("there is no memory to copy the state to from the device");
  }
  // A rank that fails now still takes part, so that all ranks hear of it.
  if (options.ready.ok()) options.ready = Freeze(sections, arena, &options);
  if (!options.ready.ok()) options.sections.clear();
  if (!wait) {
    saver_->Begin(std::move(options),
                  [this, round = command.round(), view = view_](const auto& saved, double seconds) {
                    pb::SaveEnded ended = EndOf(round, saved, seconds);
                    if (control_->rank() > 0) return;
                    PushIfDue(view, ended);
                    MutexLock lock(&mutex_);
                    ended_saves_.push_back(std::move(ended));
                  });
    answer->set_pending(true);
    return OkStatus();
  }
  Doing(absl::StrCat("saving the checkpoint of round ", command.round()));
  Status failure;
  saver_->Begin(std::move(options), [&](const auto& saved, double seconds) {
    pb::SaveEnded ended = EndOf(command.round(), saved, seconds);
    answer->set_path(ended.path());
    answer->set_bytes(ended.bytes());
    if (control_->rank() == 0) {
      PushIfDue(view_, ended);
      *answer->mutable_saved() = std::move(ended);
    }
    failure = saved.status();
  });
  saver_->Wait();
  // The last one: what is not there when the region ends may never get there.
  if (command.wait() && failure.ok() && pushing_ != nullptr) {
    Doing(absl::StrCat("pushing the checkpoint of round ", command.round(), " to ",
                       job_.checkpoint().push_to()));
    pushing_->Finish();
  }
  return failure;
}

void RegionWorker::PushIfDue(const pb::View& view, const pb::SaveEnded& saved) {
  if (pushing_ == nullptr || !saved.error().empty()) return;
  const auto first = std::find_if(view.members().begin(), view.members().end(), IsFull);
  if (first == view.members().end() || first->region() != options_.region) return;
  pushing_->Push(saved.round(), saved.path());
}

void RegionWorker::Mend(const pb::MendCheckpoint& order, const pb::View& view) {
  wan::Engine* const engine = engine_.load();
  const bool carries = WorkerOfLane(0, view.lanes(), control_->size()) == 0;
  if (order.replicated_root().empty()) {
    mending_.Mend(engine, view, order);
  } else if (engine == nullptr || !carries) {
    LOG(WARNING) << "the region's first worker carries no lane: " << order.path()
                 << " is neither given nor mended over the links";
  } else if (order.sources().empty()) {
    mending_.Give(engine, view, order.round(), order.path());
  } else {
    mending_.Mend(engine, view, order);
  }
}

std::vector<pb::CheckpointTended> RegionWorker::TakeTended() {
  std::vector<pb::CheckpointTended> tended = mending_.TakeTended();
  if (pushing_ == nullptr) return tended;
  for (pb::CheckpointTended& one : pushing_->TakeTended()) tended.push_back(std::move(one));
  return tended;
}

std::vector<pb::SaveEnded> RegionWorker::TakeEndedSaves() {
  MutexLock lock(&mutex_);
  return std::exchange(ended_saves_, {});
}

// A wrong key must not look like a run without checkpoints, which would begin anew; nor may one in
// the clear, that anybody could have written, be taken for the run's own.
Status RegionWorker::CheckKeys(const std::vector<checkpoint::Found>& found) const {
  for (const checkpoint::Found& each : found) {
    if (each.key_id == (key_ == nullptr ? "" : key_->id())) continue;
    if (each.key_id.empty()) {
      return UsageError(absl::StrCat(
          each.path,
          " is not encrypted, and a key was given (--encryption_key). To go on from it, "
          "name it (--resume=PATH) and give the run another directory"));
    }
    return UsageError(absl::StrCat(each.path, " is encrypted with the key ", each.key_id, ", and ",
                                   key_ == nullptr
                                       ? "no key was given (--encryption_key)"
                                       : absl::StrCat("the one given is ", key_->id())));
  }
  return OkStatus();
}

Status RegionWorker::ListCheckpoints(pb::RegionAnswer* answer) {
  namespace fs = std::filesystem;
  std::vector<std::string> ignored;
  Status keys;
  const auto add = [&](const checkpoint::Found& found) {
    pb::CheckpointOnDisk* on_disk = answer->add_checkpoints();
    on_disk->set_round(found.description.round);
    on_disk->set_digest(found.description.digest);
    on_disk->set_path(found.path);
    on_disk->set_own(found.description.region == options_.region);
    on_disk->set_next_sample(found.description.next_sample);
    for (const Range& range : found.description.returned) {
      pb::SampleRange* const returned = on_disk->add_returned();
      returned->set_begin(range.begin);
      returned->set_end(range.end);
    }
    on_disk->set_inner_steps(found.description.inner_steps);
  };
  const auto add_all = [&](const std::string& directory) {
    const std::vector<checkpoint::Found> all = checkpoint::List(directory, &ignored);
    if (keys.ok() && job_.resume() != "never") keys = CheckKeys(all);
    for (const checkpoint::Found& found : all) {
      const Status opened = key_ == nullptr
                                ? OkStatus()
                                : checkpoint::Checkpoint::Open(found.path, key_.get()).status();
      if (opened.ok()) {
        add(found);
      } else {
        ignored.push_back(std::string(opened.message()));
      }
    }
  };
  // A run directory: our own checkpoints first, then those of regions that share this disk.
  const auto add_run = [&](const std::string& run_dir) {
    add_all(absl::StrCat(run_dir, "/", options_.region, "/checkpoints"));
    std::error_code error;
    std::vector<std::string> siblings;
    for (const auto& entry : fs::directory_iterator(run_dir, error)) {
      if (entry.path().filename() != options_.region &&
          fs::is_directory(entry.path() / "checkpoints", error)) {
        siblings.push_back(entry.path().string());
      }
    }
    std::sort(siblings.begin(), siblings.end());
    for (const std::string& sibling : siblings) add_all(absl::StrCat(sibling, "/checkpoints"));
  };
  if (job_.resume() == "auto" || job_.resume() == "never") {
    add_run(fs::path(CheckpointDirectory(options_.region)).parent_path().parent_path().string());
  } else if (fs::exists(absl::StrCat(job_.resume(), "/MANIFEST.json"))) {
    auto opened = OpenToLoad(job_.resume());
    if (opened.ok()) {
      add({job_.resume(), (*opened)->description(), (*opened)->key_id()});
    } else {
      ignored.push_back(std::string(opened.status().message()));
    }
  } else if (fs::is_directory(job_.resume())) {
    add_run(job_.resume());
    if (answer->checkpoints_size() == 0 && ignored.empty()) {
      ignored.push_back(absl::StrCat(job_.resume(),
                                     " is neither a checkpoint (no MANIFEST.json) nor a run "
                                     "directory with complete checkpoints"));
    }
  } else {
    ignored.push_back(absl::StrCat(job_.resume(), " does not exist here"));
  }
  std::string text;
  for (const std::string& line : ignored) absl::StrAppend(&text, text.empty() ? "" : "; ", line);
  if (!text.empty()) LOG(WARNING) << "checkpoints that can't be used: " << text;
  answer->set_ignored_checkpoints(text);
  return keys;
}

}  // namespace atl
