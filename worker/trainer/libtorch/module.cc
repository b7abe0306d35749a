// The libtorch trainer module: the C table of trainer_abi.h over a Decoder.
//
// 1. Parameters are views of one flat fp32 tensor; so are gradients. Each parameter's grad is set
//    to its view before the first backward pass, and autograd accumulates into a defined grad in
//    place, so that the flat vectors always hold everything (checked after every backward pass).
// 2. gradient_ready comes from a hook behind each parameter's AccumulateGrad node, as in PyTorch's
//    DDP reducer: that node runs once a backward pass, after all uses of the parameter (a tied
//    embedding has two) have been summed. A tensor that got no gradient is announced at the end.
// 3. On CUDA the hook runs when the work is enqueued, not done: an event is recorded, and a tensor
//    is announced once its event has passed; what is still pending at the end, after a wait.
// 4. AdamW: adamw.h over host memory; the same steps as torch operators on a device.
//
// Invariants: padding is never written. No exception leaves the module.
// Thread rule: trainer_abi.h. gradient_ready comes from the calling thread on CPU, from autograd's
// device thread (or, at the end, the calling thread) on CUDA; never from two at once.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/version.h>

#include <algorithm>
#include <deque>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "worker/trainer/adamw.h"
#include "worker/trainer/libtorch/decoder.h"
#include "worker/trainer/libtorch/layout.h"

using atl::libtorch::CheckConfig;
using atl::libtorch::Decoder;
using atl::libtorch::FlatSize;
using atl::libtorch::LayoutOf;
using atl::libtorch::TensorPlace;

// A part of one tensor that this trainer updates.
struct OwnedPiece {
  int64_t offset;        // in the flat vector
  int64_t state_offset;  // in the moments
  int64_t count;
  bool decay;
};

struct atoll_trainer {
  explicit atoll_trainer(const atoll_trainer_config& config);
  void Announce(int64_t tensor);
  void OnGradient(int64_t tensor);
  void InstallHooks();
  void CheckGradientsAreViews() const;
  void Synchronize() const;
  at::Tensor Upload(const int32_t* tokens, int64_t batch, int64_t columns) const;
  at::Tensor VectorOf(int32_t kind) const;
  at::Tensor Slice(int32_t kind, int64_t offset, int64_t count) const;

  const atoll_trainer_config config;
  const at::Device device;
  const std::vector<TensorPlace> layout;
  std::vector<atoll_tensor> tensors;
  at::Tensor flat_parameters, flat_gradients;
  std::vector<at::Tensor> parameters;
  std::unique_ptr<Decoder> decoder;

  std::vector<std::shared_ptr<torch::autograd::Node>> accumulators;  // held: else hooks die
  void (*gradient_ready)(void* context, int64_t tensor) = nullptr;   // during one call only
  void* ready_context = nullptr;
  std::vector<char> announced;
  std::deque<std::pair<int64_t, c10::Event>> pending;  // CUDA: enqueued, perhaps not done

  bool owns = false;  // own() was called
  std::vector<OwnedPiece> pieces;
  at::Tensor exp_avg, exp_avg_sq;
};

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

c10::Stream CurrentStream(at::Device device) {
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device);
}

class ReadyHook : public torch::autograd::FunctionPostHook {
 public:
  ReadyHook(atoll_trainer* trainer, int64_t tensor) : trainer_(trainer), tensor_(tensor) {}
  torch::autograd::variable_list operator()(
      const torch::autograd::variable_list& outputs,
      const torch::autograd::variable_list& /*inputs*/) override {
    trainer_->OnGradient(tensor_);
    return outputs;
  }

 private:
  atoll_trainer* const trainer_;
  const int64_t tensor_;
};

// A tensor over `memory` with nothing in common with its neighbours but the storage: no view
// relation, so that autograd treats it as a leaf of its own.
at::Tensor LeafOver(const at::Tensor& memory, const TensorPlace& place) {
  return at::from_blob(memory.data_ptr<float>() + place.offset, place.shape, memory.options());
}

void Require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

at::Device DeviceOf(const atoll_trainer_config& config) {
  if (config.device < 0) return at::kCPU;
  if (!at::hasCUDA()) {
    throw std::runtime_error("device cuda:" + std::to_string(config.device) +
                             " was asked for, but this libtorch (" TORCH_VERSION
                             ") has no CUDA or sees no GPU; use train.device cpu or install a "
                             "PyTorch with CUDA");
  }
  return at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(config.device));
}

