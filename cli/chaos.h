// `atoll chaos JOB.yaml`: the job in a lab, with faults done to its processes and links, and what
// must hold afterwards.
#pragma once

#include "cli/verb.h"

namespace atl {

Verb ChaosVerb();

}  // namespace atl
