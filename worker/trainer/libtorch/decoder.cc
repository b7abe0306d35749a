#include "worker/trainer/libtorch/decoder.h"

#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/version.h>

#include <cmath>
#include <limits>
#include <utility>

#include "worker/trainer/libtorch/layout.h"

namespace atl::libtorch {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Turns pairs (i, i + half) of the last dimension by the angle of their place. `direction` -1 turns
// back: the transposed rotation, which is what the backward pass needs.
at::Tensor Turn(const at::Tensor& input, const at::Tensor& cosine, const at::Tensor& sine,
                double direction) {
  const int64_t half = input.size(-1) / 2;
  const at::Tensor source = input.to(at::kFloat);
  at::Tensor result = at::empty(source.sizes(), source.options());
  const at::Tensor first = source.narrow(-1, 0, half);
  const at::Tensor second = source.narrow(-1, half, half);
  at::Tensor first_out = result.narrow(-1, 0, half);
  at::Tensor second_out = result.narrow(-1, half, half);
  at::mul_out(first_out, first, cosine);
  first_out.addcmul_(second, sine, -direction);
  at::mul_out(second_out, second, cosine);
  second_out.addcmul_(first, sine, direction);
  return result;
}

// The rotary embedding as one node of the graph: plain operators would write ten intermediate
// tensors in the backward pass. input: [batch, sequence, heads, head size].
class Rotary : public torch::autograd::Function<Rotary> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input,
                            const at::Tensor& cosine, const at::Tensor& sine) {
    context->save_for_backward({cosine, sine});
    context->saved_data["type"] = static_cast<int64_t>(input.scalar_type());
    return Turn(input, cosine, sine, 1.0);
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const auto type = static_cast<at::ScalarType>(context->saved_data["type"].toInt());
    return {Turn(gradients[0], saved[0], saved[1], -1.0).to(type), at::Tensor(), at::Tensor()};
  }
};

// A layer that keeps its input only and runs again in the backward pass (Chen et al. 2016). The
// weights are inputs of the node, so that their gradients flow through the outer graph and each is
// accumulated once. The inner graph works on detached copies (same memory), whose gradients are
// taken and never accumulated.
class CheckpointedLayer : public torch::autograd::Function<CheckpointedLayer> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& hidden,
                            at::TensorList weights, const Decoder* decoder, int64_t batch,
                            int64_t sequence) {
    variable_list saved = {hidden};
    saved.insert(saved.end(), weights.begin(), weights.end());
    context->save_for_backward(std::move(saved));
    context->saved_data["decoder"] = static_cast<int64_t>(reinterpret_cast<intptr_t>(decoder));
    context->saved_data["batch"] = batch;
    context->saved_data["sequence"] = sequence;
    return decoder->Layer(hidden, weights, batch, sequence);
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto* decoder = reinterpret_cast<const Decoder*>(
        static_cast<intptr_t>(context->saved_data["decoder"].toInt()));
    variable_list inputs;
    for (const at::Tensor& tensor : context->get_saved_variables()) {
      inputs.push_back(tensor.detach().set_requires_grad(true));
    }
    variable_list result;
    {
      c10::AutoGradMode with_gradients(true);
      const at::Tensor output = decoder->Layer(inputs[0], at::TensorList(inputs).slice(1),
                                               context->saved_data["batch"].toInt(),
                                               context->saved_data["sequence"].toInt());
      result = torch::autograd::grad({output}, inputs, {gradients[0]});
    }
    result.resize(result.size() + 3);  // decoder, batch, sequence
    return result;
  }
};

}  // namespace

Decoder::Decoder(const atoll_trainer_config& config, std::vector<at::Tensor> parameters)
    : config_(config), parameters_(std::move(parameters)) {}

// Angles as Hugging Face makes them: inverse frequencies and angles rounded to fp32. The cosine is
// taken in double precision on the host, so that every device starts from the same tables.
void Decoder::PrepareTables(int64_t sequence) {
  const at::TensorOptions options = parameters_[0].options().requires_grad(false);
  if (!cosine_.defined() || cosine_.size(0) < sequence) {
    const int64_t head_size = config_.hidden_size / config_.heads;
    at::Tensor cosine = at::empty({sequence, 1, head_size / 2}, at::kFloat);
    at::Tensor sine = at::empty_like(cosine);
    float* cosines = cosine.data_ptr<float>();
    float* sines = sine.data_ptr<float>();
    for (int64_t i = 0; i < head_size / 2; ++i) {
      const auto frequency = static_cast<float>(
          std::pow(config_.rope_theta, -2.0 * i / static_cast<double>(head_size)));
      for (int64_t place = 0; place < sequence; ++place) {
        const float angle = static_cast<float>(place) * frequency;
        cosines[place * (head_size / 2) + i] = static_cast<float>(std::cos(double{angle}));
        sines[place * (head_size / 2) + i] = static_cast<float>(std::sin(double{angle}));
      }
    }
    cosine_ = cosine.to(options.device());
    sine_ = sine.to(options.device());
  }
#if TORCH_VERSION_MAJOR < 2
  if (!mask_.defined() || mask_.size(0) != sequence) {
    mask_ =
        at::full({sequence, sequence}, -std::numeric_limits<float>::infinity(), options).triu(1);
    if (config_.bf16) mask_ = mask_.to(at::kBFloat16);
  }
#endif
}

at::Tensor Decoder::Product(const at::Tensor& input, const at::Tensor& weight) const {
  if (!config_.bf16) return at::linear(input, weight);
  return at::linear(input.to(at::kBFloat16), weight.to(at::kBFloat16));
}

