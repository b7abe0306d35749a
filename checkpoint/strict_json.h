// JSON from outside, as a stream of events under strict rules. nlohmann's SAX parser reads the
// text; this adds what it lets pass:
//   - the text begins with '{' (the library skips a byte order mark);
//   - after the last '}' only spaces (the library takes NUL for the end of the text, and any white
//     space);
//   - containers nest at most kMaxJsonDepth deep;
//   - a key that comes twice in one object is told to the handler, which knows the rule's name;
//   - numbers are whole and not negative; anything else is told as it was written.
// What the library itself refuses: raw control characters, lone surrogates, bad UTF-8, comments.
// Nothing is built up here but the keys of the open objects, so memory follows the text's length.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "base/status.h"

namespace atl::checkpoint {

inline constexpr int kMaxJsonDepth = 16;
// The largest whole number up to which every one has its own double: what all readers agree on.
inline constexpr uint64_t kMaxJsonNumber = uint64_t{1} << 53;

// Gets the events in the order of the text. May move out of the strings it is given.
class JsonHandler {
 public:
  virtual ~JsonHandler() = default;
  virtual void StartObject() = 0;
  virtual void EndObject() = 0;
  virtual void StartArray() = 0;
  virtual void EndArray() = 0;
  virtual void Key(std::string& key, bool duplicate) = 0;
  virtual void String(std::string& value) = 0;
  virtual void Number(uint64_t value) = 0;
  // Negative, with a fraction or an exponent, or above 64 bits.
  virtual void OddNumber(const std::string& as_written) = 0;
  // null, true, false.
  virtual void Literal(const char* as_written) = 0;
};

// The rule that a text breaks; empty if it breaks none.
struct JsonFault {
  std::string rule;  // "header-start", "header-end", "json", "depth", "number"
  std::string message;
  bool ok() const { return rule.empty(); }
};

JsonFault ParseStrictJson(absl::string_view text, JsonHandler& handler);

// `text` in double quotes, escaped; bytes above 127 stay as they are unless `ascii`.
// kInvalidArgument if it is not UTF-8.
StatusOr<std::string> JsonQuoted(const std::string& text, bool ascii = false);

}  // namespace atl::checkpoint
