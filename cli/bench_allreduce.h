// `atoll bench allreduce`: how fast the all-reduce between regions is over emulated or loopback
// links, beside the bound that no all-reduce beats.
#pragma once

#include "cli/verb.h"

namespace atl {

Verb BenchAllReduceVerb();

}  // namespace atl
