// `atoll drain REGION DIR`: a region leaves a running job, while the others go on.
#pragma once

#include "cli/verb.h"

namespace atl {

Verb DrainVerb();

}  // namespace atl
