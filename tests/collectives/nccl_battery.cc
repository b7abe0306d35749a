// The battery on GPUs: a thread per GPU of this host, in one process, with the in-process group as
// control communicator. Exits 77 (skipped) where there is no GPU, and says why.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <thread>

#include "base/log.h"
#include "collectives/inprocess/inprocess.h"
#include "collectives/nccl/loader.h"
#include "tests/collectives/battery.h"

namespace {

constexpr int kSkipped = 77;

class DeviceMemory : public atl::VectorMemory {
 public:
  explicit DeviceMemory(int device) { CHECK_EQ(cudaSetDevice(device), cudaSuccess); }
  float* Allocate(int64_t count) override {
    void* data = nullptr;
    CHECK_EQ(cudaMalloc(&data, count * sizeof(float)), cudaSuccess);
    return static_cast<float*>(data);
  }
  void Free(float* data) override { CHECK_EQ(cudaFree(data), cudaSuccess); }
  void Write(float* to, const float* host, int64_t count) override {
    CHECK_EQ(cudaMemcpy(to, host, count * sizeof(float), cudaMemcpyHostToDevice), cudaSuccess);
  }
  void Read(const float* from, float* host, int64_t count) override {
    CHECK_EQ(cudaMemcpy(host, from, count * sizeof(float), cudaMemcpyDeviceToHost), cudaSuccess);
  }
};

atl::BatteryResult OnDevice(atl::Communicator& control) {
  auto communicator = atl::MakeNcclCommunicator(control, control.rank());
  if (!communicator.ok()) return {.failures = {communicator.status().ToString()}};
  DeviceMemory memory(control.rank());
  return atl::RunBattery(**communicator, &memory, {});
}

}  // namespace

int main(int, char** argv) {
  atl::InitLogging(argv[0]);
  std::string why;
  if (!atl::NcclUsable(&why)) {
    std::printf("no GPU: %s\n", why.c_str());
    return kSkipped;
  }
  int devices = 0;
  CHECK_EQ(cudaGetDeviceCount(&devices), cudaSuccess);
  auto group = atl::MakeInProcessGroup(devices);
  std::vector<atl::BatteryResult> results(devices);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < devices; ++rank) {
    threads.emplace_back([&, rank] {
      results[rank] = OnDevice(*group[rank]);
      group[rank].reset();  // a rank that failed early fails the others
    });
  }
  for (auto& thread : threads) thread.join();
  size_t failures = 0;
  for (int rank = 0; rank < devices; ++rank) {
    for (const std::string& failure : results[rank].failures) {
      std::fprintf(stderr, "FAILED %s\n", failure.c_str());
    }
    failures += results[rank].failures.size();
    std::printf("GPU %d: %ld checks, %zu failures\n", rank, static_cast<long>(results[rank].checks),
                results[rank].failures.size());
  }
  return failures == 0 ? 0 : 1;
}
