#include "collectives/mpi/mpi_status.h"

#include <mpi.h>

#include <atomic>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"

namespace atl {
namespace {
std::atomic<bool> failed = false;
}

Status MpiStatus(int code, const char* doing) {
  if (code == MPI_SUCCESS) return OkStatus();
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  const std::string message = absl::StrCat(doing, ": ", std::string(text, length));
  int error_class = MPI_ERR_UNKNOWN;
  MPI_Error_class(code, &error_class);
  switch (error_class) {
    case MPI_ERR_NO_MEM:
      return WithExitCode(absl::ResourceExhaustedError(message), ExitCode::kEnvironment);
    case MPI_ERR_ARG:
    case MPI_ERR_BUFFER:
    case MPI_ERR_COMM:
    case MPI_ERR_COUNT:
    case MPI_ERR_OP:
    case MPI_ERR_ROOT:
    case MPI_ERR_TRUNCATE:
    case MPI_ERR_TYPE:
      return absl::InternalError(message);
    default:
      return absl::UnavailableError(message);
  }
}

void SetMpiFailed() { failed = true; }
bool MpiHasFailed() { return failed; }

}  // namespace atl
