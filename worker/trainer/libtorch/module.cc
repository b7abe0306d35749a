// The libtorch trainer module: the C table of trainer_abi.h over the state of state.h.
//
// AdamW runs as adamw.h over host memory, and as the same steps in torch operators on a device.
// No exception leaves the module: every entry runs within Guarded.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/GradMode.h>
#include <dlfcn.h>
#include <torch/version.h>

#include <algorithm>
#include <optional>
#include <string>

#include "worker/trainer/adamw.h"
#include "worker/trainer/libtorch/state.h"

namespace {

thread_local std::string last_error;

// Runs `body` with the trainer's device and thread count; turns exceptions into a message.
template <typename Body>
int32_t Guarded(const atoll_trainer* trainer, Body&& body) noexcept {
  try {
    std::optional<c10::DeviceGuard> guard;
    if (trainer != nullptr) {
      if (trainer->device.is_cuda()) guard.emplace(trainer->device);
      if (at::get_num_threads() != trainer->config.threads) {  // OpenMP keeps it per thread
        at::set_num_threads(trainer->config.threads);
      }
    }
    body();
    return 0;
  } catch (const c10::Error& error) {
    last_error = error.what_without_backtrace();
  } catch (const std::exception& error) {
    last_error = error.what();
  } catch (...) {
    last_error = "unknown exception in libtorch";
  }
  return 1;
}

// The settings are global to the process and equal for every trainer.
void UseDeterministicAlgorithms() {
  auto configure = [](auto& context) {
    // Warn only: where CUDA has no deterministic version of an operator, a warning in the log and
    // bits that may vary are better than a job that cannot run.
    context.setDeterministicAlgorithms(true, /*warn_only=*/true);
    context.setDeterministicCuDNN(true);
    context.setBenchmarkCuDNN(false);
    // 2.2 and later fill every new tensor with NaN in this mode unless told not to.
    if constexpr (requires { context.setDeterministicFillUninitializedMemory(false); }) {
      context.setDeterministicFillUninitializedMemory(false);
    }
  };
  configure(at::globalContext());
}

int32_t Create(const atoll_trainer_config* config, atoll_trainer** trainer) {
  return Guarded(nullptr, [&] {
    Require(config != nullptr && trainer != nullptr, "create needs a configuration");
    Require(config->threads >= 1, "threads must be at least 1");
    UseDeterministicAlgorithms();
    *trainer = new atoll_trainer(*config);
  });
}

void Destroy(atoll_trainer* trainer) {
  Guarded(trainer, [&] { trainer->Synchronize(); });
  delete trainer;
}

int64_t TensorCount(atoll_trainer* trainer) {
  return static_cast<int64_t>(trainer->tensors.size());
}
const atoll_tensor* Tensors(atoll_trainer* trainer) { return trainer->tensors.data(); }
int64_t Size(atoll_trainer* trainer) { return trainer->flat_parameters.numel(); }

float* Data(atoll_trainer* trainer, int32_t kind) {
  float* data = nullptr;
  Guarded(trainer, [&] { data = trainer->VectorOf(kind).data_ptr<float>(); });
  return data;
}

int32_t Read(atoll_trainer* trainer, int32_t kind, int64_t offset, int64_t count, float* host) {
  return Guarded(trainer, [&] {
    const at::Tensor source = trainer->Slice(kind, offset, count);
    at::from_blob(host, {count}, at::kFloat).copy_(source);
  });
}

int32_t Write(atoll_trainer* trainer, int32_t kind, int64_t offset, int64_t count,
              const float* host) {
  return Guarded(trainer, [&] {
    at::Tensor target = trainer->Slice(kind, offset, count);
    target.copy_(at::from_blob(const_cast<float*>(host), {count}, at::kFloat));
    trainer->Synchronize();
  });
}

int32_t Place(atoll_trainer* trainer, int32_t kind, float* memory) {
  return Guarded(trainer, [&] { trainer->Place(kind, memory); });
}

int32_t ZeroGradients(atoll_trainer* trainer) {
  return Guarded(trainer, [&] {
    trainer->flat_gradients.zero_();
    trainer->Synchronize();
  });
}

int32_t LossAndGradient(atoll_trainer* trainer, const int32_t* tokens, int64_t batch,
                        int64_t sequence, double scale,
                        void (*gradient_ready)(void* context, int64_t tensor), void* context,
                        double* loss_sum) {
  trainer->gradient_ready = gradient_ready;
  trainer->ready_context = context;
  const int32_t result = Guarded(
      trainer, [&] { *loss_sum = trainer->LossAndGradient(tokens, batch, sequence, scale); });
  trainer->gradient_ready = nullptr;
  trainer->pending.clear();
  return result;
}

int32_t Loss(atoll_trainer* trainer, const int32_t* tokens, int64_t batch, int64_t sequence,
             double* loss_sum) {
  return Guarded(trainer, [&] {
    Require(sequence >= 1, "batch and sequence must be at least 1");
    c10::NoGradGuard without_gradients;
    const at::Tensor uploaded = trainer->Upload(tokens, batch, sequence + 1);
    *loss_sum = trainer->decoder->LossSum(uploaded).item<double>();
  });
}

int32_t Logits(atoll_trainer* trainer, const int32_t* tokens, int64_t batch, int64_t sequence,
               float* out) {
  return Guarded(trainer, [&] {
    c10::NoGradGuard without_gradients;
    const at::Tensor logits = trainer->decoder->Logits(trainer->Upload(tokens, batch, sequence));
    at::from_blob(out, {batch * sequence, trainer->config.vocab_size}, at::kFloat).copy_(logits);
  });
}

int32_t Own(atoll_trainer* trainer, const atoll_range* ranges, int64_t count) {
  return Guarded(trainer, [&] { trainer->Own(ranges, count); });
}

int64_t OptimizerBytes(atoll_trainer* trainer) {
  return static_cast<int64_t>(trainer->exp_avg.nbytes() + trainer->exp_avg_sq.nbytes());
}

// adamw.h's steps as torch operators, for vectors on a device.
void AdamWByOperators(atoll_trainer* trainer, const atl::AdamWCoefficients& c) {
  c10::NoGradGuard without_gradients;
  for (const OwnedPiece& piece : trainer->pieces) {
    at::Tensor parameter = trainer->flat_parameters.narrow(0, piece.offset, piece.count);
    at::Tensor average = trainer->exp_avg.narrow(0, piece.state_offset, piece.count);
    at::Tensor square = trainer->exp_avg_sq.narrow(0, piece.state_offset, piece.count);
    const at::Tensor gradient =
        trainer->flat_gradients.narrow(0, piece.offset, piece.count).mul(c.gradient_scale);
    average.mul_(c.beta1).add_(gradient, c.one_minus_beta1);
    square.mul_(c.beta2).addcmul_(gradient, gradient, c.one_minus_beta2);
    const at::Tensor denominator = square.sqrt().mul_(c.correction).add_(c.epsilon);
    if (piece.decay) parameter.mul_(c.keep);
    parameter.addcdiv_(average, denominator, -c.step_size);
  }
}

void AdamWOnHost(atoll_trainer* trainer, const atl::AdamWCoefficients& c) {
  float* parameters = trainer->flat_parameters.data_ptr<float>();
  const float* gradients = trainer->flat_gradients.data_ptr<float>();
  float* average = trainer->exp_avg.data_ptr<float>();
  float* square = trainer->exp_avg_sq.data_ptr<float>();
  for (const OwnedPiece& piece : trainer->pieces) {
    atl::AdamWUpdate(c, piece.decay, piece.count, parameters + piece.offset,
                     gradients + piece.offset, average + piece.state_offset,
                     square + piece.state_offset);
  }
}

int32_t UpdateWith(atoll_trainer* trainer, const atoll_adamw* settings,
                   void (*update)(atoll_trainer*, const atl::AdamWCoefficients&)) {
  return Guarded(trainer, [&] {
    Require(trainer->owns, "adamw before own: no shard was chosen");
    Require(settings->step >= 1, "AdamW's step counts from 1");
    Require(settings->epsilon > 0, "AdamW's epsilon must be positive");
    Require(
        settings->beta1 >= 0 && settings->beta1 < 1 && settings->beta2 >= 0 && settings->beta2 < 1,
        "AdamW's betas must be in [0, 1)");
    update(trainer, atl::CoefficientsOf(*settings));
    trainer->Synchronize();
  });
}

int32_t AdamW(atoll_trainer* trainer, const atoll_adamw* settings) {
  return UpdateWith(trainer, settings, trainer->device.is_cpu() ? AdamWOnHost : AdamWByOperators);
}

// Element by element in double precision, in pieces that bound the copy's memory.
double SquareSumByOperators(const at::Tensor& values) {
  constexpr int64_t kPiece = int64_t{1} << 24;
  double sum = 0;
  for (int64_t at = 0; at < values.numel(); at += kPiece) {
    const int64_t count = std::min(kPiece, values.numel() - at);
    sum += values.narrow(0, at, count).to(at::kDouble).square().sum().item<double>();
  }
  return sum;
}

int32_t GradientSquareSum(atoll_trainer* trainer, int64_t offset, int64_t count, double* sum) {
  return Guarded(trainer, [&] {
    const at::Tensor values = trainer->Slice(ATOLL_GRADIENTS, offset, count);
    *sum = trainer->device.is_cpu() ? atl::SquareSum(values.data_ptr<float>(), count)
                                    : SquareSumByOperators(values);
  });
}

// Which BLAS answers: the reference one is fifteen times slower, and its users should see why.
const char* Version() {
  static const std::string version = [] {
    std::string text = "libtorch " TORCH_VERSION;
    if (at::hasMKL()) return text + ", MKL";
    if (dlsym(RTLD_DEFAULT, "openblas_get_config") != nullptr) return text + ", OpenBLAS";
    return text + ", another BLAS";
  }();
  return version.c_str();
}

const char* LastError() { return last_error.c_str(); }

}  // namespace

