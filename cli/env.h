// `atoll env`: what surrounds this process, as atoll sees it.
#pragma once

#include "cli/verb.h"

namespace atl {

Verb EnvironmentVerb();

}  // namespace atl
