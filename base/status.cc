#include "base/status.h"

#include <cerrno>
#include <cstring>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "base/exit_code.h"

namespace atl {

Status Annotate(const Status& status, const std::string& context) {
  if (status.ok()) return status;
  Status annotated(status.code(), absl::StrCat(context, ": ", status.message()));
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    annotated.SetPayload(url, payload);
  });
  return annotated;
}

Status ErrnoError(int error_number, const std::string& what) {
  const std::string message = absl::StrCat(what, ": ", std::strerror(error_number));
  switch (error_number) {
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(message);
    case EINVAL:
    case EISDIR:
      return absl::InvalidArgumentError(message);
    case EACCES:
    case EPERM:
    case EROFS:
      return WithExitCode(absl::PermissionDeniedError(message), ExitCode::kEnvironment);
    case ENOSPC:
    case EDQUOT:
    case ENOMEM:
    case EMFILE:
    case ENFILE:
      return WithExitCode(absl::ResourceExhaustedError(message), ExitCode::kEnvironment);
    case EADDRINUSE:
    case EADDRNOTAVAIL:
      return WithExitCode(absl::UnavailableError(message), ExitCode::kEnvironment);
    case ECONNREFUSED:
    case ECONNRESET:
    case EPIPE:
    case ETIMEDOUT:
    case EHOSTUNREACH:
    case ENETUNREACH:
      return absl::UnavailableError(message);
    case EIO:
      return WithExitCode(absl::DataLossError(message), ExitCode::kEnvironment);
    default:
      return absl::InternalError(message);
  }
}

}  // namespace atl
