#include "cli/hf_model.h"

#include <google/protobuf/text_format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "base/exit_code.h"
#include "proto/model_presets.h"

namespace atl {
namespace {

using nlohmann::json;
using Ordered = nlohmann::ordered_json;

constexpr int64_t kMaxSize = 1 << 24;
constexpr int64_t kMaxLayers = 4096;

Status Bad(const std::string& key, const std::string& why) {
  return UsageError(absl::StrCat("config.json: ", key, " ", why));
}

// Reads keys; the first error stays.
class Config {
 public:
  explicit Config(const json& config) : config_(config) {}
  Status status;

  bool Has(const char* key) const { return config_.contains(key) && !config_.at(key).is_null(); }
  int64_t Size(const char* key) {
    const bool whole = Has(key) && config_.at(key).is_number_unsigned();
    const uint64_t value = whole ? config_.at(key).get<uint64_t>() : 0;
    if (value < 1 || value > kMaxSize) {
      Fail(Bad(key, absl::StrCat("must be a whole number from 1 to ", kMaxSize)));
      return 1;
    }
    return static_cast<int64_t>(value);
  }
  double Positive(const char* key, double otherwise) {
    if (!Has(key)) return otherwise;
    const double value = config_.at(key).is_number() ? config_.at(key).get<double>() : 0;
    if (!(value > 0) || !std::isfinite(value)) Fail(Bad(key, "must be a positive number"));
    return value;
  }
  bool Flag(const char* key) {
    if (!Has(key)) return false;
    if (!config_.at(key).is_boolean()) Fail(Bad(key, "must be true or false"));
    return config_.at(key).is_boolean() && config_.at(key).get<bool>();
  }
  void MustBe(const char* key, const char* value) {
    if (!Has(key) || config_.at(key) == value) return;
    Fail(Bad(key, absl::StrCat("must be ", value, "; the trainer has nothing else")));
  }
  void MustBeFalse(const char* key) {
    if (Flag(key)) Fail(Bad(key, "is true, and the trainer has no biases"));
  }
  void Fail(const Status& error) {
    if (status.ok()) status = error;
  }

 private:
  const json& config_;
};

// The base of the rotary embedding, wherever this file's version keeps it; other kinds of it fail.
double RopeTheta(const json& config, Config& keys) {
  constexpr double kDefault = 10000;
  if (keys.Has("rope_scaling") && !config["rope_scaling"].empty()) {
    keys.Fail(Bad("rope_scaling", "is set, and the trainer has no such scaling"));
  }
  if (!keys.Has("rope_parameters")) return keys.Positive("rope_theta", kDefault);
  const json& inner = config["rope_parameters"];
  if (!inner.is_object()) {
    keys.Fail(Bad("rope_parameters", "must be an object"));
    return kDefault;
  }
  Config parameters(inner);
  parameters.MustBe("rope_type", "default");
  const double theta = parameters.Positive("rope_theta", kDefault);
  keys.Fail(parameters.status);
  return theta;
}

}  // namespace

StatusOr<pb::Model> ModelOfText(const std::string& text) {
  pb::Model model;
  if (!google::protobuf::TextFormat::ParseFromString(text, &model) || model.layers() < 1 ||
      model.heads() < 1 || model.kv_heads() < 1 || model.hidden_size() < 1 ||
      model.layers() > kMaxLayers || model.heads() > kMaxSize || model.kv_heads() > kMaxSize ||
      model.hidden_size() > kMaxSize || model.intermediate_size() > kMaxSize ||
      model.vocab_size() > kMaxSize) {
    return UsageError(
        absl::StrCat("the checkpoint does not say which model it is of: ", text.substr(0, 100)));
  }
  return model;
}

std::string HfConfig(const pb::Model& model, const std::string& dtype, int64_t max_positions) {
  Ordered config;
  config["architectures"] = {"LlamaForCausalLM"};
  config["attention_bias"] = false;
  config["attention_dropout"] = 0.0;
  config["bos_token_id"] = nullptr;
  config["eos_token_id"] = nullptr;
  config["head_dim"] = model.hidden_size() / model.heads();
  config["hidden_act"] = "silu";
  config["hidden_size"] = model.hidden_size();
  config["initializer_range"] = 0.02;
  config["intermediate_size"] = model.intermediate_size();
  config["max_position_embeddings"] = max_positions;
  config["mlp_bias"] = false;
  config["model_type"] = "llama";
  config["num_attention_heads"] = model.heads();
  config["num_hidden_layers"] = model.layers();
  config["num_key_value_heads"] = model.kv_heads();
  config["pretraining_tp"] = 1;
  config["rms_norm_eps"] = model.norm_epsilon();
  config["rope_scaling"] = nullptr;
  config["rope_theta"] = model.rope_theta();
  config["tie_word_embeddings"] = model.embedding() == pb::Model::TIED;
  config["torch_dtype"] = dtype;
  config["use_cache"] = true;
  config["vocab_size"] = model.vocab_size();
  return config.dump(2) + "\n";
}

StatusOr<pb::Model> ModelOfHfConfig(const std::string& text) {
  const json config = json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) return UsageError("config.json is not a JSON object");
  Config keys(config);
  if (!keys.Has("model_type")) keys.Fail(Bad("model_type", "is missing"));
  keys.MustBe("model_type", "llama");
  keys.MustBe("hidden_act", "silu");
  keys.MustBeFalse("attention_bias");
  keys.MustBeFalse("mlp_bias");
  pb::Model model;
  model.set_vocab_size(keys.Size("vocab_size"));
  model.set_hidden_size(keys.Size("hidden_size"));
  model.set_intermediate_size(keys.Size("intermediate_size"));
  model.set_layers(keys.Size("num_hidden_layers"));
  model.set_heads(keys.Size("num_attention_heads"));
  model.set_kv_heads(keys.Has("num_key_value_heads") ? keys.Size("num_key_value_heads")
                                                     : model.heads());
  model.set_rope_theta(RopeTheta(config, keys));
  model.set_norm_epsilon(keys.Positive("rms_norm_eps", 1e-6));
  model.set_embedding(keys.Flag("tie_word_embeddings") ? pb::Model::TIED : pb::Model::UNTIED);
  if (keys.Has("head_dim") && keys.Size("head_dim") * model.heads() != model.hidden_size()) {
    keys.Fail(Bad("head_dim", "is not hidden_size / num_attention_heads"));
  }
  if (model.layers() > kMaxLayers) {
    keys.Fail(Bad("num_hidden_layers", absl::StrCat("is above ", kMaxLayers)));
  }
  RETURN_IF_ERROR(keys.status);
  // Checks what the keys mean together.
  StatusOr<pb::Model> resolved = ResolveModel(model, model.vocab_size());
  if (!resolved.ok()) return Annotate(resolved.status(), "config.json");
  return resolved;
}

