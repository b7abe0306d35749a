// Connecting:
// 1. Every rank takes its device; all learn whether all could, and that no two have the same GPU.
// 2. Rank 0's unique id goes to all over the control communicator.
// 3. All connect. The communicator is non-blocking: each call may answer "in progress" and is
//    polled, so that an error is seen instead of waited through.
// A data method:
// 1. The own stream waits for what the legacy default stream holds, where the vectors are made.
// 2. NCCL's operation goes onto the own stream.
// 3. The host polls stream and communicator until the one is done or the other has failed.
// After a failure the communicator is aborted, which also releases kernels that wait for a peer.
//
// Even ranges are NCCL's own reduce-scatter and all-gather, in place; uneven ones a group of
// reduces or broadcasts, one a range, which NCCL runs together.
//
// Thread rule: as communicator.h; every method makes the device current in the calling thread.
#include "collectives/nccl/nccl_communicator.h"

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "collectives/agreement.h"
#include "collectives/backoff.h"
#include "collectives/range_rules.h"

namespace atl {
namespace {

Status CudaStatus(cudaError_t code, const char* doing) {
  if (code == cudaSuccess) return OkStatus();
  const std::string message = absl::StrCat(doing, ": ", cudaGetErrorString(code));
  if (code == cudaErrorMemoryAllocation) {
    return WithExitCode(absl::ResourceExhaustedError(message), ExitCode::kEnvironment);
  }
  return absl::UnavailableError(message);
}

Status NcclStatus(ncclResult_t code, ncclComm_t comm, const char* doing) {
  if (code == ncclSuccess) return OkStatus();
  const char* detail = ncclGetLastError(comm);
  const std::string message =
      absl::StrCat(doing, ": ", ncclGetErrorString(code), detail != nullptr && *detail ? ": " : "",
                   detail != nullptr ? detail : "");
  if (code == ncclInvalidArgument || code == ncclInvalidUsage) return absl::InternalError(message);
  return absl::UnavailableError(message);
}

class NcclCommunicator : public Communicator {
 public:
  NcclCommunicator(Communicator& control, int device) : control_(control), device_(device) {}

