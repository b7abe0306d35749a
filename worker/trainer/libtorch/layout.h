// The flat vector of a LLaMA decoder: which tensors, in which order, where. No torch.
//
// Order is that of the forward pass (embedding, layers, final norm, head), so that the backward
// pass finishes gradients from the end of the vector to its beginning and buckets of neighbours
// become ready together. Names and shapes are Hugging Face's (LlamaForCausalLM), so that a
// checkpoint opens there as it is.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "worker/trainer/trainer_abi.h"

namespace atl::libtorch {

struct TensorPlace {
  std::string name;
  std::vector<int64_t> shape;
  int64_t offset = 0;  // elements, a multiple of ATOLL_TENSOR_ALIGNMENT
  int64_t size = 0;    // elements, without padding
};

// Tensors of one layer, in the order of the flat vector.
enum LayerTensor {
  kInputNorm,
  kQuery,
  kKey,
  kValue,
  kOutput,
  kPostAttentionNorm,
  kGate,
  kUp,
  kDown,
  kLayerTensors  // how many
};

// Throws std::invalid_argument that names the dimension at fault.
void CheckConfig(const atoll_trainer_config& config);

// Index 0 is the embedding; layer n holds [1 + n kLayerTensors, 1 + (n + 1) kLayerTensors); then
// the final norm and, unless tied, the head.
std::vector<TensorPlace> LayoutOf(const atoll_trainer_config& config);

// Elements of the flat vector, padding included.
int64_t FlatSize(const std::vector<TensorPlace>& layout);

}  // namespace atl::libtorch
