// A job as YAML, and the schema as a commented YAML file and as Markdown: all by walking the
// message's descriptor, so that none of them can lag behind proto/job.proto.
#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/flags.h"
#include "proto/field_value.h"
#include "proto/job_file.h"

namespace atl {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

bool IsMessage(const FieldDescriptor& field) {
  return field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
}

// Texts need quotes, other values are written as they are.
std::string YamlValue(const FieldDescriptor& field, const std::string& text) {
  return field.cpp_type() == FieldDescriptor::CPPTYPE_STRING ? QuoteYaml(text) : text;
}

void WriteMessage(const Message& message, int indent, std::string* yaml) {
  const auto* reflection = message.GetReflection();
  const Descriptor& type = *message.GetDescriptor();
  const std::string blanks(indent, ' ');
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    if (field.is_repeated()) {
      const int size = reflection->FieldSize(message, &field);
      absl::StrAppend(yaml, blanks, field.name(), size == 0 ? ": []\n" : ":\n");
      for (int k = 0; k < size; ++k) {
        std::string element;
        WriteMessage(reflection->GetRepeatedMessage(message, &field, k), indent + 4, &element);
        element[indent + 2] = '-';
        *yaml += element;
      }
    } else if (IsMessage(field)) {
      absl::StrAppend(yaml, blanks, field.name(), ":\n");
      WriteMessage(reflection->GetMessage(message, &field), indent + 2, yaml);
    } else {
      absl::StrAppend(yaml, blanks, field.name(), ": ",
                      YamlValue(field, FormatField(field, message)), "\n");
    }
  }
}

// "a whole number such as 100, 52.4e9 or 10M; 1 to 1e12".
std::string TypeText(const FieldDescriptor& field) {
  if (field.is_repeated()) return "a list";
  const std::string bounds = BoundsText(field);
  return absl::StrCat(ExpectedValue(field), bounds.empty() ? "" : "; ", bounds);
}

std::string Comment(const std::string& text, int indent) {
  const std::string blanks(indent, ' ');
  constexpr int kWidth = 96;
  const std::string wrapped = WrapText(text, 0, kWidth - indent);
  return absl::StrCat(blanks, "# ", absl::StrReplaceAll(wrapped, {{"\n", "\n" + blanks + "# "}}),
                      "\n");
}

// What a list's elements may have: comments alone, since an example would be an element.
void WriteElementKeys(const Descriptor& element, int indent, int depth, std::string* yaml) {
  for (int i = 0; i < element.field_count(); ++i) {
    const FieldDescriptor& field = *element.field(i);
    const std::string begin = depth == 0 && i == 0 ? "  - " : std::string(4 + 2 * depth, ' ');
    absl::StrAppend(yaml,
                    Comment(absl::StrCat(begin, field.name(), ": ", RuleOf(field).doc()), indent));
    if (IsMessage(field)) WriteElementKeys(*field.message_type(), indent, depth + 1, yaml);
  }
}

void WriteSchema(const Descriptor& type, int indent, std::string* yaml) {
  const std::string blanks(indent, ' ');
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    const pb::FieldRule& rule = RuleOf(field);
    absl::StrAppend(yaml, indent == 0 && i > 0 ? "\n" : "", Comment(rule.doc(), indent));
    if (field.is_repeated()) {
      WriteElementKeys(*field.message_type(), indent, 0, yaml);
      absl::StrAppend(yaml, blanks, field.name(), ": []\n");
    } else if (IsMessage(field)) {
      absl::StrAppend(yaml, blanks, field.name(), ":\n");
      WriteSchema(*field.message_type(), indent + 2, yaml);
    } else {
      absl::StrAppend(yaml, Comment(absl::StrCat("(", TypeText(field), ")"), indent), blanks,
                      field.name(), ": ", YamlValue(field, rule.default_()), "\n");
    }
  }
}

void CollectKeys(const Descriptor& type, const std::string& prefix, std::vector<SchemaKey>* keys) {
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    const std::string path = prefix + field.name();
    if (!IsMessage(field) || field.is_repeated()) {
      keys->push_back({path, TypeText(field), field.is_repeated() ? "[]" : RuleOf(field).default_(),
                       RuleOf(field).doc()});
    }
    if (IsMessage(field)) {
      CollectKeys(*field.message_type(), path + (field.is_repeated() ? "[]." : "."), keys);
    }
  }
}

std::string MarkdownRow(const SchemaKey& key) {
  const std::string standard =
      key.default_value.empty() ? "" : absl::StrCat("`", key.default_value, "`");
  std::string row =
      absl::StrCat("`", key.path, "`\x01", key.value, "\x01", standard, "\x01", key.doc);
  row = absl::StrReplaceAll(row, {{"|", "\\|"}, {"\x01", " | "}});
  return absl::StrCat("| ", row, " |\n");
}

}  // namespace

std::string JobToYaml(const pb::Job& job) {
  std::string yaml;
  WriteMessage(job, 0, &yaml);
  return yaml;
}

std::string JobSchemaYaml() {
  std::string yaml =
      "# A job file of atoll: every key with its default. Copy what you change; the rest may stay\n"
      "# away. Only data.tokens must be given. On the command line: --set train.rounds=12.\n\n";
  WriteSchema(*pb::Job::descriptor(), 0, &yaml);
  return yaml;
}

std::vector<SchemaKey> JobSchemaKeys() {
  std::vector<SchemaKey> keys;
  CollectKeys(*pb::Job::descriptor(), "", &keys);
  return keys;
}

std::string JobSchemaMarkdown() {
  std::string text = "| key | value | default | meaning |\n| --- | --- | --- | --- |\n";
  for (const SchemaKey& key : JobSchemaKeys()) text += MarkdownRow(key);
  return text;
}

}  // namespace atl