  ~NcclCommunicator() override {
    cudaSetDevice(device_);
    Disconnect();
    if (ready_ != nullptr) cudaEventDestroy(ready_);
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  Status Connect(const ncclUniqueId& id) {
    RETURN_IF_ERROR(CudaStatus(cudaSetDevice(device_), "choosing the GPU"));
    RETURN_IF_ERROR(
        CudaStatus(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream"));
    RETURN_IF_ERROR(
        CudaStatus(cudaEventCreateWithFlags(&ready_, cudaEventDisableTiming), "making an event"));
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    failure_ = Settle(ncclCommInitRankConfig(&comm_, size(), id, rank(), &config), "connecting");
    return failure_;
  }

  int rank() const override { return control_.rank(); }
  int size() const override { return control_.size(); }
  std::string backend() const override { return "nccl"; }

  // Device memory, which is what the data methods take.
  StatusOr<Buffer> Allocate(int64_t count) override {
    CHECK_GE(count, 0);
    RETURN_IF_ERROR(CudaStatus(cudaSetDevice(device_), "choosing the GPU"));
    const size_t bytes = std::max<int64_t>(count, 1) * sizeof(float);
    void* memory = nullptr;
    RETURN_IF_ERROR(CudaStatus(cudaMalloc(&memory, bytes), "allocating a vector"));
    Buffer buffer(static_cast<float*>(memory), count, /*shared=*/false, [memory, device = device_] {
      cudaSetDevice(device);
      cudaFree(memory);
    });
    RETURN_IF_ERROR(CudaStatus(cudaMemset(memory, 0, bytes), "zeroing a vector"));
    return buffer;
  }

  Status AllReduce(float* data, int64_t count) override {
    CHECK_GE(count, 0);
    if (count == 0) return OkStatus();
    return Collective("all-reduce", [&] {
      return ncclAllReduce(data, data, count, ncclFloat, ncclSum, comm_, stream_);
    });
  }

  Status ReduceScatter(float* data, std::span<const Range> ranges) override {
    const Range whole = CheckedUnion(ranges, size());
    if (whole.empty()) return OkStatus();
    return Collective("reduce-scatter", [&] {
      float* own = data + ranges[rank()].begin;
      if (AllEqual(ranges)) {
        return ncclReduceScatter(data + whole.begin, own, ranges[0].size(), ncclFloat, ncclSum,
                                 comm_, stream_);
      }
      return Group(ranges, [&](int owner, Range range) {
        float* part = data + range.begin;
        return ncclReduce(part, part, range.size(), ncclFloat, ncclSum, owner, comm_, stream_);
      });
    });
  }

  Status AllGather(float* data, std::span<const Range> ranges) override {
    const Range whole = CheckedUnion(ranges, size());
    if (whole.empty()) return OkStatus();
    return Collective("all-gather", [&] {
      const float* own = data + ranges[rank()].begin;
      if (AllEqual(ranges)) {
        return ncclAllGather(own, data + whole.begin, ranges[0].size(), ncclFloat, comm_, stream_);
      }
      return Group(ranges, [&](int owner, Range range) {
        float* part = data + range.begin;
        return ncclBroadcast(part, part, range.size(), ncclFloat, owner, comm_, stream_);
      });
    });
  }

  Status Broadcast(std::string* bytes, int root) override {
    return control_.Broadcast(bytes, root);
  }
  StatusOr<std::vector<std::string>> AllGatherBytes(const std::string& bytes) override {
    return control_.AllGatherBytes(bytes);
  }
  Status Barrier() override { return control_.Barrier(); }

 private:
  static bool AllEqual(std::span<const Range> ranges) {
    for (const Range& range : ranges) {
      if (range.size() != ranges[0].size()) return false;
    }
    return true;
  }

  // One operation a range that is not empty, all in one group. NCCL reports an error inside a group
  // at its end too, and the group must be ended in any case.
  template <typename Operation>
  static ncclResult_t Group(std::span<const Range> ranges, Operation operation) {
    ncclResult_t result = ncclGroupStart();
    if (result != ncclSuccess) return result;
    for (int owner = 0; owner < static_cast<int>(ranges.size()); ++owner) {
      if (ranges[owner].empty()) continue;
      const ncclResult_t queued = operation(owner, ranges[owner]);
      if (queued != ncclSuccess && queued != ncclInProgress) result = queued;
    }
    const ncclResult_t ended = ncclGroupEnd();
    return result != ncclSuccess ? result : ended;
  }

  template <typename Operation>
  Status Collective(const char* name, Operation operation) {
    if (!failure_.ok()) return failure_;
    const Status status = [&]() -> Status {
      RETURN_IF_ERROR(CudaStatus(cudaSetDevice(device_), "choosing the GPU"));
      RETURN_IF_ERROR(CudaStatus(cudaEventRecord(ready_, cudaStreamLegacy), "marking the input"));
      RETURN_IF_ERROR(CudaStatus(cudaStreamWaitEvent(stream_, ready_, 0), "awaiting the input"));
      RETURN_IF_ERROR(Settle(operation(), "starting"));
      return WaitForStream();
    }();
    if (!status.ok()) {
      failure_ = Annotate(status, absl::StrCat("in the region's ", name, " over NCCL, rank ",
                                               rank(), " of ", size(), ", GPU ", device_));
      Disconnect();
    }
    return failure_;
  }

  // The outcome of a call of a non-blocking communicator.
  Status Settle(ncclResult_t result, const char* doing) {
    Backoff backoff(Clock::Real());
    while (result == ncclInProgress) {
      backoff.Pause();
      RETURN_IF_ERROR(NcclStatus(ncclCommGetAsyncError(comm_, &result), comm_, doing));
    }
    return NcclStatus(result, comm_, doing);
  }

  Status WaitForStream() {
    Backoff backoff(Clock::Real());
    for (;;) {
      const cudaError_t stream = cudaStreamQuery(stream_);
      if (stream != cudaErrorNotReady) return CudaStatus(stream, "waiting for the GPU");
      ncclResult_t result = ncclSuccess;
      RETURN_IF_ERROR(NcclStatus(ncclCommGetAsyncError(comm_, &result), comm_, "waiting"));
      if (result != ncclInProgress) RETURN_IF_ERROR(NcclStatus(result, comm_, "waiting"));
      backoff.Pause();
    }
  }

  // Nothing is under way when all went well, so that destroying does not wait; after a failure
  // aborting ends what is.
  void Disconnect() {
    if (comm_ == nullptr) return;
    if (failure_.ok() && Settle(ncclCommFinalize(comm_), "closing").ok()) {
      ncclCommDestroy(comm_);
    } else {
      ncclCommAbort(comm_);
    }
    comm_ = nullptr;
  }

  Communicator& control_;
  const int device_;
  ncclComm_t comm_ = nullptr;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t ready_ = nullptr;
  Status failure_;  // the first; all later data methods return it
};

// The GPU's identity, the same in every process that sees it.
StatusOr<std::string> DeviceIdentity(int device) {
  RETURN_IF_ERROR(CudaStatus(cudaSetDevice(device), "choosing the GPU"));
  cudaDeviceProp properties;
  RETURN_IF_ERROR(
      CudaStatus(cudaGetDeviceProperties(&properties, device), "asking for the GPU's properties"));
  return std::string(properties.uuid.bytes, sizeof properties.uuid.bytes);
}

}  // namespace

bool NcclDeviceUsable(std::string* why) {
  int version = 0;
  if (cudaDriverGetVersion(&version) != cudaSuccess || version == 0) {
    *why = "this host has no NVIDIA driver";
    return false;
  }
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    *why = absl::StrCat("CUDA finds no usable device: ", cudaGetErrorString(error));
    return false;
  }
  if (count == 0) {
    *why = "the driver shows no device to this process";
    return false;
  }
  return true;
}

StatusOr<std::unique_ptr<Communicator>> ConnectNcclCommunicator(Communicator& control, int device) {
  const StatusOr<std::string> identity = DeviceIdentity(device);
  RETURN_IF_ERROR(AgreeOnSuccess(control, identity.status()));
  ASSIGN_OR_RETURN(const std::vector<std::string> identities, control.AllGatherBytes(*identity));
  for (int rank = 0; rank < control.size(); ++rank) {
    for (int other = 0; other < rank; ++other) {
      if (identities[rank] != identities[other]) continue;
      return EnvironmentError(absl::StrCat("ranks ", other, " and ", rank,
                                           " have the same GPU; NCCL takes one rank a GPU"));
    }
  }

  ncclUniqueId id = {};
  Status made;
  std::string id_bytes;
  if (control.rank() == 0) {
    made = NcclStatus(ncclGetUniqueId(&id), nullptr, "making NCCL's unique id");
    id_bytes.assign(id.internal, sizeof id.internal);
  }
  RETURN_IF_ERROR(AgreeOnSuccess(control, made));
  RETURN_IF_ERROR(control.Broadcast(&id_bytes, 0));
  if (id_bytes.size() != sizeof id.internal) {
    return absl::InternalError("rank 0 has another NCCL: its unique id has another length");
  }
  std::memcpy(id.internal, id_bytes.data(), sizeof id.internal);
  auto communicator = std::make_unique<NcclCommunicator>(control, device);
  RETURN_IF_ERROR(Annotate(communicator->Connect(id),
                           absl::StrCat("connecting rank ", control.rank(), " of ", control.size(),
                                        " over NCCL, GPU ", device)));
  return communicator;
}

}  // namespace atl
