// `atoll train JOB.yaml`: a job with all its regions on this host.
#pragma once

#include "cli/verb.h"

namespace atl {

Verb TrainVerb();

}  // namespace atl
