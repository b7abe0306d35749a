// The battery under mpirun: one process a rank. Exits 0 if all ranks pass.
// --small_pieces: vectors go in many pieces, as those do that an int cannot count.
#include <cstdio>
#include <cstring>

#include "base/log.h"
#include "collectives/mpi/mpi_communicator.h"
#include "collectives/mpi/mpi_environment.h"
#include "tests/collectives/battery.h"

int main(int argc, char** argv) {
  atl::InitLogging(argv[0]);
  auto environment = atl::MpiEnvironment::Create();
  if (!environment.ok()) {
    std::fprintf(stderr, "%s\n", environment.status().ToString().c_str());
    return 1;
  }
  atl::MpiOptions mpi;
  atl::BatteryOptions options;
  options.sums_in_rank_order = true;
  const bool small_pieces = argc > 1 && std::strcmp(argv[1], "--small_pieces") == 0;
  if (small_pieces) {
    mpi.largest_piece = 777;
    options.sizes = {0, 1, 777, 778, 30000};
  }
  bool passed = false;
  {
    auto communicator = atl::MakeMpiCommunicator(mpi);
    if (!communicator.ok()) (*environment)->Abort(1);
    options.oversized_message = (*communicator)->size() == 2;
    const atl::BatteryResult result = atl::RunBattery(**communicator, atl::HostMemory(), options);
    for (const std::string& failure : result.failures) {
      std::fprintf(stderr, "FAILED %s\n", failure.c_str());
    }
    std::printf("rank %d of %d over %s: %ld checks, %zu failures\n", (*communicator)->rank(),
                (*communicator)->size(), atl::MpiEnvironment::LibraryVersion().c_str(),
                static_cast<long>(result.checks), result.failures.size());
    passed = result.failures.empty();
  }
  if (!passed) (*environment)->Abort(1);
  return 0;
}