at::Tensor Decoder::RmsNorm(const at::Tensor& input, const at::Tensor& weight) const {
  const at::Tensor mean_square = input.square().mean(-1, /*keepdim=*/true);
  return input * at::rsqrt(mean_square + config_.norm_epsilon) * weight;
}

at::Tensor Decoder::Attention(const at::Tensor& input, at::TensorList weights, int64_t batch,
                              int64_t sequence) const {
  const int64_t heads = config_.heads;
  const int64_t kv_heads = config_.kv_heads;
  const int64_t group = heads / kv_heads;  // queries that share a key
  const int64_t head_size = config_.hidden_size / heads;
  const at::Tensor cosine = cosine_.narrow(0, 0, sequence);
  const at::Tensor sine = sine_.narrow(0, 0, sequence);
  const auto type = config_.bf16 ? at::kBFloat16 : at::kFloat;

  const at::Tensor shared =
      config_.bf16 ? input.to(at::kBFloat16) : input;  // cast once, used thrice
  at::Tensor query = Product(shared, weights[kQuery]).view({batch, sequence, heads, head_size});
  at::Tensor key = Product(shared, weights[kKey]).view({batch, sequence, kv_heads, head_size});
  at::Tensor value = Product(shared, weights[kValue]).view({batch, sequence, kv_heads, head_size});
  query = Rotary::apply(query, cosine, sine).to(type);
  key = Rotary::apply(key, cosine, sine).to(type);

#if TORCH_VERSION_MAJOR >= 2
  query = query.transpose(1, 2);
  key = key.transpose(1, 2);
  value = value.transpose(1, 2);
  if (group > 1) {  // head h reads key h / group
    const std::vector<int64_t> shape = {batch, kv_heads, group, sequence, head_size};
    key = key.unsqueeze(2).expand(shape).reshape({batch, heads, sequence, head_size});
    value = value.unsqueeze(2).expand(shape).reshape({batch, heads, sequence, head_size});
  }
  const at::Tensor mixed =
      at::scaled_dot_product_attention(query, key, value, {}, 0.0, /*is_causal=*/true)
          .transpose(1, 2)
          .reshape({batch * sequence, config_.hidden_size});
#else
  // The queries that share a key stand below each other, so that one product serves the group.
  const int64_t rows = group * sequence;
  query = query.view({batch, sequence, kv_heads, group, head_size})
              .permute({0, 2, 3, 1, 4})
              .reshape({batch * kv_heads, rows, head_size});
  key = key.transpose(1, 2).reshape({batch * kv_heads, sequence, head_size});
  value = value.transpose(1, 2).reshape({batch * kv_heads, sequence, head_size});
  const at::Tensor mask = mask_.repeat({group, 1}).unsqueeze(0).expand({1, rows, sequence});
  const at::Tensor scores =
      at::baddbmm(mask, query, key.transpose(1, 2), 1.0, 1.0 / std::sqrt(double(head_size)));
  const at::Tensor shares = at::softmax(scores, -1, at::kFloat).to(type);
  const at::Tensor mixed = at::bmm(shares, value)
                               .view({batch, kv_heads, group, sequence, head_size})
                               .permute({0, 3, 1, 2, 4})
                               .reshape({batch * sequence, config_.hidden_size});
#endif
  return Product(mixed, weights[kOutput]);
}

at::Tensor Decoder::Layer(const at::Tensor& hidden, at::TensorList weights, int64_t batch,
                          int64_t sequence) const {
  const at::Tensor attended =
      hidden + Attention(RmsNorm(hidden, weights[kInputNorm]), weights, batch, sequence);
  at::Tensor normed = RmsNorm(attended, weights[kPostAttentionNorm]);
  if (config_.bf16) normed = normed.to(at::kBFloat16);
  const at::Tensor gate = at::silu(Product(normed, weights[kGate]));
  return attended + Product(gate * Product(normed, weights[kUp]), weights[kDown]);
}

at::Tensor Decoder::Logits(const at::Tensor& tokens) {
  const int64_t batch = tokens.size(0);
  const int64_t sequence = tokens.size(1);
  PrepareTables(sequence);
  at::Tensor hidden = at::embedding(parameters_[0], tokens.reshape({-1}));
  const at::TensorList all(parameters_);
  const bool checkpointed = config_.activation_checkpointing && c10::GradMode::is_enabled();
  for (int64_t n = 0; n < config_.layers; ++n) {
    const at::TensorList weights = all.slice(1 + n * kLayerTensors, kLayerTensors);
    hidden = checkpointed ? CheckpointedLayer::apply(
                                hidden, weights, static_cast<const Decoder*>(this), batch, sequence)
                          : Layer(hidden, weights, batch, sequence);
  }
  const at::Tensor& norm = all[1 + config_.layers * kLayerTensors];
  const at::Tensor& head = config_.tied_embedding ? all.front() : all.back();
  return Product(RmsNorm(hidden, norm), head).to(at::kFloat);
}

at::Tensor Decoder::LossSum(const at::Tensor& tokens) {
  const int64_t sequence = tokens.size(1) - 1;
  const at::Tensor logits = Logits(tokens.narrow(1, 0, sequence));
  const at::Tensor targets = tokens.narrow(1, 1, sequence).reshape({-1});
  return at::nll_loss(at::log_softmax(logits, -1), targets, {}, at::Reduction::None)
      .sum(at::kDouble);
}

}  // namespace atl::libtorch
