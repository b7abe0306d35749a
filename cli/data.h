// `atoll data tokenize` and `atoll data info`: making token files and looking at them.
#pragma once

#include "cli/verb.h"

namespace atl {

Verb DataTokenizeVerb();
Verb DataInfoVerb();

}  // namespace atl
