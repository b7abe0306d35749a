// The LLaMA decoder once more, as naive loops in double precision, written from the formulas and
// not from the module: what the trainer's logits, losses and gradients are held against. Slow by
// design; for models of a few thousand parameters.
#pragma once

#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "proto/job.pb.h"

namespace atl {

class ReferenceDecoder {
 public:
  using Row = std::vector<double>;
  using Rows = std::vector<Row>;

  explicit ReferenceDecoder(const pb::Model& model) : model_(model) {}

  // Parameters by Hugging Face name, row-major.
  std::map<std::string, std::vector<double>> parameters;

  // Scores of the next token at each place of one sample.
  Rows Logits(const std::vector<int32_t>& tokens) const {
    Rows hidden;
    for (const int32_t token : tokens) {
      const auto row =
          parameters.at("model.embed_tokens.weight").begin() + token * model_.hidden_size();
      hidden.emplace_back(row, row + model_.hidden_size());
    }
    for (int64_t n = 0; n < model_.layers(); ++n) {
      const std::string layer = "model.layers." + std::to_string(n) + ".";
      Add(hidden, Attention(Norm(hidden, layer + "input_layernorm.weight"), layer + "self_attn."));
      Add(hidden, Mlp(Norm(hidden, layer + "post_attention_layernorm.weight"), layer + "mlp."));
    }
    hidden = Norm(hidden, "model.norm.weight");
    return Times(hidden, model_.embedding() == pb::Model::TIED ? "model.embed_tokens.weight"
                                                               : "lm_head.weight");
  }

  // Sum of the cross entropies of `batch` samples of sequence + 1 tokens.
  double LossSum(const std::vector<int32_t>& tokens, int64_t batch, int64_t sequence) const {
    double sum = 0;
    for (int64_t b = 0; b < batch; ++b) {
      const auto begin = tokens.begin() + b * (sequence + 1);
      const Rows logits = Logits({begin, begin + sequence});
      for (int64_t t = 0; t < sequence; ++t) {
        double total = 0;
        for (const double logit : logits[t]) total += std::exp(logit);
        sum += std::log(total) - logits[t][begin[t + 1]];
      }
    }
    return sum;
  }

 private:
  static void Add(Rows& to, const Rows& more) {
    for (size_t t = 0; t < to.size(); ++t) {
      for (size_t i = 0; i < to[t].size(); ++i) to[t][i] += more[t][i];
    }
  }

  // Each row times the transposed matrix [out, in].
  Rows Times(const Rows& rows, const std::string& name) const {
    const std::vector<double>& weight = parameters.at(name);
    const size_t in = rows[0].size();
    Rows result(rows.size(), Row(weight.size() / in));
    for (size_t t = 0; t < rows.size(); ++t) {
      for (size_t o = 0; o < result[t].size(); ++o) {
        for (size_t i = 0; i < in; ++i) result[t][o] += rows[t][i] * weight[o * in + i];
      }
    }
    return result;
  }

  Rows Norm(const Rows& rows, const std::string& name) const {
    const std::vector<double>& weight = parameters.at(name);
    Rows result = rows;
    for (Row& row : result) {
      double squares = 0;
      for (const double x : row) squares += x * x;
      const double root =
          std::sqrt(squares / static_cast<double>(row.size()) + model_.norm_epsilon());
      for (size_t i = 0; i < row.size(); ++i) row[i] = row[i] / root * weight[i];
    }
    return result;
  }

  // Turns (x[i], x[i + half]) of a head at place t by t theta^(-i / half).
  void Rotate(double* head, int64_t size, int64_t place) const {
    const int64_t half = size / 2;
    for (int64_t i = 0; i < half; ++i) {
      const double angle =
          static_cast<double>(place) *
          std::pow(model_.rope_theta(), -static_cast<double>(i) / static_cast<double>(half));
      const double x = head[i];
      const double y = head[i + half];
      head[i] = x * std::cos(angle) - y * std::sin(angle);
      head[i + half] = y * std::cos(angle) + x * std::sin(angle);
    }
  }

  Rows Attention(const Rows& rows, const std::string& prefix) const {
    const int64_t size = model_.hidden_size() / model_.heads();
    Rows query = Times(rows, prefix + "q_proj.weight");
    Rows key = Times(rows, prefix + "k_proj.weight");
    const Rows value = Times(rows, prefix + "v_proj.weight");
    for (size_t t = 0; t < rows.size(); ++t) {
      for (int64_t h = 0; h < model_.heads(); ++h) Rotate(&query[t][h * size], size, t);
      for (int64_t h = 0; h < model_.kv_heads(); ++h) Rotate(&key[t][h * size], size, t);
    }
    Rows mixed(rows.size(), Row(model_.hidden_size()));
    for (int64_t h = 0; h < model_.heads(); ++h) {
      const int64_t shared = h / (model_.heads() / model_.kv_heads());
      for (size_t t = 0; t < rows.size(); ++t) {
        Row shares(t + 1);
        double total = 0;
        for (size_t s = 0; s <= t; ++s) {
          double score = 0;
          for (int64_t i = 0; i < size; ++i) {
            score += query[t][h * size + i] * key[s][shared * size + i];
          }
          shares[s] = std::exp(score / std::sqrt(static_cast<double>(size)));
          total += shares[s];
        }
        for (size_t s = 0; s <= t; ++s) {
          for (int64_t i = 0; i < size; ++i) {
            mixed[t][h * size + i] += shares[s] / total * value[s][shared * size + i];
          }
        }
      }
    }
    return Times(mixed, prefix + "o_proj.weight");
  }

  Rows Mlp(const Rows& rows, const std::string& prefix) const {
    Rows gate = Times(rows, prefix + "gate_proj.weight");
    const Rows up = Times(rows, prefix + "up_proj.weight");
    for (size_t t = 0; t < rows.size(); ++t) {
      for (size_t i = 0; i < gate[t].size(); ++i) {
        gate[t][i] = gate[t][i] / (1.0 + std::exp(-gate[t][i])) * up[t][i];
      }
    }
    return Times(gate, prefix + "down_proj.weight");
  }

  const pb::Model model_;
};

}  // namespace atl
