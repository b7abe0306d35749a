// States of the job and of a region, and which may follow which (docs/protocols/orchestrator.md).
#pragma once

#include <string>

namespace atl {

enum class JobState {
  kWaiting,   // for every region to be ready
  kStarting,  // the view is out; nobody has finished a round of it
  kTraining,
  kStopping,  // regions finish their round, commit a checkpoint and leave
  kFailing,   // a region blames another one, whose own words are awaited
  kDone,
  kStopped,
  kFailed,
};

enum class RegionState {
  kAbsent,   // not heard of, or gone before the first view
  kJoining,  // has said hello; loads the job
  kReady,
  kObserving,  // in the view; fetches the state and hears results
  kTraining,   // full member of the view
  kLeaving,    // the same, but it has been told to go
  kLeft,
  kFailed,
};

// The names in records and files: "waiting", "starting", ...
std::string JobStateName(JobState state);
std::string RegionStateName(RegionState state);
bool IsEnd(JobState state);
bool MayFollow(JobState from, JobState to);
bool MayFollow(RegionState from, RegionState to);

}  // namespace atl
