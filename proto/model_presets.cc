#include "proto/model_presets.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "base/suggest.h"

namespace atl {
namespace {

struct Shape {
  const char* name;
  int64_t vocab_size, hidden_size, intermediate_size, layers, heads, kv_heads;
  double rope_theta, norm_epsilon;
  bool tied;
  const char* description;
};

// The published ones are the config.json of the named model. Llama 3.1 and later also stretch the
// rotary embedding for long contexts ("rope_scaling"), which weights and counts do not see.
constexpr Shape kShapes[] = {
    {"test-1m", 256, 128, 480, 4, 4, 2, 10000, 1e-5, false,
     "1.0 M parameters over bytes: for tests"},
    {"demo-2m", 256, 192, 512, 6, 6, 2, 10000, 1e-5, false,
     "2.5 M parameters over bytes: learns English spelling on two CPU cores in minutes"},
    {"demo-5m", 256, 256, 704, 6, 8, 4, 10000, 1e-5, false,
     "4.6 M parameters over bytes: the larger demo, about half as fast"},
    {"llama-60m", 32000, 512, 1376, 8, 8, 8, 10000, 1e-6, false,
     "58 M parameters: the smallest of the GaLore paper (Zhao et al. 2024)"},
    {"llama-130m", 32000, 768, 2048, 12, 12, 12, 10000, 1e-6, false,
     "134 M parameters: GaLore paper"},
    {"llama-350m", 32000, 1024, 2736, 24, 16, 16, 10000, 1e-6, false,
     "368 M parameters: GaLore paper"},
    {"llama-1b", 32000, 2048, 5632, 22, 32, 4, 10000, 1e-5, false,
     "1.1 B parameters: TinyLlama (Zhang et al. 2024)"},
    {"llama-3.2-1b", 128256, 2048, 8192, 16, 32, 8, 500000, 1e-5, true,
     "1.2 B parameters, tied embedding: meta-llama/Llama-3.2-1B"},
    {"llama-3.2-3b", 128256, 3072, 8192, 28, 24, 8, 500000, 1e-5, true,
     "3.2 B parameters, tied embedding: meta-llama/Llama-3.2-3B"},
    {"llama-7b", 32000, 4096, 11008, 32, 32, 32, 10000, 1e-5, false,
     "6.7 B parameters: meta-llama/Llama-2-7b"},
    {"llama-3-8b", 128256, 4096, 14336, 32, 32, 8, 500000, 1e-5, false,
     "8.0 B parameters: meta-llama/Meta-Llama-3-8B"},
    {"llama-3-70b", 128256, 8192, 28672, 80, 64, 8, 500000, 1e-5, false,
     "70.6 B parameters: meta-llama/Meta-Llama-3-70B"},
    {"llama-3.1-405b", 128256, 16384, 53248, 126, 128, 8, 500000, 1e-5, false,
     "405.9 B parameters: meta-llama/Llama-3.1-405B"},
};

Status UnknownPreset(const std::string& name) {
  std::vector<std::string> names;
  for (const ModelPreset& preset : ModelPresets()) names.push_back(preset.name);
  // The name is the user's: a very long one is shown by its beginning.
  return UsageError(absl::StrCat("model.preset: there is no preset '", name.substr(0, 64), "'",
                                 DidYouMean(name, names), " (presets: ", absl::StrJoin(names, ", "),
                                 ")"));
}

Status CheckSet(const char* key, int64_t value) {
  if (value >= 1) return OkStatus();
  return UsageError(absl::StrCat("model.", key, " is ", value,
                                 "; set it to at least 1, or choose a model.preset"));
}

Status CheckResolved(const pb::Model& model) {
  RETURN_IF_ERROR(CheckSet("vocab_size", model.vocab_size()));
  RETURN_IF_ERROR(CheckSet("hidden_size", model.hidden_size()));
  RETURN_IF_ERROR(CheckSet("intermediate_size", model.intermediate_size()));
  RETURN_IF_ERROR(CheckSet("layers", model.layers()));
  RETURN_IF_ERROR(CheckSet("heads", model.heads()));
  RETURN_IF_ERROR(CheckSet("kv_heads", model.kv_heads()));
  if (model.hidden_size() % model.heads() != 0) {
    return UsageError(absl::StrCat("model.heads: ", model.heads(),
                                   " does not divide model.hidden_size ", model.hidden_size()));
  }
  if (model.hidden_size() / model.heads() % 2 != 0) {
    return UsageError(absl::StrCat("model.heads: model.hidden_size / model.heads is ",
                                   model.hidden_size() / model.heads(),
                                   ", must be even (the rotary embedding turns pairs)"));
  }
  if (model.heads() % model.kv_heads() != 0) {
    return UsageError(absl::StrCat("model.kv_heads: ", model.kv_heads(),
                                   " does not divide model.heads ", model.heads()));
  }
  if (!(model.rope_theta() > 0)) {
    return UsageError(
        absl::StrCat("model.rope_theta is ", model.rope_theta(), ", must be positive"));
  }
  if (!(model.norm_epsilon() > 0)) {
    return UsageError(
        absl::StrCat("model.norm_epsilon is ", model.norm_epsilon(), ", must be positive"));
  }
  return OkStatus();
}

}  // namespace

const std::vector<ModelPreset>& ModelPresets() {
  static const auto* const presets = [] {
    auto* made = new std::vector<ModelPreset>();
    for (const Shape& shape : kShapes) {
      pb::Model model;
      model.set_preset(shape.name);
      model.set_vocab_size(shape.vocab_size);
      model.set_hidden_size(shape.hidden_size);
      model.set_intermediate_size(shape.intermediate_size);
      model.set_layers(shape.layers);
      model.set_heads(shape.heads);
      model.set_kv_heads(shape.kv_heads);
      model.set_rope_theta(shape.rope_theta);
      model.set_norm_epsilon(shape.norm_epsilon);
      model.set_embedding(shape.tied ? pb::Model::TIED : pb::Model::UNTIED);
      made->push_back({shape.name, std::move(model), shape.description});
    }
    return made;
  }();
  return *presets;
}

StatusOr<pb::Model> ResolveModel(const pb::Model& model, int64_t data_vocab_size) {
  pb::Model resolved;
  // Without a preset every dimension must be given, but for these three.
  resolved.set_rope_theta(10000);
  resolved.set_norm_epsilon(1e-5);
  resolved.set_embedding(pb::Model::UNTIED);
  resolved.set_kv_heads(model.heads());
  if (!model.preset().empty()) {
    const auto& presets = ModelPresets();
    const auto found = std::find_if(presets.begin(), presets.end(), [&](const ModelPreset& preset) {
      return preset.name == model.preset();
    });
    if (found == presets.end()) return UnknownPreset(model.preset());
    resolved = found->model;
  }
  if (model.vocab_size() != 0) resolved.set_vocab_size(model.vocab_size());
  if (model.hidden_size() != 0) resolved.set_hidden_size(model.hidden_size());
  if (model.intermediate_size() != 0) resolved.set_intermediate_size(model.intermediate_size());
  if (model.layers() != 0) resolved.set_layers(model.layers());
  if (model.heads() != 0) resolved.set_heads(model.heads());
  if (model.kv_heads() != 0) resolved.set_kv_heads(model.kv_heads());
  if (model.rope_theta() != 0) resolved.set_rope_theta(model.rope_theta());
  if (model.norm_epsilon() != 0) resolved.set_norm_epsilon(model.norm_epsilon());
  if (model.embedding() != pb::Model::PRESET) resolved.set_embedding(model.embedding());
  resolved.set_vocab_size(std::max(resolved.vocab_size(), data_vocab_size));
  RETURN_IF_ERROR(CheckResolved(resolved));
  return resolved;
}

int64_t ParameterCount(const pb::Model& resolved) {
  CHECK_GE(resolved.heads(), 1) << "the model was not resolved";
  const int64_t hidden = resolved.hidden_size();
  const int64_t kv = hidden / resolved.heads() * resolved.kv_heads();
  const int64_t attention = 2 * hidden * hidden + 2 * hidden * kv;
  const int64_t mlp = 3 * hidden * resolved.intermediate_size();
  const int64_t embeddings = resolved.embedding() == pb::Model::TIED ? 1 : 2;
  return embeddings * resolved.vocab_size() * hidden +
         resolved.layers() * (attention + mlp + 2 * hidden) + hidden;
}

double TrainFlopsPerToken(const pb::Model& resolved, int64_t sequence_length) {
  // A tied embedding is the head's matrix as well, so its product counts.
  const double lookup = resolved.embedding() == pb::Model::TIED
                            ? 0.0
                            : 1.0 * resolved.vocab_size() * resolved.hidden_size();
  const double products = static_cast<double>(ParameterCount(resolved)) - lookup;
  return 6.0 * products + 12.0 * resolved.layers() * resolved.hidden_size() * sequence_length;
}

}  // namespace atl
