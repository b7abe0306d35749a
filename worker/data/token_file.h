// Token files, memory-mapped. Read as they are: ours (raw little-endian uint16 or uint32 with a
// JSON note beside it), nanoGPT's raw uint16, llm.c's .bin with its 1024-byte header, Megatron's
// .bin with .idx beside it (documents back to back). Everything is checked against the file's size
// before use (token_layout.h). Immutable after Open; any thread may read. Formats:
// docs/formats/token-files.md.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/status.h"

namespace atl {

struct TokenFileInfo {
  std::string path;
  std::string format;     // "atoll", "nanogpt", "llm.c", "megatron"
  std::string tokenizer;  // as noted when it was made; empty if unknown
  int64_t tokens = 0;
  // As noted, else the largest token + 1 rounded up to 64: of the whole file up to 256 MiB, of
  // samples spread over a larger one.
  int64_t vocab_size = 0;
  int bytes_per_token = 0;
  int64_t documents = 0;     // 0: unknown
  uint64_t fingerprint = 0;  // of size, format and samples spread over the file: cheap, to see that
                             // two regions have the same data
};

class TokenFile {
 public:
  // `path`: the file, or Megatron's prefix without ".bin". Errors: missing, malformed or empty
  // (exit code 2), unreadable (4).
  static StatusOr<std::unique_ptr<TokenFile>> Open(const std::string& path);
  virtual ~TokenFile() = default;
  virtual const TokenFileInfo& info() const = 0;
  // Tokens [offset, offset + out.size()); the range lies inside the file (checked). A value that
  // int32 does not hold is read as -1.
  virtual void Read(int64_t offset, std::span<int32_t> out) const = 0;
};

// Writes tokens and the note beside them (path + ".json"), atomically: until Finish the path is as
// it was before. uint16 if vocab_size fits, else uint32. Makes missing directories. One thread.
class TokenFileWriter {
 public:
  static StatusOr<std::unique_ptr<TokenFileWriter>> Create(const std::string& path,
                                                           const std::string& tokenizer,
                                                           int64_t vocab_size);
  // Without Finish: leaves nothing behind.
  virtual ~TokenFileWriter() = default;
  // kInvalidArgument for a token outside [0, vocab_size).
  virtual Status Append(std::span<const int32_t> tokens) = 0;
  virtual Status EndDocument() = 0;
  // An error if nothing was appended. Call once, last.
  virtual StatusOr<TokenFileInfo> Finish() = 0;
};

}  // namespace atl
