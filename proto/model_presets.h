// Model shapes by name, and what they weigh.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "proto/job.pb.h"

namespace atl {

struct ModelPreset {
  std::string name;         // "test-1m", "llama-8b", ...
  pb::Model model;          // every dimension set
  std::string description;  // one line: what it is for, and its source
};

const std::vector<ModelPreset>& ModelPresets();

// Every dimension filled in: the preset's, single keys of `model` over it, the vocabulary from the
// data where both leave it open (0), else raised to it. Errors name the key (heads must divide
// hidden_size, kv_heads must divide heads, ...) or list the presets nearest to an unknown name.
StatusOr<pb::Model> ResolveModel(const pb::Model& model, int64_t data_vocab_size);

// Elements of the parameter vector, without padding, of a resolved model.
int64_t ParameterCount(const pb::Model& resolved);
// Floating-point operations to train on one token: 6 x parameters (without the embedding's lookup)
// + attention's 12 x layers x hidden x sequence. Source: Chowdhery et al. 2022, appendix B.
double TrainFlopsPerToken(const pb::Model& resolved, int64_t sequence_length);

}  // namespace atl
