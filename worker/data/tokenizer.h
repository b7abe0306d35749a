// Text to tokens and back.
//
// "bytes": each byte is a token, vocabulary 256. "PATH.model": a sentencepiece model. Text is cut
// at line ends and each line is encoded on its own, its line end included, so that the result does
// not depend on how much is read at a time. A tokenizer is immutable; any thread may use it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/status.h"
#include "worker/data/token_file.h"

namespace atl {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  // What a token file's note says: "bytes", "sentencepiece:NAME.model".
  virtual std::string name() const = 0;
  virtual int64_t vocab_size() const = 0;
  // Appended after every document, if the tokenizer has such a token.
  virtual std::optional<int32_t> end_of_document() const = 0;
  // True if text may be cut anywhere, false if at line ends only.
  virtual bool cuts_anywhere() const = 0;
  // Appends the tokens of `text` to `ids`.
  virtual Status Encode(absl::string_view text, std::vector<int32_t>* ids) const = 0;
  // The text of `ids`; kInvalidArgument for one outside the vocabulary.
  virtual StatusOr<std::string> Decode(std::span<const int32_t> ids) const = 0;
};

// `spec`: "bytes" or the path of a sentencepiece model. Errors have exit code 2.
StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(const std::string& spec);

// Tokenizes text files, each a document, into one token file, in bounded memory. A line longer than
// 256 KiB is cut, between words where there are any. Errors: no such file, no text, output among
// the inputs (exit code 2).
StatusOr<TokenFileInfo> TokenizeFiles(const std::vector<std::string>& inputs,
                                      const std::string& spec, const std::string& output);

}  // namespace atl
