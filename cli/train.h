// `atoll train JOB.yaml`: a job with all its regions on this host.
#pragma once

#include <string>

#include "cli/train_setup.h"
#include "cli/verb.h"

namespace atl {

Verb TrainVerb();

// What train does once its job is prepared: run it, and tell how it went. `job_file` is what the
// user called it. Shared with rehearse.
StatusOr<ExitCode> TrainPrepared(const TrainSetup& setup, const std::string& job_file,
                                 Output& output);

}  // namespace atl
