// Exit codes that schedulers and scripts may rely on, and how an error carries one.
#pragma once

#include "base/status.h"

namespace atl {

enum class ExitCode : int {
  kDone = 0,
  kFailed = 1,              // a person is needed
  kUsage = 2,               // usage or configuration
  kNoPlan = 3,              // no plan satisfies the constraints
  kEnvironment = 4,         // port, version, disk
  kOrchestratorLost = 5,    // for too long
  kStoppedCleanly = 75,     // checkpoint committed, start me again (Slurm RequeueExit, EX_TEMPFAIL)
  kStoppedUncommitted = 76  // could not commit in time: resume from the checkpoint before
};

// The same error, bound to an exit code. The innermost binding wins: a second call keeps the first
// code.
Status WithExitCode(Status status, ExitCode code);

// The code that the process should end with: the bound one, else by kind: kInvalidArgument,
// kNotFound, kOutOfRange and kFailedPrecondition -> kUsage; kResourceExhausted and
// kPermissionDenied -> kEnvironment; OK -> kDone; others -> kFailed.
ExitCode ExitCodeOf(const Status& status);

// Short constructors for the errors users cause or can mend.
Status UsageError(const std::string& message);
Status EnvironmentError(const std::string& message);

}  // namespace atl
