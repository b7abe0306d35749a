#include "worker/trainer/libtorch/layout.h"

#include <stdexcept>
#include <utility>

namespace atl::libtorch {
namespace {

int64_t RoundUp(int64_t size) {
  return (size + ATOLL_TENSOR_ALIGNMENT - 1) / ATOLL_TENSOR_ALIGNMENT * ATOLL_TENSOR_ALIGNMENT;
}

void Append(std::vector<TensorPlace>& layout, std::string name, std::vector<int64_t> shape) {
  TensorPlace place;
  place.name = std::move(name);
  place.offset = FlatSize(layout);
  place.size = 1;
  for (const int64_t dimension : shape) place.size *= dimension;
  place.shape = std::move(shape);
  layout.push_back(std::move(place));
}

// The bounds keep every product within 63 bits.
void CheckWithin(const char* name, int64_t value, int64_t maximum) {
  if (value >= 1 && value <= maximum) return;
  throw std::invalid_argument(std::string("model.") + name + " is " + std::to_string(value) +
                              ", must be from 1 to " + std::to_string(maximum));
}

}  // namespace

void CheckConfig(const atoll_trainer_config& config) {
  CheckWithin("vocab_size", config.vocab_size, 1 << 24);
  CheckWithin("hidden_size", config.hidden_size, 1 << 20);
  CheckWithin("intermediate_size", config.intermediate_size, 1 << 22);
  CheckWithin("layers", config.layers, 4096);
  CheckWithin("heads", config.heads, 4096);
  CheckWithin("kv_heads", config.kv_heads, 4096);
  if (config.hidden_size % config.heads != 0) {
    throw std::invalid_argument("model.heads must divide model.hidden_size");
  }
  if (config.hidden_size / config.heads % 2 != 0) {
    throw std::invalid_argument(
        "model.hidden_size / model.heads must be even: the rotary embedding turns pairs");
  }
  if (config.heads % config.kv_heads != 0) {
    throw std::invalid_argument("model.kv_heads must divide model.heads");
  }
  if (!(config.rope_theta > 0)) throw std::invalid_argument("model.rope_theta must be positive");
  if (!(config.norm_epsilon > 0)) {
    throw std::invalid_argument("model.norm_epsilon must be positive");
  }
}

std::vector<TensorPlace> LayoutOf(const atoll_trainer_config& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t intermediate = config.intermediate_size;
  const int64_t kv = hidden / config.heads * config.kv_heads;
  std::vector<TensorPlace> layout;
  Append(layout, "model.embed_tokens.weight", {config.vocab_size, hidden});
  for (int64_t n = 0; n < config.layers; ++n) {
    const std::string layer = "model.layers." + std::to_string(n);
    Append(layout, layer + ".input_layernorm.weight", {hidden});
    Append(layout, layer + ".self_attn.q_proj.weight", {hidden, hidden});
    Append(layout, layer + ".self_attn.k_proj.weight", {kv, hidden});
    Append(layout, layer + ".self_attn.v_proj.weight", {kv, hidden});
    Append(layout, layer + ".self_attn.o_proj.weight", {hidden, hidden});
    Append(layout, layer + ".post_attention_layernorm.weight", {hidden});
    Append(layout, layer + ".mlp.gate_proj.weight", {intermediate, hidden});
    Append(layout, layer + ".mlp.up_proj.weight", {intermediate, hidden});
    Append(layout, layer + ".mlp.down_proj.weight", {hidden, intermediate});
  }
  Append(layout, "model.norm.weight", {hidden});
  if (!config.tied_embedding) Append(layout, "lm_head.weight", {config.vocab_size, hidden});
  return layout;
}

int64_t FlatSize(const std::vector<TensorPlace>& layout) {
  return layout.empty() ? 0 : layout.back().offset + RoundUp(layout.back().size);
}

}  // namespace atl::libtorch
