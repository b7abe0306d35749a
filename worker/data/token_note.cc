// See token_note.h.
#include "worker/data/token_note.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"

namespace atl {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kFormat[] = "atoll-tokens";
constexpr int64_t kVersion = 1;

Status Bad(const std::string& path, const std::string& what) {
  return UsageError(absl::StrCat("data.tokens: the note ", path, " ", what));
}

// A whole number in [min, max], or an error that names the key.
StatusOr<int64_t> Number(const Json& note, const char* key, int64_t min, int64_t max,
                         const std::string& path) {
  const auto at = note.find(key);
  if (at == note.end()) return Bad(path, absl::StrCat("lacks '", key, "'"));
  // Unsigned values above INT64_MAX would wrap when read as int64.
  const bool too_large = at->is_number_unsigned() && at->get<uint64_t>() > uint64_t{INT64_MAX};
  if (!at->is_number_integer() || too_large || at->get<int64_t>() < min ||
      at->get<int64_t>() > max) {
    return Bad(path, absl::StrCat("says '", key,
                                  "': ", at->dump(-1, ' ', true, Json::error_handler_t::replace),
                                  "; a whole number from ", min, " to ", max, " is expected"));
  }
  return at->get<int64_t>();
}

std::string Text(const Json& note, const char* key) {
  const auto at = note.find(key);
  return at != note.end() && at->is_string() ? at->get<std::string>() : std::string();
}

}  // namespace

std::string NotePath(const std::string& token_path) { return token_path + ".json"; }

std::string FormatNote(const TokenNote& note) {
  Json json;
  json["format"] = kFormat;
  json["version"] = kVersion;
  json["dtype"] = note.type == TokenType::kUint16 ? "uint16" : "uint32";
  json["vocab_size"] = note.vocab_size;
  json["tokenizer"] = note.tokenizer;
  json["tokens"] = note.tokens;
  json["documents"] = note.documents;
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

StatusOr<TokenNote> ParseNote(const std::string& text, const std::string& path) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || Text(json, "format") != kFormat) {
    return Bad(path, absl::StrCat("is not a JSON object with \"format\": \"", kFormat,
                                  "\"; move it away if it has nothing to do with the tokens"));
  }
  ASSIGN_OR_RETURN(const int64_t version, Number(json, "version", 1, INT64_MAX, path));
  if (version != kVersion) {
    return Bad(path, absl::StrCat("has version ", version, "; this atoll knows ", kVersion));
  }
  TokenNote note;
  const std::string type = Text(json, "dtype");
  if (type != "uint16" && type != "uint32") {
    return Bad(path, absl::StrCat("says 'dtype': '", type, "'; uint16 or uint32 is expected"));
  }
  note.type = type == "uint16" ? TokenType::kUint16 : TokenType::kUint32;
  const int64_t largest = note.type == TokenType::kUint16 ? 65536 : kMaxVocabulary;
  ASSIGN_OR_RETURN(note.vocab_size, Number(json, "vocab_size", 1, largest, path));
  ASSIGN_OR_RETURN(note.tokens, Number(json, "tokens", 0, INT64_MAX, path));
  if (json.contains("documents")) {
    ASSIGN_OR_RETURN(note.documents, Number(json, "documents", 0, note.tokens, path));
  }
  note.tokenizer = Text(json, "tokenizer");
  return note;
}

}  // namespace atl
