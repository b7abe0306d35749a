#include "checkpoint/strict_json.h"

#include <cctype>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace atl::checkpoint {
namespace {

using nlohmann::json;

// "[json.exception.parse_error.101] parse error at line 1, column 9: syntax error ..." without its
// number. It quotes what was read last, which may be long and hold any bytes.
std::string Plain(absl::string_view what) {
  constexpr size_t kLongest = 300;
  const size_t bracket = what.find("] ");
  if (bracket != absl::string_view::npos) what = what.substr(bracket + 2);
  std::string plain;
  for (const char c : what.substr(0, kLongest)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= ' ' && byte < 0x7f) {
      plain.push_back(c);
    } else {
      absl::StrAppend(&plain, "<", absl::Hex(byte, absl::kZeroPad2), ">");
    }
  }
  return what.size() > kLongest ? absl::StrCat(plain, "...") : plain;
}

// The library's events, checked and passed on. The methods' names are the library's.
class Events : public nlohmann::json_sax<json> {
 public:
  Events(absl::string_view text, JsonHandler& handler) : text_(text), handler_(handler) {}

  JsonFault fault;

  bool null() override { return handler_.Literal("null"), true; }
  bool boolean(bool value) override { return handler_.Literal(value ? "true" : "false"), true; }
  bool number_integer(number_integer_t value) override {  // the text began with '-'
    handler_.OddNumber(value == 0 ? "-0" : absl::StrCat(value));
    return true;
  }
  bool number_unsigned(number_unsigned_t value) override { return handler_.Number(value), true; }
  bool number_float(number_float_t, const string_t& as_written) override {
    return handler_.OddNumber(as_written), true;
  }
  bool string(string_t& value) override { return handler_.String(value), true; }
  bool binary(binary_t&) override { return false; }  // does not come from text

  bool start_object(size_t) override {
    if (!Deeper()) return false;
    keys_.emplace_back();
    handler_.StartObject();
    return true;
  }
  bool end_object() override {
    --depth_;
    keys_.pop_back();
    handler_.EndObject();
    return true;
  }
  bool start_array(size_t) override {
    if (!Deeper()) return false;
    handler_.StartArray();
    return true;
  }
  bool end_array() override {
    --depth_;
    handler_.EndArray();
    return true;
  }
  bool key(string_t& name) override {
    const bool fresh = keys_.back().insert(name).second;
    handler_.Key(name, !fresh);
    return true;
  }

  bool parse_error(size_t position, const std::string& last_token,
                   const nlohmann::detail::exception& error) override {
    constexpr int kNumberOverflow = 406;
    if (began_ && depth_ == 0) {
      fault = {"header-end", absl::StrCat("bytes other than spaces follow the JSON, near byte ",
                                          position, " of it")};
    } else if (error.id == kNumberOverflow || absl::StrContains(error.what(), "invalid number")) {
      fault = {"number", Plain(error.what())};
    } else if (EndsLeadingZero(position, last_token)) {
      fault = {"number", absl::StrCat("a number with a leading zero near byte ", position)};
    } else {
      fault = {"json", Plain(error.what())};
    }
    return false;
  }

 private:
  bool Deeper() {
    began_ = true;
    if (++depth_ <= kMaxJsonDepth) return true;
    fault = {"depth", absl::StrCat("arrays and objects nest more than ", kMaxJsonDepth, " deep")};
    return false;
  }

  // The library reads "01" as two numbers and stumbles over the second.
  bool EndsLeadingZero(size_t position, const std::string& token) const {
    if (token.empty() || !std::isdigit(static_cast<unsigned char>(token[0]))) return false;
    if (position > text_.size() || position <= token.size()) return false;
    return text_[position - token.size() - 1] == '0';
  }

  const absl::string_view text_;
  JsonHandler& handler_;
  int depth_ = 0;
  bool began_ = false;
  std::vector<std::unordered_set<std::string>> keys_;  // of the open objects
};

}  // namespace

JsonFault ParseStrictJson(absl::string_view text, JsonHandler& handler) {
  if (text.empty() || text[0] != '{') {
    return {"header-start", "the JSON does not begin with '{'"};
  }
  Events events(text, handler);
  bool parsed = false;
  try {
    parsed = json::sax_parse(text.begin(), text.end(), &events);
  } catch (const json::exception& error) {
    return {"json", Plain(error.what())};
  }
  if (!events.fault.ok()) return events.fault;
  if (!parsed) return {"json", "the text could not be read"};
  const size_t last = text.find_last_not_of(' ');
  if (text[last] != '}' || absl::StrContains(text, absl::string_view("\0", 1))) {
    return {"header-end", "bytes other than spaces follow the JSON"};
  }
  return {};
}

StatusOr<std::string> JsonQuoted(const std::string& text, bool ascii) {
  try {
    return json(text).dump(-1, ' ', ascii);
  } catch (const json::exception&) {
    return absl::InvalidArgumentError(
        absl::StrCat("a text of ", text.size(), " bytes is not UTF-8 and can't be stored in JSON"));
  }
}

}  // namespace atl::checkpoint
