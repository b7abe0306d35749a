#include "proto/field_value.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/env.h"
#include "base/log.h"
#include "base/suggest.h"
#include "base/units.h"
#include "proto/lease_terms.h"

namespace atl {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

constexpr int kLongestShown = 80;

// A value as messages show it: short, and harmless on a terminal.
std::string Shown(const std::string& text) {
  const std::string cut = text.substr(0, kLongestShown);
  return absl::StrCat("'", cut, text.size() > kLongestShown ? "..." : "", "'");
}

Status NotExpected(const FieldDescriptor& field, const std::string& text) {
  return absl::InvalidArgumentError(absl::StrCat(text.empty() ? "an empty value" : Shown(text),
                                                 " is not ", ExpectedValue(field)));
}

// The shortest text that reads back to the same bits: "0.1", "1e-08" as "1e-8", "1e+12" as "1e12".
std::string ShortestNumber(double value) {
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value).ptr;
  std::string text(buffer, end);
  const size_t e = text.find('e');
  if (e == std::string::npos) return text;
  const bool negative = text[e + 1] == '-';
  size_t digits = e + 2;
  while (digits + 1 < text.size() && text[digits] == '0') ++digits;
  return absl::StrCat(text.substr(0, e), "e", negative ? "-" : "", text.substr(digits));
}

// The largest unit of `units` (ascending) that divides `value`, after the number.
std::string WithExactUnit(int64_t value,
                          std::initializer_list<std::pair<const char*, int64_t>> units) {
  std::string text;
  for (const auto& [name, factor] : units) {
    if (value != 0 ? value % factor == 0 : text.empty()) text = absl::StrCat(value / factor, name);
  }
  return text;
}

std::string FormatInteger(pb::Unit unit, int64_t value) {
  switch (unit) {
    case pb::BYTES:
      return WithExactUnit(value, {{"", 1},
                                   {"KiB", int64_t{1} << 10},
                                   {"MiB", int64_t{1} << 20},
                                   {"GiB", int64_t{1} << 30},
                                   {"TiB", int64_t{1} << 40}});
    case pb::BITS_PER_SECOND:
      return WithExactUnit(value,
                           {{"bit", 1}, {"kbit", 1000}, {"mbit", 1000000}, {"gbit", 1000000000}});
    default:
      return absl::StrCat(value);
  }
}

// A bound in the unit of its field, for people: "4MiB", "1e12".
std::string FormatBound(pb::Unit unit, double bound) {
  if (unit == pb::SECONDS) return ShortestNumber(bound) + "s";
  const bool whole = std::abs(bound) < 9e15 && bound == std::floor(bound);
  if (!whole || unit == pb::PLAIN) return ShortestNumber(bound);
  if (unit == pb::COUNT) return ShortestNumber(bound);
  return FormatInteger(unit, static_cast<int64_t>(bound));
}

Status CheckBounds(const FieldDescriptor& field, double value) {
  const pb::FieldRule& rule = RuleOf(field);
  if (rule.has_min() && value < rule.min()) {
    return absl::InvalidArgumentError(absl::StrCat(FormatBound(rule.unit(), value),
                                                   " is too small; the smallest is ",
                                                   FormatBound(rule.unit(), rule.min())));
  }
  if (rule.has_max() && value > rule.max()) {
    return absl::InvalidArgumentError(absl::StrCat(FormatBound(rule.unit(), value),
                                                   " is too large; the largest is ",
                                                   FormatBound(rule.unit(), rule.max())));
  }
  return OkStatus();
}

// A decimal number and nothing else: no "nan", "inf", hexadecimal, blanks.
bool ParseDecimal(absl::string_view text, double* value) {
  if (absl::StartsWith(text, "+")) text.remove_prefix(1);
  if (text.empty()) return false;
  for (const char c : text) {
    if (!absl::ascii_isdigit(c) && c != '.' && c != 'e' && c != 'E' && c != '-' && c != '+') {
      return false;
    }
  }
  const auto result = std::from_chars(text.data(), text.data() + text.size(), *value);
  return result.ec == std::errc() && result.ptr == text.data() + text.size() &&
         std::isfinite(*value);
}

