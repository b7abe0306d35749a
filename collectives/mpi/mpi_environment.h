// MPI's life in a process: initialised once, and ended well (MPI_Finalize) or badly (MPI_Abort).
//
// How to end: Open MPI has no fault tolerance, and MPI_Finalize waits for all ranks. So a rank that
// goes while others wait in a collective must say so, or they hang:
// 1. Everything went well on all ranks: destroy the communicators, then the environment.
// 2. Anything else (an error Status that the other ranks do not have): Abort(exit code). mpirun
//    then ends the other ranks and exits with that code.
// A process that dies, or ends without either, is noticed by mpirun, which ends the others.
//
// How to launch: one core may carry several ranks, and several regions may share a host.
//   mpirun --oversubscribe --bind-to none ...
// `--bind-to none` matters: otherwise each mpirun binds its ranks to cores from core 0 on, and
// regions side by side all get the same core. Create() asks Open MPI to yield when idle unless the
// user has set OMPI_MCA_mpi_yield_when_idle, so waiting ranks leave the core to others. As root,
// Open MPI wants OMPI_ALLOW_RUN_AS_ROOT=1 and OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1. Without mpirun a
// process is a region of one.
//
// Thread rule: create and destroy on the main thread; Abort from any.
#pragma once

#include <memory>
#include <string>

#include "base/status.h"

namespace atl {

class MpiEnvironment {
 public:
  // Initialises MPI for use by several threads, one at a time at least. Call once a process, before
  // threads start; after the end of one environment there is no second.
  static StatusOr<std::unique_ptr<MpiEnvironment>> Create();
  // MPI_Finalize, in which all ranks wait for all; after a collective that failed, Abort(1)
  // instead.
  ~MpiEnvironment();
  MpiEnvironment(const MpiEnvironment&) = delete;
  MpiEnvironment& operator=(const MpiEnvironment&) = delete;

  // Ends all processes of the region, this one too; mpirun exits with `exit_code`.
  [[noreturn]] void Abort(int exit_code);

  // Several threads may be in MPI at once, each with a communicator of its own.
  bool threads_at_once() const { return threads_at_once_; }

  // "Open MPI v4.1.4, ...": for version and environment reports.
  static std::string LibraryVersion();

 private:
  explicit MpiEnvironment(bool threads_at_once) : threads_at_once_(threads_at_once) {}

  const bool threads_at_once_;
};

}  // namespace atl
