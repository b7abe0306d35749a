// See token_file.h. Opening: 1. map the file; 2. read what is beside it; 3. check the layout
// (token_layout.h); 4. where no note says it, find the vocabulary in the tokens; 5. fingerprint.
#include "worker/data/token_file.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/random.h"
#include "worker/data/mapped_file.h"
#include "worker/data/token_layout.h"
#include "worker/data/token_note.h"

namespace atl {
namespace {

constexpr int64_t kBlockTokens = 64 << 10;      // read at a time while looking for the vocabulary
constexpr int64_t kScanWholeBytes = 256 << 20;  // a larger file is sampled
constexpr int64_t kSampledBlocks = 1024;        // of kBlockTokens
constexpr int64_t kFingerprintBlocks = 64;      // of kFingerprintTokens
constexpr int64_t kFingerprintTokens = 256;
constexpr int64_t kVocabularyMultiple = 64;

// Calls visit(offset, tokens) for `blocks` blocks spread evenly over the file, the first and the
// last tokens among them; for all of it if they would overlap.
template <typename Visit>
void VisitBlocks(const TokenLayout& layout, std::span<const uint8_t> file, int64_t blocks,
                 int64_t block_tokens, Visit visit) {
  std::vector<int32_t> buffer(static_cast<size_t>(std::min(block_tokens, layout.tokens)));
  const int64_t whole = (layout.tokens + block_tokens - 1) / block_tokens;
  const bool all = whole <= blocks;
  const int64_t count = all ? whole : blocks;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t last = layout.tokens - block_tokens;
    // As a double: i * last may not fit into 64 bits; a rounded place is as good.
    const int64_t offset =
        all ? i * block_tokens
            : std::min(last,
                       static_cast<int64_t>(static_cast<double>(last) * static_cast<double>(i) /
                                            static_cast<double>(count - 1)));
    const int64_t take = std::min(block_tokens, layout.tokens - offset);
    const std::span<int32_t> tokens(buffer.data(), static_cast<size_t>(take));
    ReadTokens(layout, file, offset, tokens);
    visit(offset, tokens);
  }
}

StatusOr<int64_t> GuessVocabulary(const TokenLayout& layout, std::span<const uint8_t> file,
                                  const std::string& path) {
  const bool whole = static_cast<int64_t>(file.size()) <= kScanWholeBytes;
  const int64_t blocks = whole ? layout.tokens / kBlockTokens + 1 : kSampledBlocks;
  int32_t largest = 0;
  int32_t smallest = 0;
  VisitBlocks(layout, file, blocks, kBlockTokens, [&](int64_t, std::span<const int32_t> tokens) {
    for (const int32_t token : tokens) {
      largest = std::max(largest, token);
      smallest = std::min(smallest, token);
    }
  });
  if (smallest < 0) {
    return UsageError(
        absl::StrCat("data.tokens: ", path, " (read as ", layout.format,
                     ") holds numbers that are no tokens: below 0 or above 2^31 - 1"));
  }
  return (int64_t{largest} / kVocabularyMultiple + 1) * kVocabularyMultiple;
}

uint64_t Fingerprint(const TokenLayout& layout, std::span<const uint8_t> file) {
  uint64_t hash = DeriveSeed(static_cast<uint64_t>(layout.tokens), layout.format);
  VisitBlocks(layout, file, kFingerprintBlocks, kFingerprintTokens,
              [&](int64_t offset, std::span<const int32_t> tokens) {
                hash = Mix64(hash ^ static_cast<uint64_t>(offset));
                for (const int32_t token : tokens) {
                  hash = Mix64(hash + static_cast<uint32_t>(token));
                }
              });
  return hash;
}

class MappedTokenFile : public TokenFile {
 public:
  MappedTokenFile(MappedFile file, TokenLayout layout, TokenFileInfo info)
      : file_(std::move(file)), layout_(std::move(layout)), info_(std::move(info)) {}

  const TokenFileInfo& info() const override { return info_; }
  void Read(int64_t offset, std::span<int32_t> out) const override {
    ReadTokens(layout_, file_.bytes(), offset, out);
  }

 private:
  const MappedFile file_;
  const TokenLayout layout_;
  const TokenFileInfo info_;
};

bool Exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

// Megatron's tools take the prefix that .bin and .idx share; so does Open.
std::string WithMegatronPrefix(const std::string& path) {
  const std::string bin = path + ".bin";
  return !Exists(path) && Exists(bin) && Exists(IndexPath(bin)) ? bin : path;
}

}  // namespace

StatusOr<std::unique_ptr<TokenFile>> TokenFile::Open(const std::string& given) {
  const std::string path = WithMegatronPrefix(given);
  StatusOr<MappedFile> file = MappedFile::Open(path);
  if (absl::IsNotFound(file.status())) {
    return UsageError(absl::StrCat("data.tokens: no such file ", path,
                                   "; make one with: atoll data tokenize --input TEXT --tokenizer "
                                   "bytes --output ",
                                   path));
  }
  if (!file.ok()) return Annotate(file.status(), "data.tokens");

  TokenFileParts parts;
  parts.path = path;
  parts.file = file->bytes();
  if (Exists(NotePath(path))) {
    ASSIGN_OR_RETURN(parts.note, ReadFile(NotePath(path), kMaxNoteBytes));
  }
  MappedFile index;
  if (!parts.note && IndexPath(path) != path && Exists(IndexPath(path))) {
    ASSIGN_OR_RETURN(index, MappedFile::Open(IndexPath(path)));
    parts.index = index.bytes();
  }
  ASSIGN_OR_RETURN(TokenLayout layout, ParseTokenLayout(parts));

  TokenFileInfo info;
  info.path = path;
  info.format = layout.format;
  info.tokenizer = layout.tokenizer;
  info.tokens = layout.tokens;
  info.bytes_per_token = BytesPerToken(layout.type);
  info.documents = layout.documents;
  info.vocab_size = layout.vocab_size;
  if (info.vocab_size == 0) {
    ASSIGN_OR_RETURN(info.vocab_size, GuessVocabulary(layout, parts.file, path));
  }
  info.fingerprint = Fingerprint(layout, parts.file);
  return std::make_unique<MappedTokenFile>(*std::move(file), std::move(layout), std::move(info));
}

}  // namespace atl
