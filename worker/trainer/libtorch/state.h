// What one trainer holds: flat vectors, the tensors over them, the hooks that announce gradients,
// and the shard it updates. The C table (module.cc) is a thin shell over it.
//
// 1. Parameters are tensors over one flat fp32 tensor; so are gradients. Each parameter's grad is
//    set to its place before the first backward pass, and autograd accumulates into a defined grad
//    in place, so that the flat vectors always hold everything (checked after every backward pass).
// 2. gradient_ready comes from a hook behind each parameter's AccumulateGrad node, as in PyTorch's
//    DDP reducer: that node runs once a backward pass, after all uses of the parameter (a tied
//    embedding has two) have been summed. A tensor that got no gradient is announced at the end.
// 3. On CUDA the hook runs when the work is enqueued, not done: an event is recorded, and a tensor
//    is announced once its event has passed; what is still pending at the end, after a wait.
//
// Invariant: padding is never written. Errors are exceptions: module.cc catches them.
// Thread rule: trainer_abi.h. gradient_ready comes from the calling thread on CPU, from autograd's
// device thread (or, at the end, the calling thread) on CUDA; never from two at once.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <torch/csrc/autograd/function.h>

#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "worker/trainer/libtorch/decoder.h"
#include "worker/trainer/libtorch/layout.h"
#include "worker/trainer/trainer_abi.h"

// A part of one tensor that this trainer updates.
struct OwnedPiece {
  int64_t offset;        // in the flat vector
  int64_t state_offset;  // in the moments
  int64_t count;
  bool decay;
};

struct atoll_trainer {
  explicit atoll_trainer(const atoll_trainer_config& config);

  double LossAndGradient(const int32_t* tokens, int64_t batch, int64_t sequence, double scale);
  void Place(int32_t kind, float* memory);
  void OnGradient(int64_t tensor);  // from the hooks
  void Own(const atoll_range* ranges, int64_t count);
  // Checked int64 [batch, columns] on the device.
  at::Tensor Upload(const int32_t* tokens, int64_t batch, int64_t columns) const;
  at::Tensor VectorOf(int32_t kind) const;
  at::Tensor Slice(int32_t kind, int64_t offset, int64_t count) const;  // checked
  void Synchronize() const;  // waits until the device has done what was enqueued

  void LayTensors();  // anew over the flat vectors
  void InstallHooks();
  void Announce(int64_t tensor);
  void AnnounceTheRest();
  void CheckGradientsAreInPlace() const;

  const atoll_trainer_config config;
  const at::Device device;
  const std::vector<atl::libtorch::TensorPlace> layout;
  std::vector<atoll_tensor> tensors;
  at::Tensor flat_parameters, flat_gradients;
  std::vector<at::Tensor> parameters;
  std::unique_ptr<atl::libtorch::Decoder> decoder;

  std::vector<std::shared_ptr<torch::autograd::Node>> accumulators;  // held: else hooks die
  void (*gradient_ready)(void* context, int64_t tensor) = nullptr;   // during one call only
  void* ready_context = nullptr;
  std::vector<char> announced;
  std::deque<std::pair<int64_t, c10::Event>> pending;  // CUDA: enqueued, perhaps not done

  bool owns = false;  // own() was called
  std::vector<OwnedPiece> pieces;
  at::Tensor exp_avg, exp_avg_sq;
};

// Throws std::invalid_argument unless `condition`.
void Require(bool condition, const char* message);
