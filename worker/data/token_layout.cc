// See token_layout.h.
#include "worker/data/token_layout.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "worker/data/megatron_index.h"
#include "worker/data/token_note.h"

namespace atl {
namespace {

static_assert(std::endian::native == std::endian::little, "token files are little-endian");

// llm.c, dev/data/data_common.py: 256 int32, of which magic, version and token count are used.
constexpr int64_t kLlmcHeaderBytes = 1024;
constexpr int32_t kLlmcGpt2Magic = 20240520;    // version 1, uint16
constexpr int32_t kLlmcLlama3Magic = 20240801;  // version 7, uint32
constexpr int32_t kLlmcEvalMagic = 20240522;

Status Bad(const std::string& path, const std::string& what) {
  return UsageError(absl::StrCat("data.tokens: ", path, " ", what));
}

int32_t HeaderWord(std::span<const uint8_t> file, int index) {
  int32_t value = 0;
  std::memcpy(&value, file.data() + 4 * index, 4);
  return value;
}

bool HasLlmcMagic(std::span<const uint8_t> file) {
  if (file.size() < kLlmcHeaderBytes) return false;
  const int32_t magic = HeaderWord(file, 0);
  return magic == kLlmcGpt2Magic || magic == kLlmcLlama3Magic || magic == kLlmcEvalMagic;
}

StatusOr<TokenLayout> LlmcLayout(const TokenFileParts& parts) {
  const int32_t magic = HeaderWord(parts.file, 0);
  const int32_t version = HeaderWord(parts.file, 1);
  const int64_t tokens = HeaderWord(parts.file, 2);
  if (magic == kLlmcEvalMagic) {
    return Bad(parts.path, "is an evaluation set of llm.c, not a token file");
  }
  const int32_t known = magic == kLlmcGpt2Magic ? 1 : 7;
  if (version != known) {
    return Bad(parts.path, absl::StrCat("has llm.c's header, version ", version, "; version ",
                                        known, " is known for its magic number ", magic));
  }
  TokenLayout layout;
  layout.format = "llm.c";
  layout.type = magic == kLlmcGpt2Magic ? TokenType::kUint16 : TokenType::kUint32;
  const int64_t data_bytes = static_cast<int64_t>(parts.file.size()) - kLlmcHeaderBytes;
  if (tokens < 0 || data_bytes != tokens * BytesPerToken(layout.type)) {
    return Bad(parts.path,
               absl::StrCat("names ", tokens, " tokens in llm.c's header but has ", data_bytes,
                            " bytes behind it: it is cut short or damaged"));
  }
  layout.tokens = tokens;
  if (tokens > 0) layout.extents = {{0, kLlmcHeaderBytes}};
  return layout;
}

StatusOr<TokenLayout> NotedLayout(const TokenFileParts& parts) {
  ASSIGN_OR_RETURN(const TokenNote note, ParseNote(*parts.note, NotePath(parts.path)));
  TokenLayout layout;
  layout.format = "atoll";
  layout.type = note.type;
  layout.tokenizer = note.tokenizer;
  layout.vocab_size = note.vocab_size;
  layout.documents = note.documents;
  layout.tokens = note.tokens;
  const auto size = static_cast<int64_t>(parts.file.size());
  const int width = BytesPerToken(note.type);
  if (size % width != 0 || size / width != note.tokens) {
    return Bad(parts.path,
               absl::StrCat("has ", size, " bytes but its note ", NotePath(parts.path), " names ",
                            note.tokens, " tokens of ", width,
                            " bytes: one of the two is from another run or cut short; make both "
                            "again with: atoll data tokenize"));
  }
  if (note.tokens > 0) layout.extents = {{0, 0}};
  return layout;
}

StatusOr<TokenLayout> RawLayout(const TokenFileParts& parts) {
  const auto size = static_cast<int64_t>(parts.file.size());
  if (size >= 9 && std::memcmp(parts.file.data(), "MMIDIDX\0", 9) == 0) {
    return Bad(parts.path, "is a Megatron index; name the .bin beside it");
  }
  if (size % 2 != 0) {
    return Bad(parts.path, absl::StrCat("has ", size,
                                        " bytes, an odd number: without a note or an index beside "
                                        "it, it must be raw uint16 tokens. If it is text: atoll "
                                        "data tokenize --input ",
                                        parts.path, " --tokenizer bytes --output tokens.bin"));
  }
  TokenLayout layout;
  layout.format = "nanogpt";
  layout.type = TokenType::kUint16;
  layout.tokens = size / 2;
  if (size > 0) layout.extents = {{0, 0}};
  return layout;
}

template <typename T>
void Convert(const uint8_t* from, std::span<int32_t> out) {
  for (size_t i = 0; i < out.size(); ++i) {
    T value;
    std::memcpy(&value, from + i * sizeof(T), sizeof(T));
    if constexpr (sizeof(T) < 4 || std::is_same_v<T, int32_t>) {
      out[i] = static_cast<int32_t>(value);
    } else {
      const bool fits = value >= 0 && value <= std::numeric_limits<int32_t>::max();
      out[i] = fits ? static_cast<int32_t>(value) : -1;
    }
  }
}

void ConvertFrom(TokenType type, const uint8_t* from, std::span<int32_t> out) {
  switch (type) {
    case TokenType::kUint8:
      return Convert<uint8_t>(from, out);
    case TokenType::kInt8:
      return Convert<int8_t>(from, out);
    case TokenType::kInt16:
      return Convert<int16_t>(from, out);
    case TokenType::kUint16:
      return Convert<uint16_t>(from, out);
    case TokenType::kInt32:
      return Convert<int32_t>(from, out);
    case TokenType::kUint32:
      return Convert<uint32_t>(from, out);
    case TokenType::kInt64:
      return Convert<int64_t>(from, out);
  }
}

}  // namespace

int BytesPerToken(TokenType type) {
  switch (type) {
    case TokenType::kUint8:
    case TokenType::kInt8:
      return 1;
    case TokenType::kInt16:
    case TokenType::kUint16:
      return 2;
    case TokenType::kInt32:
    case TokenType::kUint32:
      return 4;
    case TokenType::kInt64:
      return 8;
  }
  return 0;
}

std::string IndexPath(const std::string& token_path) {
  return absl::StrCat(absl::StripSuffix(token_path, ".bin"), ".idx");
}

StatusOr<TokenLayout> ParseTokenLayout(const TokenFileParts& parts) {
  StatusOr<TokenLayout> layout = [&]() -> StatusOr<TokenLayout> {
    if (parts.note) return NotedLayout(parts);
    if (parts.index) {
      return ParseMegatronIndex(*parts.index, static_cast<int64_t>(parts.file.size()),
                                IndexPath(parts.path));
    }
    if (HasLlmcMagic(parts.file)) return LlmcLayout(parts);
    return RawLayout(parts);
  }();
  if (layout.ok() && layout->tokens == 0) return Bad(parts.path, "holds no tokens");
  return layout;
}

void ReadTokens(const TokenLayout& layout, std::span<const uint8_t> file, int64_t offset,
                std::span<int32_t> out) {
  const auto count = static_cast<int64_t>(out.size());
  CHECK(offset >= 0 && count <= layout.tokens && offset <= layout.tokens - count)
      << "tokens [" << offset << ", +" << count << ") of " << layout.tokens;
  if (count == 0) return;
  const auto& extents = layout.extents;
  auto extent =
      std::upper_bound(extents.begin(), extents.end(), offset,
                       [](int64_t token, const TokenExtent& e) { return token < e.first_token; }) -
      1;
  const int width = BytesPerToken(layout.type);
  while (!out.empty()) {
    const auto next = extent + 1;
    const int64_t end = next == extents.end() ? layout.tokens : next->first_token;
    const auto take =
        static_cast<size_t>(std::min<int64_t>(static_cast<int64_t>(out.size()), end - offset));
    const int64_t byte = extent->byte_offset + (offset - extent->first_token) * width;
    ConvertFrom(layout.type, file.data() + byte, out.first(take));
    offset += static_cast<int64_t>(take);
    out = out.subspan(take);
    extent = next;
  }
}

}  // namespace atl
