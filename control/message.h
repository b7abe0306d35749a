// The border where bytes become control messages: size bounded, parsed, and a body required. Both
// ends and the fuzzer go through here. Thread rule: pure functions.
#pragma once

#include <cstddef>

#include "base/status.h"
#include "proto/control.pb.h"

namespace atl {

// Errors (kInvalidArgument): larger than kMaxControlMessageBytes, no message of this type, or one
// without a body.
StatusOr<pb::LeaderMessage> ParseLeaderMessage(const void* data, size_t size);
StatusOr<pb::OrchestratorMessage> ParseOrchestratorMessage(const void* data, size_t size);

}  // namespace atl
