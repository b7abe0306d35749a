// `atoll check JOB.yaml`: is this job sound, and what will it take?
#pragma once

#include "cli/verb.h"

namespace atl {

Verb CheckVerb();

}  // namespace atl
