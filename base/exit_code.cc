#include "base/exit_code.h"

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace atl {
namespace {
constexpr char kPayloadUrl[] = "atoll/exit_code";
}

Status WithExitCode(Status status, ExitCode code) {
  if (status.ok() || status.GetPayload(kPayloadUrl)) return status;
  status.SetPayload(kPayloadUrl, absl::Cord(absl::StrCat(static_cast<int>(code))));
  return status;
}

ExitCode ExitCodeOf(const Status& status) {
  if (auto payload = status.GetPayload(kPayloadUrl)) {
    int code = 0;
    if (absl::SimpleAtoi(std::string(*payload), &code)) return static_cast<ExitCode>(code);
  }
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return ExitCode::kDone;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kFailedPrecondition:
      return ExitCode::kUsage;
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kPermissionDenied:
      return ExitCode::kEnvironment;
    default:
      return ExitCode::kFailed;
  }
}

Status UsageError(const std::string& message) {
  return WithExitCode(absl::InvalidArgumentError(message), ExitCode::kUsage);
}

Status EnvironmentError(const std::string& message) {
  return WithExitCode(absl::FailedPreconditionError(message), ExitCode::kEnvironment);
}

}  // namespace atl
