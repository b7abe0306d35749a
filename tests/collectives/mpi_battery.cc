// The battery under mpirun: one process a rank. Exits 0 if all ranks pass.
// --small_pieces: vectors go in many pieces, as those do that an int cannot count.
// --messages: as if the ranks could not share memory.
// --hosts=N: as if the ranks were spread over N hosts.
// --slots: as if they could not reach each other's memory.
// --steps: every vector, however short, goes through slots in many steps, past the caches.
// --reach: every vector, however short, is read where it lies, in many blocks.
// --shared: every vector, however short, is allocated by the communicator and summed where it lies,
//   past the caches.
// --allocated: vectors are allocated by the communicator, otherwise as in use.
// The battery checks sums to the bit, so all of these give the same bits.
#include <cstdio>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
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
  bool shared = false;
  atl::BatteryOptions options;
  options.sums_in_rank_order = true;
  for (int i = 1; i < argc; ++i) {
    absl::string_view flag = argv[i];
    if (flag == "--small_pieces") {
      mpi.largest_piece = 777;
      options.sizes = {0, 1, 777, 778, 30000};
    } else if (flag == "--messages") {
      mpi.share_memory = false;
    } else if (flag == "--slots") {
      mpi.reach_memory = false;
    } else if (flag == "--reach") {
      mpi.short_bytes = 0;
      mpi.block_bytes = 1024;
      mpi.always_reach = true;
      options.sizes = {0, 1, 255, 256, 1000, 16384, 100003};
    } else if (flag == "--shared") {
      shared = true;
      mpi.least_shared_bytes = 0;
      mpi.past_caches_bytes = 0;
      options.allocate = true;
    } else if (flag == "--allocated") {
      options.allocate = true;
    } else if (flag == "--steps") {
      mpi.reach_memory = false;
      mpi.short_bytes = 0;
      mpi.chunk_bytes = 1024;
      mpi.past_caches_bytes = 0;
      options.sizes = {0, 1, 255, 256, 1000, 16384, 100003};
    } else if (!absl::ConsumePrefix(&flag, "--hosts=") ||
               !absl::SimpleAtoi(flag, &mpi.pretended_hosts)) {
      std::fprintf(stderr, "what is %s?\n", argv[i]);
      return 2;
    }
  }
  bool passed = false;
  {
    auto communicator = atl::MakeMpiCommunicator(mpi);
    if (!communicator.ok()) (*environment)->Abort(1);
    if (shared && !(*communicator)->Allocate(1).value().shared()) (*environment)->Abort(1);
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
