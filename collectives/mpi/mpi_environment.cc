#include "collectives/mpi/mpi_environment.h"

#include <mpi.h>

#include <cstdio>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "base/env.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "collectives/mpi/mpi_status.h"

namespace atl {

StatusOr<std::unique_ptr<MpiEnvironment>> MpiEnvironment::Create() {
  int initialized = 0;
  RETURN_IF_ERROR(MpiStatus(MPI_Initialized(&initialized), "asking whether MPI is initialised"));
  if (initialized) return absl::FailedPreconditionError("MPI is initialised already");
  SetEnv("OMPI_MCA_mpi_yield_when_idle", "1", /*overwrite=*/false);
  int provided = MPI_THREAD_SINGLE;
  RETURN_IF_ERROR(MpiStatus(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided),
                            "initialising MPI"));
  if (provided < MPI_THREAD_SERIALIZED) {
    MPI_Finalize();
    return EnvironmentError(
        absl::StrCat("this MPI (", LibraryVersion(),
                     ") lets only the main thread communicate; use one built with thread support"));
  }
  return std::unique_ptr<MpiEnvironment>(new MpiEnvironment(provided >= MPI_THREAD_MULTIPLE));
}

MpiEnvironment::~MpiEnvironment() {
  if (MpiHasFailed()) {
    LOG(ERROR) << "a collective has failed: ending the region's processes instead of waiting";
    Abort(static_cast<int>(ExitCode::kFailed));
  }
  MPI_Finalize();
}

void MpiEnvironment::Abort(int exit_code) {
  google::FlushLogFiles(google::INFO);
  std::fflush(nullptr);
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);  // MPI_Abort does not come back, but its declaration does not say so
}

std::string MpiEnvironment::LibraryVersion() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = {};
  int length = 0;
  MPI_Get_library_version(text, &length);
  const std::string version(text, length);
  return version.substr(0, version.find_first_of("\n\0", 0, 2));
}

}  // namespace atl
