// The LLaMA decoder (Touvron et al. 2023) on torch operators: RMSNorm before each block, rotary
// embedding (Su et al. 2021, in Hugging Face's half-rotation convention), grouped-query causal
// attention (Ainslie et al. 2023), SwiGLU (Shazeer 2020). Gives the logits of Hugging Face's
// LlamaForCausalLM from the same weights.
//
// Precision: with bf16 the inputs of matrix products are cast (what autocast does); norms, softmax,
// rotary embedding, residual stream and loss stay fp32, the loss is summed in double.
//
// Includes torch: only the module's own files may include this header. Thread rule: one thread at a
// time; the backward pass (which with activation checkpointing calls back) may run on another.
#pragma once

// Single headers of ATen and autograd rather than torch/torch.h: a third of its compile time.
#include <ATen/ATen.h>

#include <vector>

#include "worker/trainer/trainer_abi.h"

namespace atl::libtorch {

class Decoder {
 public:
  // `parameters` in the order of LayoutOf(config), fp32, leaves that require gradients.
  Decoder(const atoll_trainer_config& config, std::vector<at::Tensor> parameters);

  // tokens: int64 [batch, sequence]. Returns fp32 [batch x sequence, vocab_size].
  at::Tensor Logits(const at::Tensor& tokens);
  // tokens: int64 [batch, sequence + 1]. Returns the sum of all cross entropies, a double scalar.
  at::Tensor LossSum(const at::Tensor& tokens);

  // One layer: hidden state [batch x sequence, hidden] in and out. `weights` as LayerTensor. The
  // tables of PrepareTables(sequence) must be there. Used by the checkpointed layer as well.
  at::Tensor Layer(const at::Tensor& hidden, at::TensorList weights, int64_t batch,
                   int64_t sequence) const;

 private:
  void PrepareTables(int64_t sequence);
  at::Tensor Product(const at::Tensor& input, const at::Tensor& weight) const;
  at::Tensor RmsNorm(const at::Tensor& input, const at::Tensor& weight) const;
  at::Tensor Attention(const at::Tensor& input, at::TensorList weights, int64_t batch,
                       int64_t sequence) const;

  const atoll_trainer_config config_;
  const std::vector<at::Tensor> parameters_;
  at::Tensor cosine_, sine_;  // [longest sequence so far, 1, head size / 2]
  at::Tensor mask_;           // [sequence, sequence]: 0 up to the diagonal, -inf above
};

}  // namespace atl::libtorch
