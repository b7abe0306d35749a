// Where a job begins or goes on: from its seed, or from a checkpoint (checkpoints.h).
//
// Where views change, the newest state that any region has will do: the others join later and fetch
// it. A checkpoint of a round that was committed with another digest does not count: whoever wrote
// it was left out before. One from which the job was started kMostFruitlessStarts times without a
// round committed since is left for an older one: what it holds may be what kills the job.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "orchestrator/core/core.h"

namespace atl {
namespace {

constexpr int kUsage = static_cast<int>(ExitCode::kUsage);
constexpr int64_t kMostFruitlessStarts = 3;

}  // namespace

bool Core::IsContradicted(const pb::CheckpointOnDisk& checkpoint) const {
  const auto known = digests_.find(checkpoint.round());
  return elastic_ && known != digests_.end() && known->second != checkpoint.digest();
}

bool Core::ChooseResume() {
  resume_.reset();
  std::map<std::string, RegionCheckpoints> listed;
  for (const std::string& name : ReadyRegions()) {
    const RegionEntry& entry = regions_.at(name);
    RegionCheckpoints& region = listed[name];
    for (const pb::CheckpointOnDisk& checkpoint : entry.ready->checkpoints()) {
      if (!IsContradicted(checkpoint)) region.listed.push_back(checkpoint);
    }
    region.unusable = entry.unusable_checkpoints;
  }
  const std::string& resume = options_.job.resume();
  if (resume == "never" && job_.first_view == 0) {
    if (AnyCheckpoint(listed)) {
      Event(
          "checkpoints_ignored", "", -1,
          "there are checkpoints, but the job starts from its seed, because it says resume: never");
    }
    return true;
  }
  resume_ = elastic_ ? ChooseAnyResumePoint(listed, digests_) : ChooseResumePoint(listed);
  if (!resume_) return HandleNoResumePoint(listed);
  LeaveCrashLoop(std::move(listed));
  Event("resume", "", resume_->round,
        absl::StrCat("the job goes on from round ", resume_->round,
                     elastic_ ? ", the newest checkpoint that a region has"
                              : ", the newest checkpoint that every region has"),
        {{"digest", resume_->digest}, {"next_sample", resume_->next_sample}});
  for (const auto& [name, checkpoint] : resume_->checkpoints) {
    if (checkpoint.own()) continue;
    Event("resume", name, resume_->round,
          absl::StrCat("region ", name, " loads ", checkpoint.path(),
                       ", which another region wrote: its inner optimizer starts afresh"),
          {{"path", checkpoint.path()}});
  }
  if (resume_->round < options_.job.train().rounds()) return true;
  NoteResume();
  actions_.records.push_back(SupersedeRecord{resume_->round, resume_->digest});
  End(JobState::kDone,
      absl::StrCat("nothing to do: the checkpoint of round ", resume_->round,
                   " is there and train.rounds is ", options_.job.train().rounds()),
      0);
  return false;
}

// The newest checkpoint from which the job has not been started in vain too often. What that costs,
// the rounds after it, is said; those checkpoints stay on the disk.
void Core::LeaveCrashLoop(std::map<std::string, RegionCheckpoints> listed) {
  const auto is_left = [&](int64_t round, const std::string& digest) {
    const auto starts = fruitless_.find({round, digest});
    return starts != fruitless_.end() && starts->second >= kMostFruitlessStarts;
  };
  if (!elastic_ || options_.job.resume() != "auto" || !is_left(resume_->round, resume_->digest)) {
    return;
  }
  const int64_t newest = resume_->round;
  for (auto& [name, region] : listed) {
    std::erase_if(region.listed, [&](const pb::CheckpointOnDisk& checkpoint) {
      return checkpoint.round() >= newest || is_left(checkpoint.round(), checkpoint.digest());
    });
  }
  const std::string looped =
      absl::StrCat(kMostFruitlessStarts, " starts from the checkpoint of round ", newest,
                   " ended before a round was committed");
  auto older = ChooseAnyResumePoint(listed, digests_);
  if (!older) {
    fruitless_.clear();
    return Event("crash_loop", "", newest,
                 absl::StrCat(looped, ", and there is no older one to try: it is taken again"));
  }
  Event("crash_loop", "", newest,
        absl::StrCat(looped, ": the job goes one back, to round ", older->round, "; rounds ",
                     older->round + 1, " to ", newest,
                     " are trained again (--resume=PATH takes another checkpoint)"));
  resume_ = std::move(older);
}

void Core::CountStart() {
  if (!resume_) return fruitless_.clear();
  ++fruitless_[{resume_->round, resume_->digest}];
}

bool Core::HandleNoResumePoint(const std::map<std::string, RegionCheckpoints>& listed) {
  std::string failures;
  for (const std::string& name : order_) {
    const std::string& failure = regions_.at(name).checkpoint_failure;
    if (!failure.empty()) absl::StrAppend(&failures, "; region ", name, ": ", failure);
  }
  if (options_.job.resume() != "auto") {
    Fail(absl::StrCat("cannot resume from ", options_.job.resume(),
                      ": no checkpoint there that every region can load (",
                      ExplainNoCommonCheckpoint(listed), ")", failures),
         kUsage, "", -1);
    return false;
  }
  if (!AnyCheckpoint(listed)) {
    Event("resume", "", 0, "no checkpoints: the job starts from its seed");
    return true;
  }
  Fail(absl::StrCat("no checkpoint that every region has (", ExplainNoCommonCheckpoint(listed), ")",
                    failures,
                    "; copy one of these checkpoints to the regions that lack it, or start afresh "
                    "with --resume=never"),
       kUsage, "", -1);
  return false;
}

void Core::NoteResume() {
  job_.resumed_from = resume_ ? resume_->round : 0;
  job_.resumed_digest = resume_ ? resume_->digest : "";
  job_.resumed_sample = resume_ ? resume_->next_sample : 0;
}

}  // namespace atl
