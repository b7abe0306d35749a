// Vectors that the ranks of a host share, under mpirun. argv[1]:
// shared: all see them, and no file stays open.
// limited: rank 1 may not make so large a file; all ranks take ordinary memory, and sums are right.
// released: allocated and given back many times, by each rank at its own time; nothing stays
//   mapped.
// Exits 0 if all ranks find it so.
#include <dirent.h>
#include <sys/resource.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "base/log.h"
#include "collectives/mpi/mpi_communicator.h"
#include "collectives/mpi/mpi_environment.h"

namespace {

constexpr int64_t kCount = 1 << 20;

int OpenFiles() {
  int count = 0;
  DIR* const directory = opendir("/proc/self/fd");
  CHECK(directory != nullptr);
  while (readdir(directory) != nullptr) ++count;
  closedir(directory);
  return count;
}

int MappedSegments() {
  std::ifstream maps("/proc/self/maps");
  int count = 0;
  for (std::string line; std::getline(maps, line);) {
    count += line.find("memfd:atoll-region") != std::string::npos;
  }
  return count;
}

atl::Status Expect(bool good, const char* what) {
  return good ? atl::OkStatus() : absl::InternalError(what);
}

atl::Status SumIsRight(atl::Communicator& region, const atl::Buffer& buffer) {
  for (int64_t i = 0; i < buffer.count(); ++i) {
    buffer.data()[i] = static_cast<float>((i % 1000) * (region.rank() + 1));
  }
  RETURN_IF_ERROR(region.AllReduce(buffer.data(), buffer.count()));
  const int ranks = region.size();
  for (int64_t i = 0; i < buffer.count(); ++i) {
    const float sum = static_cast<float>((i % 1000) * (ranks * (ranks + 1) / 2));
    if (buffer.data()[i] != sum) return absl::InternalError("a wrong sum");
  }
  return atl::OkStatus();
}

atl::Status Run(atl::Communicator& region, const std::string& way) {
  const int files = OpenFiles(), segments = MappedSegments();
  if (way == "limited" && region.rank() == 1) {
    const rlimit small = {kCount, RLIM_INFINITY};
    RETURN_IF_ERROR(Expect(setrlimit(RLIMIT_FSIZE, &small) == 0, "cannot set a limit"));
  }
  for (int repetition = 0; repetition < (way == "released" ? 40 : 1); ++repetition) {
    ASSIGN_OR_RETURN(const atl::Buffer buffer, region.Allocate(kCount));
    RETURN_IF_ERROR(Expect(buffer.shared() == (way != "limited"), "shared otherwise than thought"));
    RETURN_IF_ERROR(Expect(OpenFiles() == files, "files stay open"));
    const int mapped = way == "limited" ? 0 : region.size();
    RETURN_IF_ERROR(Expect(MappedSegments() == segments + mapped, "other segments than thought"));
    RETURN_IF_ERROR(SumIsRight(region, buffer));
  }
  return Expect(MappedSegments() == segments && OpenFiles() == files, "something stays");
}

}  // namespace

int main(int argc, char** argv) {
  atl::InitLogging(argv[0]);
  auto environment = atl::MpiEnvironment::Create();
  if (!environment.ok() || argc != 2) return 1;
  atl::Status status;
  {
    auto region = atl::MakeMpiCommunicator();
    status = region.status();
    if (status.ok()) status = Run(**region, argv[1]);
  }
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  (*environment)->Abort(1);
}
