// `atoll plan links`: what an all-reduce between the regions of a lab file would do, and why.
#pragma once

#include "cli/verb.h"

namespace atl {

Verb PlanLinksVerb();

}  // namespace atl