Status ParseInteger(const FieldDescriptor& field, const ValueText& value, Message* message) {
  const pb::Unit unit = RuleOf(field).unit();
  StatusOr<int64_t> number = absl::InvalidArgumentError("");
  // A negative number has no unit here; it is parsed so that the message speaks of the bound.
  if (int64_t negative = 0;
      absl::StartsWith(value.text, "-") && absl::SimpleAtoi(value.text, &negative)) {
    number = negative;
  } else if (unit == pb::BYTES) {
    number = ParseSizeBytes(value.text);
  } else if (unit == pb::BITS_PER_SECOND) {
    number = ParseRateBitsPerSecond(value.text);
  } else if (!value.quoted) {
    absl::string_view count = value.text;
    if (const std::string& counts = RuleOf(field).counts(); !counts.empty()) {
      absl::ConsumeSuffix(&count, absl::StrCat(" ", counts));
    }
    number = ParseCount(count);
  }
  if (!number.ok()) return NotExpected(field, value.text);
  RETURN_IF_ERROR(CheckBounds(field, static_cast<double>(*number)));
  message->GetReflection()->SetInt64(message, &field, *number);
  return OkStatus();
}

Status ParseUnsigned(const FieldDescriptor& field, const ValueText& value, Message* message) {
  uint64_t number = 0;
  const bool digits = !value.text.empty() && !value.quoted &&
                      std::all_of(value.text.begin(), value.text.end(), absl::ascii_isdigit);
  if (!digits || !absl::SimpleAtoi(value.text, &number)) return NotExpected(field, value.text);
  RETURN_IF_ERROR(CheckBounds(field, static_cast<double>(number)));
  message->GetReflection()->SetUInt64(message, &field, number);
  return OkStatus();
}

Status ParseReal(const FieldDescriptor& field, const ValueText& value, Message* message) {
  double number = 0;
  if (RuleOf(field).unit() == pb::SECONDS) {
    const auto seconds = ParseDurationSeconds(value.text);
    if (!seconds.ok()) return NotExpected(field, value.text);
    number = *seconds;
  } else if (value.quoted || !ParseDecimal(value.text, &number)) {
    return NotExpected(field, value.text);
  }
  RETURN_IF_ERROR(CheckBounds(field, number));
  message->GetReflection()->SetDouble(message, &field, number);
  return OkStatus();
}

Status ParseBoolean(const FieldDescriptor& field, const ValueText& value, Message* message) {
  if (value.quoted || (value.text != "true" && value.text != "false")) {
    return NotExpected(field, value.text);
  }
  message->GetReflection()->SetBool(message, &field, value.text == "true");
  return OkStatus();
}

Status ParseEnum(const FieldDescriptor& field, const ValueText& value, Message* message) {
  const auto* type = field.enum_type();
  for (int i = 0; i < type->value_count(); ++i) {
    if (absl::AsciiStrToLower(type->value(i)->name()) == value.text) {
      message->GetReflection()->SetEnum(message, &field, type->value(i));
      return OkStatus();
    }
  }
  const Status status = NotExpected(field, value.text);
  return absl::InvalidArgumentError(
      absl::StrCat(status.message(), DidYouMean(value.text, EnumWords(*type))));
}

std::string AbsolutePath(const std::string& text, const std::string& directory) {
  if (absl::StartsWith(text, "~/")) return HomeDirectory() + text.substr(1);
  const std::filesystem::path path(text);
  const auto whole = path.is_absolute() ? path : std::filesystem::path(directory) / path;
  std::string normal = whole.lexically_normal().string();
  if (normal.size() > 1 && normal.back() == '/') normal.pop_back();
  return normal;
}

Status ParseText(const FieldDescriptor& field, const ValueText& value, Message* message) {
  constexpr size_t kLongest = 4096;  // PATH_MAX
  if (value.text.size() >= kLongest) {
    return absl::InvalidArgumentError(
        absl::StrCat(value.text.size(), " bytes are too long; ", kLongest - 1, " at most"));
  }
  for (const char c : value.text) {
    if (absl::ascii_iscntrl(c)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("control character 0x%02x in the text", static_cast<unsigned char>(c)));
    }
  }
  const pb::FieldRule& rule = RuleOf(field);
  std::string text = value.text;
  const bool is_form = (rule.unit() != pb::TIME || ParseLeaseTime(text).ok()) &&
                       (rule.unit() != pb::PRICE || ParsePrice(text).ok());
  if (!text.empty() && !is_form) return NotExpected(field, text);
  const bool word = std::find(rule.words().begin(), rule.words().end(), text) != rule.words().end();
  if (rule.unit() == pb::PATH && !text.empty() && !word) {
    text = AbsolutePath(text, value.directory);
  }
  message->GetReflection()->SetString(message, &field, text);
  return OkStatus();
}

}  // namespace

const pb::FieldRule& RuleOf(const FieldDescriptor& field) {
  return field.options().GetExtension(pb::rule);
}