extern "C" {

__attribute__((visibility("default"))) const atoll_trainer_api* atoll_trainer_entry(void) {
  static const atoll_trainer_api api = {ATOLL_TRAINER_ABI_VERSION,
                                        Version,
                                        LastError,
                                        Create,
                                        Destroy,
                                        TensorCount,
                                        Tensors,
                                        Size,
                                        Data,
                                        Read,
                                        Write,
                                        ZeroGradients,
                                        LossAndGradient,
                                        Loss,
                                        Logits,
                                        Own,
                                        OptimizerBytes,
                                        AdamW,
                                        GradientSquareSum,
                                        Place};
  return &api;
}

// The device's path of AdamW and of the sum of squares on whatever device the trainer is on, so
// that a machine without a GPU can test it against the host's. Not part of the C table.
__attribute__((visibility("default"))) int32_t atoll_libtorch_adamw_by_operators(
    atoll_trainer* trainer, const atoll_adamw* settings) {
  return UpdateWith(trainer, settings, AdamWByOperators);
}

__attribute__((visibility("default"))) int32_t atoll_libtorch_square_sum_by_operators(
    atoll_trainer* trainer, int64_t offset, int64_t count, double* sum) {
  return Guarded(trainer, [&] {
    *sum = SquareSumByOperators(trainer->Slice(ATOLL_GRADIENTS, offset, count));
  });
}
}
