// The JSON note beside a token file of ours (PATH.json), which makes raw numbers a token file with
// a known vocabulary. docs/formats/token-files.md describes it. Pure; any thread.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"
#include "worker/data/token_layout.h"

namespace atl {

inline constexpr int64_t kMaxNoteBytes = 64 << 10;
inline constexpr int64_t kMaxVocabulary = int64_t{1} << 31;  // tokens are read as int32

struct TokenNote {
  TokenType type = TokenType::kUint16;  // or kUint32
  int64_t vocab_size = 0;
  int64_t tokens = 0;
  int64_t documents = 0;  // 0: unknown
  std::string tokenizer;  // empty: unknown
};

std::string NotePath(const std::string& token_path);
std::string FormatNote(const TokenNote& note);
// `path`: of the note, for messages. Unknown keys are ignored, so that later versions may add some.
StatusOr<TokenNote> ParseNote(const std::string& text, const std::string& path);

}  // namespace atl
