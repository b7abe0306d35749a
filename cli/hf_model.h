// A model of atoll as Hugging Face's LlamaForCausalLM describes it, and back. Names of tensors,
// their shapes and the half-rotation of the rotary embedding are the same on both sides, so weights
// need no permutation; what must be said is in config.json.
//
//   config.json                 model
//   hidden_act: silu            (always)
//   num_key_value_heads         kv_heads; absent: as many as num_attention_heads
//   rms_norm_eps, rope_theta    norm_epsilon, rope_theta; newer files: rope_parameters.rope_theta
//   tie_word_embeddings         embedding
// Refused, because the trainer has no such thing: other model types, rope_scaling, biases of
// attention or MLP, a head_dim that is not hidden_size / num_attention_heads. Pure; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "checkpoint/checkpoint.h"
#include "proto/job.pb.h"

namespace atl {

// The model of a checkpoint's description (protobuf's text form, as workers write it).
StatusOr<pb::Model> ModelOfText(const std::string& text);

// config.json. `dtype`: "float32", "bfloat16".
std::string HfConfig(const pb::Model& model, const std::string& dtype, int64_t max_positions);
// Errors (exit code 2) name the key.
StatusOr<pb::Model> ModelOfHfConfig(const std::string& text);

// Every tensor of a resolved model, at the places of the trainer's flat vector.
std::vector<checkpoint::TensorSpec> TensorsOf(const pb::Model& model);

// The section `model` of a job file for it: one line of YAML.
std::string ModelSection(const pb::Model& model);

// tokenizer.json of the tokenizer "bytes": token i is the byte i.
std::string BytesTokenizer();

}  // namespace atl