std::vector<checkpoint::TensorSpec> TensorsOf(const pb::Model& model) {
  const int64_t hidden = model.hidden_size();
  const int64_t kv = hidden / model.heads() * model.kv_heads();
  std::vector<checkpoint::TensorSpec> tensors;
  int64_t at = 0;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
    int64_t size = 1;
    for (const int64_t dimension : shape) size *= dimension;
    tensors.push_back({name, std::move(shape), {at, at + size}});
    at += (size + kDigestBlock - 1) / kDigestBlock * kDigestBlock;
  };
  add("model.embed_tokens.weight", {model.vocab_size(), hidden});
  for (int64_t n = 0; n < model.layers(); ++n) {
    const std::string layer = absl::StrCat("model.layers.", n);
    add(layer + ".input_layernorm.weight", {hidden});
    add(layer + ".self_attn.q_proj.weight", {hidden, hidden});
    add(layer + ".self_attn.k_proj.weight", {kv, hidden});
    add(layer + ".self_attn.v_proj.weight", {kv, hidden});
    add(layer + ".self_attn.o_proj.weight", {hidden, hidden});
    add(layer + ".post_attention_layernorm.weight", {hidden});
    add(layer + ".mlp.gate_proj.weight", {model.intermediate_size(), hidden});
    add(layer + ".mlp.up_proj.weight", {model.intermediate_size(), hidden});
    add(layer + ".mlp.down_proj.weight", {hidden, model.intermediate_size()});
  }
  add("model.norm.weight", {hidden});
  if (model.embedding() != pb::Model::TIED) add("lm_head.weight", {model.vocab_size(), hidden});
  return tensors;
}

std::string ModelSection(const pb::Model& model) {
  return absl::StrCat(
      "model: {preset: \"\", vocab_size: ", model.vocab_size(),
      ", hidden_size: ", model.hidden_size(), ", intermediate_size: ", model.intermediate_size(),
      ", layers: ", model.layers(), ", heads: ", model.heads(), ", kv_heads: ", model.kv_heads(),
      ", rope_theta: ", json(model.rope_theta()).dump(),
      ", norm_epsilon: ", json(model.norm_epsilon()).dump(),
      ", embedding: ", model.embedding() == pb::Model::TIED ? "tied" : "untied", "}");
}

std::string BytesTokenizer() {
  // GPT-2's letters for bytes: printable ones stand for themselves, the others for 256 and above.
  json vocabulary = json::object();
  int beyond = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool itself =
        (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    const int letter = itself ? byte : beyond++;
    std::string text;
    if (letter < 0x80) {
      text.push_back(static_cast<char>(letter));
    } else {
      text.push_back(static_cast<char>(0xc0 | letter >> 6));
      text.push_back(static_cast<char>(0x80 | (letter & 0x3f)));
    }
    vocabulary[text] = byte;
  }
  const json level = {{"type", "ByteLevel"},
                      {"add_prefix_space", false},
                      {"trim_offsets", true},
                      {"use_regex", false}};
  Ordered tokenizer;
  tokenizer["version"] = "1.0";
  tokenizer["truncation"] = nullptr;
  tokenizer["padding"] = nullptr;
  tokenizer["added_tokens"] = Ordered::array();
  tokenizer["normalizer"] = nullptr;
  tokenizer["pre_tokenizer"] = level;
  tokenizer["post_processor"] = nullptr;
  tokenizer["decoder"] = level;
  tokenizer["model"] = {{"type", "BPE"},
                        {"dropout", nullptr},
                        {"unk_token", nullptr},
                        {"continuing_subword_prefix", nullptr},
                        {"end_of_word_suffix", nullptr},
                        {"fuse_unk", false},
                        {"byte_fallback", false},
                        {"vocab", vocabulary},
                        {"merges", json::array()}};
  return tokenizer.dump(2) + "\n";
}

}  // namespace atl
