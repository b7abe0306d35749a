// See dataset.h.
//
// The permutation: Luby and Rackoff's balanced Feistel network over 2 x half_bits_ bits, the
// smallest even number of bits that holds [0, size); six rounds, each a keyed Mix64. Values that
// fall outside [0, size) are encrypted again until one falls inside (cycle walking; Black and
// Rogaway, "Ciphers with arbitrary finite domains", 2002): the domain is at most four times the
// size, so four steps on average, and since the network is a bijection, so is the walk.
#include "worker/data/dataset.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "base/random.h"

namespace atl {

Permutation::Permutation(int64_t size, uint64_t seed) : size_(size), half_bits_(1) {
  CHECK_GE(size, 1);
  while (half_bits_ < 31 && (int64_t{1} << (2 * half_bits_)) < size) ++half_bits_;
  if ((int64_t{1} << (2 * half_bits_)) < size) half_bits_ = 32;
  const CounterRandom random(seed);
  for (int round = 0; round < 6; ++round) keys_[round] = random.Bits(round);
}

int64_t Permutation::operator()(int64_t index) const {
  CHECK(index >= 0 && index < size_) << index << " of " << size_;
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  auto value = static_cast<uint64_t>(index);
  do {
    uint64_t left = value >> half_bits_;
    uint64_t right = value & mask;
    for (const uint64_t key : keys_) {
      const uint64_t next = left ^ (Mix64(right + key) & mask);
      left = right;
      right = next;
    }
    value = left << half_bits_ | right;
  } while (value >= static_cast<uint64_t>(size_));
  return static_cast<int64_t>(value);
}

StatusOr<std::unique_ptr<Dataset>> Dataset::Open(const pb::Data& data, uint64_t seed) {
  if (data.tokens().empty()) {
    return UsageError(
        "data.tokens is empty: name a token file; make one with: atoll data tokenize --input TEXT "
        "--tokenizer bytes --output tokens.bin");
  }
  const int64_t length = data.sequence_length();
  if (length < 1) return UsageError("data.sequence_length: at least 1 token");
  std::unique_ptr<Dataset> set(new Dataset());
  set->seed_ = seed;
  set->sequence_length_ = length;
  ASSIGN_OR_RETURN(set->tokens_, TokenFile::Open(data.tokens()));
  const int64_t tokens = set->tokens_->info().tokens;

  int64_t held_out = 0;
  if (data.validation_tokens().empty()) {
    const double share = std::clamp(data.validation_fraction(), 0.0, 1.0);
    held_out = std::max<int64_t>(
        length + 1, static_cast<int64_t>(std::floor(static_cast<double>(tokens) * share)));
    set->validation_begin_ = tokens - held_out;
  } else {
    StatusOr<std::unique_ptr<TokenFile>> opened = TokenFile::Open(data.validation_tokens());
    if (!opened.ok()) return Annotate(opened.status(), "data.validation_tokens");
    set->validation_ = *std::move(opened);
    held_out = set->validation_->info().tokens;
    if (held_out < length + 1) {
      return UsageError(absl::StrCat("data.validation_tokens: ", data.validation_tokens(), " has ",
                                     held_out, " tokens, one sample of data.sequence_length ",
                                     length, " needs ", length + 1));
    }
  }
  const int64_t training = set->validation_ ? tokens : set->validation_begin_;
  if (training < length + 1) {
    const int64_t needed = set->validation_ ? length + 1 : 2 * (length + 1);
    return UsageError(
        absl::StrCat("data.tokens: ", data.tokens(), " has ", tokens, " tokens, of which ",
                     std::max<int64_t>(training, 0), " are for training; data.sequence_length ",
                     length, " needs at least ", needed, " for one training ",
                     set->validation_ ? "sample" : "and one held-out sample",
                     ". Use more text, a shorter sequence or a smaller data.validation_fraction"));
  }
  set->training_samples_ = (training - 1) / length;
  set->validation_samples_ = (held_out - 1) / length;
  return set;
}

int64_t Dataset::vocab_size() const {
  return std::max(tokens_->info().vocab_size, validation_ ? validation_->info().vocab_size : 0);
}

uint64_t Dataset::fingerprint() const {
  uint64_t hash = Mix64(tokens_->info().fingerprint + static_cast<uint64_t>(sequence_length_));
  hash = Mix64(hash + static_cast<uint64_t>(validation_begin_));
  return validation_ ? Mix64(hash + validation_->info().fingerprint) : hash;
}

Status Dataset::TrainingSample(int64_t index, std::span<int32_t> out) const {
  CHECK_GE(index, 0);
  const int64_t epoch = index / training_samples_;
  const Permutation permutation(training_samples_,
                                DeriveSeed(seed_, absl::StrCat("data:epoch:", epoch)));
  const int64_t sample = permutation(index % training_samples_);
  return ReadChecked(*tokens_, sample * sequence_length_, out);
}

Status Dataset::ValidationSample(int64_t index, std::span<int32_t> out) const {
  CHECK(index >= 0 && index < validation_samples_) << index << " of " << validation_samples_;
  return ReadChecked(validation_ ? *validation_ : *tokens_,
                     validation_begin_ + index * sequence_length_, out);
}

Status Dataset::ReadChecked(const TokenFile& file, int64_t offset, std::span<int32_t> out) const {
  CHECK_EQ(static_cast<int64_t>(out.size()), sequence_length_ + 1);
  file.Read(offset, out);
  const int64_t vocabulary = vocab_size();
  for (size_t i = 0; i < out.size(); ++i) {
    if (out[i] < 0 || out[i] >= vocabulary) {
      return WithExitCode(
          absl::DataLossError(absl::StrCat(
              "data.tokens: ", file.info().path, " has ", out[i], " as token ",
              offset + static_cast<int64_t>(i), ", outside its vocabulary of ", vocabulary,
              ": the file is damaged, or, without a note, its vocabulary was guessed too small "
              "(docs/formats/token-files.md says how to write the note)")),
          ExitCode::kUsage);
    }
  }
  return OkStatus();
}

}  // namespace atl
