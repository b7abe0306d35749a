// Where the tokens of a file lie: recognises the format from the file's bytes and what is beside
// it, and checks everything against the sizes, without touching the file system.
//
// In this order: a note beside it (ours), an index beside it (Megatron), llm.c's header, else
// nanoGPT's raw uint16. Pure; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"

namespace atl {

enum class TokenType { kUint8, kInt8, kInt16, kUint16, kInt32, kUint32, kInt64 };
int BytesPerToken(TokenType type);

// Tokens from number first_token up to the next extent's lie back to back from byte_offset.
struct TokenExtent {
  int64_t first_token = 0;
  int64_t byte_offset = 0;
};

struct TokenLayout {
  std::string format;
  std::string tokenizer;
  TokenType type = TokenType::kUint16;
  int64_t tokens = 0;
  int64_t vocab_size = 0;  // 0: not noted
  int64_t documents = 0;   // 0: unknown
  // Ascending, not empty ones, the first at token 0; every token of every extent is inside the
  // file. Empty if there are no tokens.
  std::vector<TokenExtent> extents;
};

// Where Megatron's index of a token file would be: NAME.idx for NAME.bin, else PATH.idx.
std::string IndexPath(const std::string& token_path);

struct TokenFileParts {
  std::string path;  // for messages
  std::span<const uint8_t> file;
  std::optional<std::string> note;                // contents of PATH.json
  std::optional<std::span<const uint8_t>> index;  // of IndexPath(path)
};

// Errors have exit code 2 and say what is wrong with which file.
StatusOr<TokenLayout> ParseTokenLayout(const TokenFileParts& parts);

// Tokens [offset, offset + out.size()), which lie inside the layout (checked). A value that int32
// does not hold is read as -1.
void ReadTokens(const TokenLayout& layout, std::span<const uint8_t> file, int64_t offset,
                std::span<int32_t> out);

}  // namespace atl
