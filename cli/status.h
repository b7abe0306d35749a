// `atoll status DIR`: how does the job in this run directory stand?
#pragma once

#include "cli/verb.h"

namespace atl {

Verb StatusVerb();

}  // namespace atl
