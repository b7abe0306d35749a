// Samples of a job: which tokens sample number i is.
//
// The training part of the token file is cut into S samples of sequence_length + 1 tokens that
// begin every sequence_length tokens. The job's stream of samples is endless: number i belongs to
// epoch i / S and is the permuted (i mod S)-th sample of the file; each epoch has its own
// permutation. The permutation is a format-preserving cipher over [0, S) (a Feistel network with
// cycle walking), so it needs no memory and any worker can ask for any i. Immutable; any thread may
// read.
//
// Held out: all of data.validation_tokens, else the last data.validation_fraction of the tokens, at
// least one sample. Training samples never reach into it: the last training sample's last target is
// the token before it at the latest.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/status.h"
#include "proto/job.pb.h"
#include "worker/data/token_file.h"

namespace atl {

// A bijection of [0, size) chosen by a seed, size >= 1.
class Permutation {
 public:
  Permutation(int64_t size, uint64_t seed);
  // index in [0, size).
  int64_t operator()(int64_t index) const;

 private:
  int64_t size_;
  int half_bits_;
  uint64_t keys_[6];
};

class Dataset {
 public:
  // `data` with every default filled in. Errors (exit code 2): file missing or malformed, too short
  // for one training and one held-out sample.
  static StatusOr<std::unique_ptr<Dataset>> Open(const pb::Data& data, uint64_t seed);

  int64_t sequence_length() const { return sequence_length_; }
  // Of the training and the held-out tokens.
  int64_t vocab_size() const;
  int64_t training_samples() const { return training_samples_; }  // in an epoch
  int64_t validation_samples() const { return validation_samples_; }
  // Equal for two regions that would train and evaluate on the same samples.
  uint64_t fingerprint() const;
  const TokenFileInfo& info() const { return tokens_->info(); }

  // Sample `index` >= 0 of the stream: sequence_length + 1 tokens into `out`. kDataLoss if the file
  // holds a token outside the vocabulary there (a model would read beyond its embedding).
  Status TrainingSample(int64_t index, std::span<int32_t> out) const;
  // Held-out sample `index` of [0, validation_samples()), in file order, spread evenly over the
  // held-out part by the caller's choice of index.
  Status ValidationSample(int64_t index, std::span<int32_t> out) const;

 private:
  Dataset() = default;
  Status ReadChecked(const TokenFile& file, int64_t offset, std::span<int32_t> out) const;

  std::unique_ptr<TokenFile> tokens_;
  std::unique_ptr<TokenFile> validation_;  // null: the end of tokens_
  uint64_t seed_ = 0;
  int64_t sequence_length_ = 0;
  int64_t training_samples_ = 0;
  int64_t validation_samples_ = 0;
  int64_t validation_begin_ = 0;  // token where the held-out part begins
};

}  // namespace atl
