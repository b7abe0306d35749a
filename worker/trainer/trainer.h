// A trainer, as the worker sees it: the C table of trainer_abi.h behind status values and spans.
// Loads the module at run time, so that only a process that trains pays for libtorch. Thread rule:
// as trainer_abi.h.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/range.h"
#include "base/status.h"
#include "proto/job.pb.h"
#include "worker/trainer/trainer_abi.h"

namespace atl {

enum class Vector : int32_t {
  kParameters = ATOLL_PARAMETERS,
  kGradients = ATOLL_GRADIENTS,
  kExpAvg = ATOLL_EXP_AVG,       // over the owned ranges, concatenated
  kExpAvgSq = ATOLL_EXP_AVG_SQ,  // likewise
};

struct TensorInfo {
  std::string name;
  std::vector<int64_t> shape;
  Range elements;  // of the flat vector, without padding
};

struct TrainerOptions {
  pb::Model model;  // every dimension filled in (ResolveModel)
  bool activation_checkpointing = false;
  pb::Train::Precision precision = pb::Train::AUTO;
  int device = -1;  // -1: CPU, else the CUDA device's number
  int threads = 1;
  std::string module_path;  // empty: the libtorch module beside the executable (../lib) or in it
};

class Trainer {
 public:
  static StatusOr<std::unique_ptr<Trainer>> Create(const TrainerOptions& options);
  ~Trainer();

  std::string version() const;
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  int64_t size() const { return size_; }  // elements of the flat vector, padding included
  int64_t parameter_count() const;        // without padding
  float* data(Vector vector);             // host memory, or device memory if on_device()
  bool on_device() const { return on_device_; }
  int64_t optimizer_bytes() const;

  Status Read(Vector vector, int64_t offset, std::span<float> host);
  Status Write(Vector vector, int64_t offset, std::span<const float> host);
  // Whether Place() works: vectors in host memory, a module that lets them be moved.
  bool placeable() const { return !on_device_ && api_->place != nullptr; }
  // Moves parameters or gradients, with what they hold, into size() floats at `memory`, which
  // outlives the trainer.
  Status Place(Vector vector, float* memory);
  Status ZeroGradients();
  // As in trainer_abi.h. Returns the sum of cross entropies in nats.
  StatusOr<double> LossAndGradient(std::span<const int32_t> tokens, int64_t batch, int64_t sequence,
                                   double scale,
                                   const std::function<void(int64_t tensor)>& gradient_ready);
  StatusOr<double> Loss(std::span<const int32_t> tokens, int64_t batch, int64_t sequence);
  Status Logits(std::span<const int32_t> tokens, int64_t batch, int64_t sequence,
                std::span<float> out);
  Status Own(std::span<const Range> ranges);
  Status AdamW(const atoll_adamw& settings);
  StatusOr<double> GradientSquareSum(int64_t offset, int64_t count);

 private:
  Trainer() = default;
  Status Check(int32_t result, const char* what) const;

  const atoll_trainer_api* api_ = nullptr;
  atoll_trainer* trainer_ = nullptr;
  std::vector<TensorInfo> tensors_;
  int64_t size_ = 0;
  int64_t vocab_size_ = 0;
  bool on_device_ = false;
};

// Fills the parameters from the job's seed: normal(0, 0.02) for matrices (output projections o_proj
// and down_proj scaled by 1/sqrt(2 layers), as GPT-2), ones for norms. A pure function of seed and
// tensor name: the same bits with any worker count, device or library version.
Status InitializeParameters(Trainer& trainer, uint64_t seed, int64_t layers);

}  // namespace atl
