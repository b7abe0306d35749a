// A step's records as bytes and back (proto/record.proto), for logs that lie outside of this host.
// Pure functions; the bytes are checked as far as the types reach: a state out of range, a record
// of no known kind, or another version is an error.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/status.h"
#include "orchestrator/core/records.h"

namespace atl {

std::string EncodeStep(const std::vector<Record>& records);
StatusOr<std::vector<Record>> DecodeStep(absl::string_view bytes);

}  // namespace atl
