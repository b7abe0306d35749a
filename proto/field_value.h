// One field of a configuration message as text, and back. What a text may be follows from the
// field's type and its FieldRule (proto/options.proto): unit, bounds, words.
#pragma once

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <string>
#include <vector>

#include "base/status.h"
#include "proto/options.pb.h"

namespace atl {

const pb::FieldRule& RuleOf(const google::protobuf::FieldDescriptor& field);

// What a value must look like: "a whole number such as 100, 52.4e9 or 10M", "one of diloco,
// every_step".
std::string ExpectedValue(const google::protobuf::FieldDescriptor& field);
// "1 to 1e12", "at least 0", ""; in the field's unit.
std::string BoundsText(const google::protobuf::FieldDescriptor& field);
// The names of an enum's values as users write them: in lower case.
std::vector<std::string> EnumWords(const google::protobuf::EnumDescriptor& type);

struct ValueText {
  std::string text;
  // Written with quotes. Quoted text is never a bare number or a boolean.
  bool quoted = false;
  // An absolute directory, from which relative paths are taken; with a leading "~/" they are taken
  // from the home directory.
  std::string directory;
};

// Sets the singular scalar `field` of `message`. Errors say what was expected, not where.
Status ParseField(const google::protobuf::FieldDescriptor& field, const ValueText& value,
                  google::protobuf::Message* message);
// The value as ParseField reads it back to the same bits, without quotes.
std::string FormatField(const google::protobuf::FieldDescriptor& field,
                        const google::protobuf::Message& message);
// `text` as a YAML scalar: quoted and escaped if needed.
std::string QuoteYaml(const std::string& text);

}  // namespace atl
