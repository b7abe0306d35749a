// MPI's all-reduce of floats, a rank a region: bench/rivals/rivals.py starts it. An iteration takes
// as long as its slowest rank.
#define OMPI_SKIP_MPICXX
#include <mpi.h>

#include <algorithm>

#include "bench/rivals/rival.h"

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  atl::RivalRun run = atl::ReadRun(argc, argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &run.rank);
  MPI_Comm_size(MPI_COMM_WORLD, &run.size);
  std::vector<float> vector(static_cast<size_t>(run.count));
  std::vector<double> seconds;
  double cpu = 0, cpu_sum = 0;
  long wrong = 0, wrong_sum = 0;
  // The first one, which opens the connections, does not count.
  for (int i = -1; i < run.iterations; ++i) {
    atl::FillVector(run, &vector);
    MPI_Barrier(MPI_COMM_WORLD);
    if (i >= 0 && run.idle_seconds > 0) {
      atl::Clock::Real()->SleepFor(absl::Seconds(run.idle_seconds));
    }
    const double cpu_before = atl::CpuSeconds(), begin = MPI_Wtime();
    MPI_Allreduce(MPI_IN_PLACE, vector.data(), static_cast<int>(run.count), MPI_FLOAT, MPI_SUM,
                  MPI_COMM_WORLD);
    double took = MPI_Wtime() - begin, slowest = 0;
    const double cpu_after = atl::CpuSeconds();
    MPI_Allreduce(&took, &slowest, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    wrong += atl::CountWrong(run, vector);
    if (i < 0) continue;
    seconds.push_back(slowest);
    cpu += cpu_after - cpu_before;
  }
  MPI_Reduce(&cpu, &cpu_sum, 1, MPI_DOUBLE, MPI_SUM, 0, MPI_COMM_WORLD);
  MPI_Reduce(&wrong, &wrong_sum, 1, MPI_LONG, MPI_SUM, 0, MPI_COMM_WORLD);
  if (run.rank == 0) atl::PrintRun(run, seconds, cpu_sum, wrong_sum);
  MPI_Finalize();
  return 0;
}
