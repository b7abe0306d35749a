// Token files, memory-mapped. Read as they are: ours (raw little-endian uint16 or uint32 with a
// JSON note beside it), nanoGPT's raw uint16, llm.c's .bin with its 1024-byte header, Megatron's
// .bin with .idx beside it (documents back to back). Everything is checked against the file's size
// before use. Immutable after Open; any thread may read.
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
  int64_t vocab_size =
      0;  // as noted, else the largest token of a sample of the file + 1 rounded up to 64
  int bytes_per_token = 0;
  int64_t documents = 0;     // 0: unknown
  uint64_t fingerprint = 0;  // of size, format and samples spread over the file: cheap, to see that
                             // two regions have the same data
};

class TokenFile {
 public:
  static StatusOr<std::unique_ptr<TokenFile>> Open(const std::string& path);
  virtual ~TokenFile() = default;
  virtual const TokenFileInfo& info() const = 0;
  // Tokens [offset, offset + out.size()); the range lies inside the file (checked).
  virtual void Read(int64_t offset, std::span<int32_t> out) const = 0;
};

// Writes tokens and the note beside them (path + ".json"), atomically: until Finish the path does
// not exist. uint16 if vocab_size fits, else uint32.
class TokenFileWriter {
 public:
  static StatusOr<std::unique_ptr<TokenFileWriter>> Create(const std::string& path,
                                                           const std::string& tokenizer,
                                                           int64_t vocab_size);
  virtual ~TokenFileWriter() = default;
  virtual Status Append(std::span<const int32_t> tokens) = 0;
  virtual Status EndDocument() = 0;
  virtual StatusOr<TokenFileInfo> Finish() = 0;
};

}  // namespace atl
