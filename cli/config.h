// `atoll config schema` and `atoll config presets`: what a job file may say.
#pragma once

#include "cli/verb.h"

namespace atl {

Verb ConfigSchemaVerb();
Verb ConfigPresetsVerb();

}  // namespace atl
