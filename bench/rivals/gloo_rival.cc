// gloo's all-reduces of floats, a rank a region: bench/rivals/rivals.py starts a process for each.
// Ranks meet in a directory that all regions of a host see (--store). An iteration takes as long as
// its slowest rank.
#include <gloo/allreduce_halving_doubling.h>
#include <gloo/allreduce_ring.h>
#include <gloo/allreduce_ring_chunked.h>
#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/file_store.h>
#include <gloo/transport/tcp/device.h>

#include <algorithm>
#include <memory>

#include "bench/rivals/rival.h"

namespace {

std::unique_ptr<gloo::Algorithm> MakeAlgorithm(const std::string& name,
                                               const std::shared_ptr<gloo::Context>& context,
                                               std::vector<float>* vector) {
  const std::vector<float*> pointers = {vector->data()};
  const int count = static_cast<int>(vector->size());
  if (name == "ring_chunked") {
    return std::make_unique<gloo::AllreduceRingChunked<float>>(context, pointers, count);
  }
  if (name == "halving_doubling") {
    return std::make_unique<gloo::AllreduceHalvingDoubling<float>>(context, pointers, count);
  }
  std::fprintf(stderr, "--algorithm is ring_chunked or halving_doubling\n");
  std::exit(2);
}

// A number of every rank made one; also a barrier.
class Agreement {
 public:
  Agreement(const std::shared_ptr<gloo::Context>& context,
            const gloo::ReductionFunction<double>* function)
      : ring_(context, {&value_}, 1, function) {}
  double operator()(double value) {
    value_ = value;
    ring_.run();
    return value_;
  }

 private:
  double value_ = 0;
  gloo::AllreduceRing<double> ring_;
};

}  // namespace

int main(int argc, char** argv) {
  atl::RivalRun run = atl::ReadRun(argc, argv);
  if (!absl::SimpleAtoi(atl::Argument(argc, argv, "rank", ""), &run.rank) ||
      !absl::SimpleAtoi(atl::Argument(argc, argv, "size", ""), &run.size)) {
    std::fprintf(stderr, "--rank and --size are missing\n");
    return 2;
  }
  gloo::transport::tcp::attr attributes;
  attributes.hostname = atl::Argument(argc, argv, "address", "127.0.0.1");
  auto device = gloo::transport::tcp::CreateDevice(attributes);
  gloo::rendezvous::FileStore store(atl::Argument(argc, argv, "store", ""));
  auto context = std::make_shared<gloo::rendezvous::Context>(run.rank, run.size);
  context->setTimeout(std::chrono::minutes(10));
  context->connectFullMesh(store, device);

  std::vector<float> vector(static_cast<size_t>(run.count));
  Agreement slowest(context, gloo::ReductionFunction<double>::max);
  Agreement sum(context, gloo::ReductionFunction<double>::sum);
  const auto algorithm =
      MakeAlgorithm(atl::Argument(argc, argv, "algorithm", "ring_chunked"), context, &vector);
  const atl::Clock* clock = atl::Clock::Real();
  std::vector<double> seconds;
  double cpu = 0;
  int64_t wrong = 0;
  // The first one does not count.
  for (int i = -1; i < run.iterations; ++i) {
    atl::FillVector(run, &vector);
    sum(0);
    if (i >= 0 && run.idle_seconds > 0) {
      atl::Clock::Real()->SleepFor(absl::Seconds(run.idle_seconds));
    }
    const double cpu_before = atl::CpuSeconds(), begin = clock->MonotonicSeconds();
    algorithm->run();
    const double took = clock->MonotonicSeconds() - begin;
    const double cpu_after = atl::CpuSeconds();
    const double longest = slowest(took);
    wrong += atl::CountWrong(run, vector);
    if (i < 0) continue;
    seconds.push_back(longest);
    cpu += cpu_after - cpu_before;
  }
  const double cpu_sum = sum(cpu);
  const auto wrong_sum = static_cast<int64_t>(sum(static_cast<double>(wrong)));
  if (run.rank == 0) atl::PrintRun(run, seconds, cpu_sum, wrong_sum);
  std::fflush(stdout);
  sum(0);  // nobody leaves while others still read
  return 0;
}