// The settings are global to the process and equal for every trainer.
void UseDeterministicAlgorithms() {
  auto configure = [](auto& context) {
    // Warn only: a CUDA operator without a deterministic version is slower news than a dead job.
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

}  // namespace

atoll_trainer::atoll_trainer(const atoll_trainer_config& given)
    : config(given), device(DeviceOf(given)), layout((CheckConfig(given), LayoutOf(given))) {
  const auto options = at::TensorOptions(at::kFloat).device(device);
  flat_parameters = at::zeros({FlatSize(layout)}, options);
  flat_gradients = at::zeros({FlatSize(layout)}, options);
  for (const TensorPlace& place : layout) {
    atoll_tensor tensor = {};
    tensor.name = place.name.c_str();
    tensor.rank = static_cast<int32_t>(place.shape.size());
    std::copy(place.shape.begin(), place.shape.end(), tensor.shape);
    tensor.offset = place.offset;
    tensor.size = place.size;
    tensors.push_back(tensor);

    at::Tensor parameter = LeafOver(flat_parameters, place);
    parameter.set_requires_grad(true);
    parameter.mutable_grad() = LeafOver(flat_gradients, place);
    parameters.push_back(std::move(parameter));
  }
  exp_avg = at::zeros({0}, options);
  exp_avg_sq = at::zeros({0}, options);
  decoder = std::make_unique<Decoder>(config, parameters);
}

void atoll_trainer::InstallHooks() {
  if (!accumulators.empty()) return;
  for (size_t i = 0; i < parameters.size(); ++i) {
    auto node = torch::autograd::impl::grad_accumulator(parameters[i]);
    node->add_post_hook(std::make_unique<ReadyHook>(this, static_cast<int64_t>(i)));
    accumulators.push_back(std::move(node));
  }
}

void atoll_trainer::Announce(int64_t tensor) {
  announced[tensor] = 1;
  gradient_ready(ready_context, tensor);
}

void atoll_trainer::OnGradient(int64_t tensor) {
  if (gradient_ready == nullptr) return;
  if (device.is_cpu()) {
    Announce(tensor);
    return;
  }
  c10::Event event(device.type());
  event.record(CurrentStream(device));
  pending.emplace_back(tensor, std::move(event));
  while (!pending.empty() && pending.front().second.query()) {
    const int64_t done = pending.front().first;
    pending.pop_front();
    Announce(done);
  }
}

// Autograd replaces a grad instead of adding to it if it may not work in place; the flat vector
// would silently go stale.
void atoll_trainer::CheckGradientsAreViews() const {
  for (size_t i = 0; i < parameters.size(); ++i) {
    const at::Tensor& gradient = parameters[i].grad();
    if (!gradient.defined() ||
        gradient.data_ptr<float>() != flat_gradients.data_ptr<float>() + layout[i].offset) {
      throw std::runtime_error("autograd moved the gradient of " + layout[i].name +
                               " out of the flat vector: this libtorch (" TORCH_VERSION
                               ") does not accumulate in place");
    }
  }
}

void atoll_trainer::Synchronize() const {
  if (device.is_cuda()) CurrentStream(device).synchronize();
}

at::Tensor atoll_trainer::Upload(const int32_t* tokens, int64_t batch, int64_t columns) const {
  Require(tokens != nullptr, "no tokens");
  Require(batch >= 1 && columns >= 1, "batch and sequence must be at least 1");
  Require(batch <= std::numeric_limits<int32_t>::max() / columns, "batch x sequence is too large");
  at::Tensor host = at::empty({batch, columns}, at::kLong);
  int64_t* out = host.data_ptr<int64_t>();
  for (int64_t i = 0; i < batch * columns; ++i) {
    if (tokens[i] < 0 || tokens[i] >= config.vocab_size) {
      throw std::invalid_argument("token " + std::to_string(tokens[i]) + " at place " +
                                  std::to_string(i) + " is outside the vocabulary of " +
                                  std::to_string(config.vocab_size));
    }
    out[i] = tokens[i];
  }
  return device.is_cpu() ? host : host.to(device);
}

at::Tensor atoll_trainer::VectorOf(int32_t kind) const {
  switch (kind) {
    case ATOLL_PARAMETERS:
      return flat_parameters;
    case ATOLL_GRADIENTS:
      return flat_gradients;
    case ATOLL_EXP_AVG:
      return exp_avg;
    case ATOLL_EXP_AVG_SQ:
      return exp_avg_sq;
  }
  throw std::invalid_argument("there is no vector " + std::to_string(kind));
}

at::Tensor atoll_trainer::Slice(int32_t kind, int64_t offset, int64_t count) const {
  const at::Tensor vector = VectorOf(kind);
  if (offset < 0 || count < 0 || offset > vector.numel() || count > vector.numel() - offset) {
    throw std::out_of_range("elements " + std::to_string(offset) + " + " + std::to_string(count) +
                            " are outside vector " + std::to_string(kind) + " of " +
                            std::to_string(vector.numel()) + " elements");
  }
  return vector.narrow(0, offset, count);
}

namespace {

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
  const int32_t result = Guarded(trainer, [&] {
    Require(sequence >= 1, "batch and sequence must be at least 1");
    const at::Tensor uploaded = trainer->Upload(tokens, batch, sequence + 1);
    at::AutoGradMode with_gradients(true);
    if (gradient_ready != nullptr) {
      trainer->InstallHooks();
      trainer->announced.assign(trainer->parameters.size(), 0);
      trainer->ready_context = context;
      trainer->gradient_ready = gradient_ready;
    }
    const at::Tensor loss = trainer->decoder->LossSum(uploaded);
    loss.backward(at::full_like(loss, scale));
    trainer->CheckGradientsAreViews();
    *loss_sum = loss.item<double>();
    trainer->Synchronize();
    if (gradient_ready == nullptr) return;
    for (; !trainer->pending.empty(); trainer->pending.pop_front()) {
      trainer->Announce(trainer->pending.front().first);
    }
    for (int64_t i = TensorCount(trainer) - 1; i >= 0; --i) {
      if (!trainer->announced[i]) trainer->Announce(i);
    }
  });
  trainer->gradient_ready = nullptr;
  trainer->pending.clear();
  return result;
}

int32_t Loss(atoll_trainer* trainer, const int32_t* tokens, int64_t batch, int64_t sequence,
             double* loss_sum) {
  return Guarded(trainer, [&] {
    Require(sequence >= 1, "batch and sequence must be at least 1");
    at::NoGradGuard without_gradients;
    const at::Tensor uploaded = trainer->Upload(tokens, batch, sequence + 1);
    *loss_sum = trainer->decoder->LossSum(uploaded).item<double>();
  });
}

int32_t Logits(atoll_trainer* trainer, const int32_t* tokens, int64_t batch, int64_t sequence,
               float* out) {
  return Guarded(trainer, [&] {
    at::NoGradGuard without_gradients;
    const at::Tensor logits = trainer->decoder->Logits(trainer->Upload(tokens, batch, sequence));
    at::from_blob(out, {batch * sequence, trainer->config.vocab_size}, at::kFloat).copy_(logits);
  });
}

int32_t Own(atoll_trainer* trainer, const atoll_range* ranges, int64_t count) {
  return Guarded(trainer, [&] {
    std::vector<OwnedPiece> pieces;
    int64_t state = 0;
    int64_t end_before = 0;
    for (int64_t r = 0; r < count; ++r) {
      const auto [begin, end] = ranges[r];
      Require(begin >= end_before && end >= begin && end <= Size(trainer),
              "owned ranges must be ascending, disjoint and inside the flat vector");
      end_before = end;
      for (const TensorPlace& place : trainer->layout) {
        const int64_t from = std::max(begin, place.offset);
        const int64_t to = std::min(end, place.offset + place.size);
        if (from >= to) continue;
        pieces.push_back({from, state + from - begin, to - from, place.shape.size() >= 2});
      }
      state += end - begin;
    }
    trainer->exp_avg = at::Tensor();  // the old moments go before the new ones come
    trainer->exp_avg_sq = at::Tensor();
    trainer->exp_avg = at::zeros({state}, trainer->flat_parameters.options());
    trainer->exp_avg_sq = at::zeros({state}, trainer->flat_parameters.options());
    trainer->pieces = std::move(pieces);
    trainer->owns = true;
    trainer->Synchronize();
  });
}

int64_t OptimizerBytes(atoll_trainer* trainer) {
  return static_cast<int64_t>(trainer->exp_avg.nbytes() + trainer->exp_avg_sq.nbytes());
}

// adamw.h's steps as torch operators, for vectors on a device.
void AdamWByOperators(atoll_trainer* trainer, const atl::AdamWCoefficients& c) {
  at::NoGradGuard without_gradients;
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
                                        GradientSquareSum};
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
