// Saving a region's checkpoint at a round's edge, and finding those on disk.
//
// Sections: "model" (outer parameters; between rounds also the inner ones), the method's outer
// vectors ("outer/momentum"), the region's own ones ("optim/residual", with an int codec), the
// inner optimizer's moments ("optim/exp_avg", "optim/exp_avg_sq").
// Every worker brings its slices.
#include <algorithm>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "worker/region/replica.h"

namespace atl {
namespace {

// The owned ranges of one of the trainer's vectors in host memory: in place, or copied from the
// device into `staging`.
StatusOr<std::vector<checkpoint::Slice>> HostSlices(Trainer& trainer, Vector vector,
                                                    const std::vector<Range>& ranges,
                                                    bool concatenated,
                                                    std::vector<std::vector<float>>* staging) {
  std::vector<checkpoint::Slice> slices;
  int64_t offset = 0;
  for (const Range& range : ranges) {
    const int64_t position = concatenated ? offset : range.begin;
    const float* data = nullptr;
    if (trainer.on_device()) {
      staging->emplace_back(range.size());
      RETURN_IF_ERROR(trainer.Read(vector, position, staging->back()));
      data = staging->back().data();
    } else {
      data = trainer.data(vector) + position;
    }
    slices.push_back({range, data});
    offset += range.size();
  }
  return slices;
}

}  // namespace

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

Status RegionWorker::Save(const pb::SaveCheckpoint& command, pb::RegionAnswer* answer) {
  const ScopedPhase phase(&phases_, Phase::kCheckpoint);
  Doing(absl::StrCat("saving the checkpoint of round ", command.round()));
  const checkpoint::SectionClass inner_class = replica_->method->inner_state_replicated()
                                                   ? checkpoint::SectionClass::kReplicated
                                                   : checkpoint::SectionClass::kRegional;
  checkpoint::SaveOptions options;
  options.directory = CheckpointDirectory(options_.region);
  options.keep = static_cast<int>(job_.checkpoint().keep());
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

  std::vector<std::vector<float>> staging;
  const auto add = [&](const std::string& prefix, checkpoint::SectionClass section_class,
                       std::vector<checkpoint::Slice> slices) {
    options.sections.push_back({prefix, section_class, std::move(slices)});
  };
  const std::vector<Range>& owned = replica_->inner->owned();
  ASSIGN_OR_RETURN(auto parameters,
                   HostSlices(*trainer_, Vector::kParameters, owned, false, &staging));
  add("model", checkpoint::SectionClass::kReplicated, std::move(parameters));
  for (const LaneVector& vector : replica_->method->OuterVectors()) {
    add(vector.section, checkpoint::SectionClass::kReplicated, SlicesOf(vector));
  }
  for (const LaneVector& vector : replica_->method->RegionalVectors()) {
    add(vector.section, checkpoint::SectionClass::kRegional, SlicesOf(vector));
  }
  ASSIGN_OR_RETURN(auto exp_avg, HostSlices(*trainer_, Vector::kExpAvg, owned, true, &staging));
  add("optim/exp_avg", inner_class, std::move(exp_avg));
  ASSIGN_OR_RETURN(auto exp_avg_sq,
                   HostSlices(*trainer_, Vector::kExpAvgSq, owned, true, &staging));
  add("optim/exp_avg_sq", inner_class, std::move(exp_avg_sq));

  ASSIGN_OR_RETURN(const checkpoint::SaveResult saved, checkpoint::Save(options, *control_));
  answer->set_path(saved.path);
  answer->set_bytes(saved.bytes);
  LOG(INFO) << "saved " << saved.path << ", " << saved.bytes << " bytes";
  return OkStatus();
}

void RegionWorker::ListCheckpoints(pb::RegionAnswer* answer) {
  namespace fs = std::filesystem;
  std::vector<std::string> ignored;
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
    for (const checkpoint::Found& found : checkpoint::List(directory, &ignored)) add(found);
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
    auto opened = checkpoint::Checkpoint::Open(job_.resume());
    if (opened.ok()) {
      add({job_.resume(), (*opened)->description()});
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
}

}  // namespace atl
