#include "orchestrator/core/states.h"

namespace atl {

std::string JobStateName(JobState state) {
  switch (state) {
    case JobState::kWaiting:
      return "waiting";
    case JobState::kStarting:
      return "starting";
    case JobState::kTraining:
      return "training";
    case JobState::kStopping:
      return "stopping";
    case JobState::kFailing:
      return "failing";
    case JobState::kDone:
      return "done";
    case JobState::kStopped:
      return "stopped";
    case JobState::kFailed:
      return "failed";
  }
  return "";
}

std::string RegionStateName(RegionState state) {
  switch (state) {
    case RegionState::kAbsent:
      return "absent";
    case RegionState::kJoining:
      return "joining";
    case RegionState::kReady:
      return "ready";
    case RegionState::kObserving:
      return "observing";
    case RegionState::kTraining:
      return "training";
    case RegionState::kLeaving:
      return "leaving";
    case RegionState::kLeft:
      return "left";
    case RegionState::kFailed:
      return "failed";
  }
  return "";
}

bool IsEnd(JobState state) {
  return state == JobState::kDone || state == JobState::kStopped || state == JobState::kFailed;
}

bool MayFollow(JobState from, JobState to) {
  switch (from) {
    case JobState::kWaiting:
      // kDone: the checkpoint is already of the last round.
      return to == JobState::kStarting || IsEnd(to);
    case JobState::kStarting:
      // To itself: a checkpoint can't be loaded and another view takes the one before.
      return true;
    case JobState::kTraining:
      // To kWaiting: no member is left; a checkpoint must do.
      return to == JobState::kStopping || to == JobState::kFailing || to == JobState::kWaiting ||
             IsEnd(to);
    case JobState::kStopping:
      return to == JobState::kFailing || IsEnd(to);
    case JobState::kFailing:
      return to == JobState::kFailed;
    case JobState::kDone:
    case JobState::kStopped:
    case JobState::kFailed:
      return false;
  }
  return false;
}

bool MayFollow(RegionState from, RegionState to) {
  switch (from) {
    case RegionState::kAbsent:
      return to == RegionState::kJoining;
    case RegionState::kJoining:
      // To itself: another attempt of the region takes over.
      return to != RegionState::kTraining && to != RegionState::kObserving &&
             to != RegionState::kLeaving;
    case RegionState::kReady:
      return to != RegionState::kLeaving;
    case RegionState::kObserving:
      return to != RegionState::kReady && to != RegionState::kObserving;
    case RegionState::kTraining:
      return to != RegionState::kReady && to != RegionState::kObserving &&
             to != RegionState::kTraining;
    case RegionState::kLeaving:
      return to != RegionState::kReady && to != RegionState::kObserving &&
             to != RegionState::kTraining && to != RegionState::kLeaving;
    case RegionState::kLeft:
    case RegionState::kFailed:
      return to == RegionState::kJoining;  // another attempt, where views may change
  }
  return false;
}

}  // namespace atl
