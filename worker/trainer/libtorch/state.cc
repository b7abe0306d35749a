#include "worker/trainer/libtorch/state.h"

#include <c10/core/GradMode.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/version.h>

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

using atl::libtorch::CheckConfig;
using atl::libtorch::Decoder;
using atl::libtorch::FlatSize;
using atl::libtorch::LayoutOf;
using atl::libtorch::TensorPlace;

void Require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

namespace {

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

at::Device DeviceOf(const atoll_trainer_config& config) {
  if (config.device < 0) return at::kCPU;
  const int64_t gpus =
      at::hasCUDA() ? c10::impl::VirtualGuardImpl(at::kCUDA).deviceCount() : int64_t{0};
  if (config.device >= gpus) {
    throw std::runtime_error("device cuda:" + std::to_string(config.device) +
                             " was asked for, but this libtorch (" TORCH_VERSION ") sees " +
                             std::to_string(gpus) +
                             " GPUs; use train.device cpu, or install a PyTorch with CUDA");
  }
  return at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(config.device));
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
  }
  exp_avg = at::zeros({0}, options);
  exp_avg_sq = at::zeros({0}, options);
  LayTensors();
}

void atoll_trainer::LayTensors() {
  accumulators.clear();  // they belong to the old ones
  parameters.clear();
  for (const TensorPlace& place : layout) {
    at::Tensor parameter = LeafOver(flat_parameters, place);
    parameter.set_requires_grad(true);
    parameter.mutable_grad() = LeafOver(flat_gradients, place);
    parameters.push_back(std::move(parameter));
  }
  decoder = std::make_unique<Decoder>(config, parameters);
}

void atoll_trainer::Place(int32_t kind, float* memory) {
  Require(kind == ATOLL_PARAMETERS || kind == ATOLL_GRADIENTS, "only a flat vector can be placed");
  Require(memory != nullptr, "no memory to place a vector in");
  Require(device.is_cpu(), "the vectors are in device memory and stay there");
  at::Tensor& flat = kind == ATOLL_PARAMETERS ? flat_parameters : flat_gradients;
  at::Tensor placed = at::from_blob(memory, {flat.numel()}, flat.options());
  placed.copy_(flat);
  flat = placed;
  LayTensors();
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
void atoll_trainer::CheckGradientsAreInPlace() const {
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

double atoll_trainer::LossAndGradient(const int32_t* tokens, int64_t batch, int64_t sequence,
                                      double scale) {
  Require(sequence >= 1, "batch and sequence must be at least 1");
  const at::Tensor uploaded = Upload(tokens, batch, sequence + 1);
  c10::AutoGradMode with_gradients(true);
  if (gradient_ready != nullptr) {
    InstallHooks();
    announced.assign(parameters.size(), 0);
  }
  const at::Tensor loss = decoder->LossSum(uploaded);
  loss.backward(at::full_like(loss, scale));
  CheckGradientsAreInPlace();
  const auto loss_sum = loss.item<double>();
  Synchronize();
  if (gradient_ready != nullptr) AnnounceTheRest();
  return loss_sum;
}

void atoll_trainer::AnnounceTheRest() {
  for (; !pending.empty(); pending.pop_front()) Announce(pending.front().first);
  for (int64_t i = static_cast<int64_t>(announced.size()) - 1; i >= 0; --i) {
    if (!announced[i]) Announce(i);
  }
}

void atoll_trainer::Own(const atoll_range* ranges, int64_t count) {
  std::vector<OwnedPiece> owned;
  int64_t state = 0;
  int64_t end_before = 0;
  for (int64_t r = 0; r < count; ++r) {
    const auto [begin, end] = ranges[r];
    Require(begin >= end_before && end >= begin && end <= flat_parameters.numel(),
            "owned ranges must be ascending, disjoint and inside the flat vector");
    end_before = end;
    for (const TensorPlace& place : layout) {
      const int64_t from = std::max(begin, place.offset);
      const int64_t to = std::min(end, place.offset + place.size);
      if (from >= to) continue;
      owned.push_back({from, state + from - begin, to - from, place.shape.size() >= 2});
    }
    state += end - begin;
  }
  exp_avg = at::Tensor();  // the old moments go before the new ones come
  exp_avg_sq = at::Tensor();
  exp_avg = at::zeros({state}, flat_parameters.options());
  exp_avg_sq = at::zeros({state}, flat_parameters.options());
  pieces = std::move(owned);
  owns = true;
  Synchronize();
}
