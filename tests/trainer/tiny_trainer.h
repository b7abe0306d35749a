// Trainers of a few thousand parameters, for tests.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "base/random.h"
#include "worker/trainer/trainer.h"

namespace atl {

inline constexpr int64_t kVocabulary = 23;  // of the tiny model

// Two layers; 4 heads of 6 numbers that share 2 keys.
inline TrainerOptions TinyOptions() {
  TrainerOptions options;
  options.model.set_vocab_size(kVocabulary);
  options.model.set_hidden_size(24);
  options.model.set_intermediate_size(40);
  options.model.set_layers(2);
  options.model.set_heads(4);
  options.model.set_kv_heads(2);
  options.model.set_rope_theta(10000);
  options.model.set_norm_epsilon(1e-5);
  options.model.set_embedding(pb::Model::UNTIED);
  return options;
}

// A trainer whose parameters are spread wide enough that every part of the model matters.
inline std::unique_ptr<Trainer> MakeTrainer(const TrainerOptions& options, uint64_t seed = 1) {
  auto trainer = Trainer::Create(options);
  EXPECT_TRUE(trainer.ok()) << trainer.status();
  if (!trainer.ok()) return nullptr;
  for (const TensorInfo& tensor : (*trainer)->tensors()) {
    std::vector<float> values(tensor.elements.size());
    const CounterRandom random(DeriveSeed(seed, tensor.name));
    const bool norm = tensor.shape.size() == 1;
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>((norm ? 1.0 : 0.0) + 0.25 * random.Normal(i));
    }
    EXPECT_TRUE((*trainer)->Write(Vector::kParameters, tensor.elements.begin, values).ok());
  }
  return *std::move(trainer);
}

inline std::vector<int32_t> RandomTokens(uint64_t seed, int64_t count,
                                         int64_t vocabulary = kVocabulary) {
  std::vector<int32_t> tokens(count);
  for (int64_t i = 0; i < count; ++i) {
    tokens[i] = static_cast<int32_t>(CounterRandom(seed).Bits(i) % vocabulary);
  }
  return tokens;
}

// A whole vector of the trainer; by default all of a flat one.
inline std::vector<float> ReadAll(Trainer& trainer, Vector vector, int64_t size = -1) {
  std::vector<float> values(size < 0 ? trainer.size() : size);
  EXPECT_TRUE(trainer.Read(vector, 0, values).ok());
  return values;
}

inline void OwnAll(Trainer& trainer) {
  const Range all = {0, trainer.size()};
  ASSERT_TRUE(trainer.Own({&all, 1}).ok());
}

inline atoll_adamw Settings(int64_t step, double learning_rate = 1e-2) {
  return {step, learning_rate, 0.9, 0.95, 1e-8, 0.1, 1.0};
}

}  // namespace atl
