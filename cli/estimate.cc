#include "cli/estimate.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "base/log.h"
#include "collectives/codec/codec.h"
#include "proto/model_presets.h"

namespace atl {
namespace {

constexpr double kFp32Bytes = 4;

double ActivationBytes(const pb::Job& job, const pb::Model& model, int regions, int workers) {
  const double share =
      std::ceil(static_cast<double>(job.train().global_batch()) / regions / workers);
  const double batch = std::min<double>(static_cast<double>(job.train().micro_batch()), share);
  const double sequence = static_cast<double>(job.data().sequence_length());
  const double hidden = static_cast<double>(model.hidden_size());
  const double key_value = hidden * model.kv_heads() / std::max<int64_t>(model.heads(), 1);
  const double layer =
      8 * hidden + 3 * key_value + 4.0 * model.intermediate_size() + 2.0 * model.heads() * sequence;
  const double layers = static_cast<double>(model.layers());
  const double kept =
      job.train().activation_checkpointing() ? layers * hidden + layer : layers * layer;
  return kFp32Bytes * batch * sequence * (kept + 3.0 * model.vocab_size());
}

// Bytes of a number in a codec beside those of fp32.
double EncodedShare(pb::Sync::Codec codec) {
  constexpr size_t kNumbers = 256;
  const auto known = CodecNamed(absl::AsciiStrToLower(pb::Sync::Codec_Name(codec)));
  const size_t bytes = EncodedSize(known.value_or(Codec::kFp32), kNumbers);
  return static_cast<double>(bytes) / (kNumbers * kFp32Bytes);
}

}  // namespace

JobEstimate EstimateJob(const pb::Job& job, const pb::Model& model, int regions, int workers) {
  CHECK(regions >= 1 && workers >= 1);
  const bool diloco = job.sync().method() == pb::Sync::DILOCO;
  JobEstimate estimate;
  estimate.parameters = ParameterCount(model);
  const double vector_bytes = kFp32Bytes * static_cast<double>(estimate.parameters);

  estimate.steps_per_round = diloco ? job.train().inner_steps() : 1;
  estimate.tokens_per_round = static_cast<double>(job.train().global_batch()) *
                              static_cast<double>(job.data().sequence_length()) *
                              static_cast<double>(estimate.steps_per_round);
  estimate.tokens_total = estimate.tokens_per_round * static_cast<double>(job.train().rounds());
  estimate.flops_total =
      estimate.tokens_total * TrainFlopsPerToken(model, job.data().sequence_length());

  estimate.parameter_bytes = vector_bytes;
  estimate.gradient_bytes = vector_bytes;
  estimate.optimizer_bytes = 2 * vector_bytes / workers;
  estimate.outer_bytes = diloco ? 2 * vector_bytes / workers : 0;
  estimate.exchange_bytes = regions > 1 ? 2 * vector_bytes / workers : 0;
  estimate.activation_bytes = ActivationBytes(job, model, regions, workers);
  estimate.memory_bytes = estimate.parameter_bytes + estimate.gradient_bytes +
                          estimate.optimizer_bytes + estimate.outer_bytes +
                          estimate.exchange_bytes + estimate.activation_bytes;

  estimate.checkpoint_bytes = vector_bytes * (diloco ? 4 : 3);
  const double encoded = vector_bytes * EncodedShare(job.sync().codec());
  estimate.wan_bytes_sent_per_round = 2.0 * (regions - 1) / regions * encoded;
  return estimate;
}

}  // namespace atl
