// A region of two in which rank 1 ends in the way that argv[1] names while rank 0 waits for it:
// error, abort, exit, kill or well; in_sum: killed while rank 0 waits in shared memory;
// in_shared_sum: the same, their vectors in memory that both see; in_allocate: while it waits
// for rank 1 to allocate.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/exit_code.h"
#include "base/log.h"
#include "collectives/mpi/mpi_communicator.h"
#include "collectives/mpi/mpi_environment.h"

namespace {

// As a worker's main function would.
atl::Status Work(atl::Communicator& communicator, const std::string& ending) {
  atl::Buffer shared;
  if (ending == "in_shared_sum") {
    ASSIGN_OR_RETURN(shared, communicator.Allocate(1 << 20));
    if (!shared.shared()) return absl::InternalError("the vector is not shared");
  }
  RETURN_IF_ERROR(communicator.Barrier());
  if (communicator.rank() == 1) {
    if (ending == "error") return atl::EnvironmentError("the disk is full");
    if (ending == "exit") std::_Exit(3);
    if (ending == "kill" || ending.starts_with("in_")) raise(SIGKILL);
  }
  if (ending == "in_shared_sum") return communicator.AllReduce(shared.data(), shared.count());
  if (ending == "in_allocate") return communicator.Allocate(1 << 20).status();
  if (ending == "in_sum") {
    std::vector<float> vector(1 << 20);
    return communicator.AllReduce(vector.data(), static_cast<int64_t>(vector.size()));
  }
  std::string message = "from rank 1";
  return communicator.Broadcast(&message, 1);
}

}  // namespace

int main(int argc, char** argv) {
  atl::InitLogging(argv[0]);
  auto environment = atl::MpiEnvironment::Create();
  if (!environment.ok() || argc != 2) return 1;
  auto communicator = atl::MakeMpiCommunicator();
  if (!communicator.ok()) (*environment)->Abort(1);
  if (std::string(argv[1]) == "abort" && (*communicator)->rank() == 1) (*environment)->Abort(76);
  const atl::Status status = Work(**communicator, argv[1]);
  if (!status.ok()) {
    std::fprintf(stderr, "%s\n", status.ToString().c_str());
    (*environment)->Abort(static_cast<int>(atl::ExitCodeOf(status)));
  }
  return 0;
}