std::vector<std::string> EnumWords(const google::protobuf::EnumDescriptor& type) {
  std::vector<std::string> words;
  for (int i = 0; i < type.value_count(); ++i) {
    words.push_back(absl::AsciiStrToLower(type.value(i)->name()));
  }
  return words;
}

std::string ExpectedValue(const FieldDescriptor& field) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT64:
      switch (RuleOf(field).unit()) {
        case pb::BYTES:
          return "a size such as 4096, 64MiB, 2GiB or 5GB";
        case pb::BITS_PER_SECOND:
          return "a rate such as 100mbit or 2.5gbit";
        default:
          if (!RuleOf(field).counts().empty()) {
            return absl::StrCat("a whole number such as 100, 10M or 10 ", RuleOf(field).counts());
          }
          return "a whole number such as 100, 52.4e9 or 10M";
      }
    case FieldDescriptor::CPPTYPE_UINT64:
      return "a whole number from 0 to 18446744073709551615";
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return RuleOf(field).unit() == pb::SECONDS ? "a duration such as 250ms, 30s, 5m, 2h or 1h30m"
                                                 : "a number such as 0.1 or 1e-3";
    case FieldDescriptor::CPPTYPE_BOOL:
      return "true or false";
    case FieldDescriptor::CPPTYPE_ENUM:
      return absl::StrCat("one of ", absl::StrJoin(EnumWords(*field.enum_type()), ", "));
    default: {
      if (RuleOf(field).unit() == pb::TIME) return "a time such as 2026-11-30T18:00:00Z";
      if (RuleOf(field).unit() == pb::PRICE) return "a price such as 31.2 or 31.2 USD";
      if (RuleOf(field).unit() != pb::PATH) return "a text";
      std::string expected;
      for (const std::string& word : RuleOf(field).words()) absl::StrAppend(&expected, word, ", ");
      return expected.empty() ? "a path" : expected + "or a path";
    }
  }
}

std::string BoundsText(const FieldDescriptor& field) {
  const pb::FieldRule& rule = RuleOf(field);
  const std::string low = FormatBound(rule.unit(), rule.min());
  const std::string high = FormatBound(rule.unit(), rule.max());
  if (rule.has_min() && rule.has_max()) return absl::StrCat(low, " to ", high);
  if (rule.has_min()) return absl::StrCat("at least ", low);
  return rule.has_max() ? absl::StrCat("at most ", high) : "";
}

Status ParseField(const FieldDescriptor& field, const ValueText& value, Message* message) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT64:
      return ParseInteger(field, value, message);
    case FieldDescriptor::CPPTYPE_UINT64:
      return ParseUnsigned(field, value, message);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return ParseReal(field, value, message);
    case FieldDescriptor::CPPTYPE_BOOL:
      return ParseBoolean(field, value, message);
    case FieldDescriptor::CPPTYPE_ENUM:
      return ParseEnum(field, value, message);
    case FieldDescriptor::CPPTYPE_STRING:
      return ParseText(field, value, message);
    default:
      LOG(FATAL) << "configuration fields are int64, uint64, double, bool, enum or string: "
                 << field.full_name();
      return OkStatus();
  }
}

std::string FormatField(const FieldDescriptor& field, const Message& message) {
  const auto* reflection = message.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT64:
      return FormatInteger(RuleOf(field).unit(), reflection->GetInt64(message, &field));
    case FieldDescriptor::CPPTYPE_UINT64:
      return absl::StrCat(reflection->GetUInt64(message, &field));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return ShortestNumber(reflection->GetDouble(message, &field)) +
             (RuleOf(field).unit() == pb::SECONDS ? "s" : "");
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection->GetBool(message, &field) ? "true" : "false";
    case FieldDescriptor::CPPTYPE_ENUM:
      return absl::AsciiStrToLower(reflection->GetEnum(message, &field)->name());
    case FieldDescriptor::CPPTYPE_STRING:
      return reflection->GetString(message, &field);
    default:
      LOG(FATAL) << "configuration fields are int64, uint64, double, bool, enum or string: "
                 << field.full_name();
      return "";
  }
}

std::string QuoteYaml(const std::string& text) {
  // A word that begins with a letter or '/' and that no YAML reader takes for something else.
  const std::string lower = absl::AsciiStrToLower(text);
  bool plain = !text.empty() && (absl::ascii_isalpha(text[0]) || text[0] == '/');
  for (const char c : text) {
    plain = plain && (absl::ascii_isalnum(c) || absl::StrContains("/._-", std::string(1, c)));
  }
  for (const char* reserved : {"true", "false", "yes", "no", "on", "off", "y", "n", "null"}) {
    plain = plain && lower != reserved;
  }
  if (plain) return text;
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + "\"";
}

}  // namespace atl
