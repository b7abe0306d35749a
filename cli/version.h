// `atoll version`: version and build facts.
#pragma once

#include "cli/verb.h"

namespace atl {

Verb VersionVerb();

}  // namespace atl
