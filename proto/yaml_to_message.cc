#include "proto/yaml_to_message.h"

#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "base/suggest.h"
#include "proto/field_value.h"

namespace atl {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

constexpr size_t kMostErrors = 10;
constexpr int kMostElements = 4096;  // of a list

std::string Join(const std::string& path, const std::string& name) {
  return path.empty() ? name : absl::StrCat(path, ".", name);
}

bool IsSection(const FieldDescriptor& field) {
  return !field.is_repeated() && field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
}

std::vector<std::string> KeysOf(const Descriptor& type) {
  std::vector<std::string> keys;
  for (int i = 0; i < type.field_count(); ++i) keys.push_back(type.field(i)->name());
  return keys;
}

// What a list's element may be written as alone: the value of its first field.
const FieldDescriptor* ShortForm(const Descriptor& element) {
  const FieldDescriptor* first = element.field_count() > 0 ? element.field(0) : nullptr;
  return first != nullptr && first->cpp_type() == FieldDescriptor::CPPTYPE_STRING ? first : nullptr;
}

std::string Found(const YamlNode& node) {
  switch (node.kind) {
    case YamlNode::Kind::kNull:
      return "nothing";
    case YamlNode::Kind::kScalar:
      return absl::StrCat("'", node.text.substr(0, 80), "'");
    case YamlNode::Kind::kList:
      return "a list";
    case YamlNode::Kind::kMap:
      return "a section";
  }
  return "";
}

// The advice after an unknown key at `path`: the same key in another section, the nearest one of
// its own section, the nearest one anywhere, or what there is.
std::string Advice(const Descriptor& root, const Descriptor& section, const std::string& path) {
  const size_t dot = path.rfind('.');
  const std::string parent = dot == std::string::npos ? "" : path.substr(0, dot);
  const std::string key = dot == std::string::npos ? path : path.substr(dot + 1);
  const std::vector<std::string> siblings = KeysOf(section);
  std::vector<std::string> elsewhere, leaves;
  for (const std::string& candidate : AllPaths(root)) {
    if (absl::StrContains(candidate, "[]")) continue;
    const std::string leaf = candidate.substr(candidate.rfind('.') + 1);
    if (leaf == key) elsewhere.push_back(candidate);
    leaves.push_back(leaf);
  }
  if (elsewhere.size() == 1) return absl::StrCat("; did you mean '", elsewhere[0], "'?");
  if (const std::string near = Nearest(key, siblings); !near.empty()) {
    return absl::StrCat("; did you mean '", Join(parent, near), "'?");
  }
  const std::string near = Nearest(key, leaves);
  for (const std::string& candidate : AllPaths(root)) {
    if (!near.empty() && (candidate == near || absl::EndsWith(candidate, "." + near))) {
      return absl::StrCat("; did you mean '", candidate, "'?");
    }
  }
  return absl::StrCat("; the keys here are: ", absl::StrJoin(siblings, ", "));
}

void CollectPaths(const Descriptor& type, const std::string& path,
                  std::vector<std::string>* paths) {
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    const std::string name = Join(path, field.name()) + (field.is_repeated() ? "[]" : "");
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      CollectPaths(*field.message_type(), name, paths);
    } else {
      paths->push_back(name);
    }
  }
}

}  // namespace

std::vector<std::string> AllPaths(const Descriptor& type) {
  std::vector<std::string> paths;
  CollectPaths(type, "", &paths);
  return paths;
}

MessageReader::MessageReader(std::string file, std::string directory, Message* message)
    : file_(std::move(file)), directory_(std::move(directory)), message_(message) {}

std::string MessageReader::Place(const YamlNode& node) const {
  return absl::StrCat(file_, ":", node.mark.line, ":", node.mark.column);
}

void MessageReader::Fail(const std::string& place, const std::string& what) {
  // A file of nothing but mistakes is counted, not kept.
  if (++error_count_ <= kMostErrors) errors_.push_back(absl::StrCat(place, ": ", what));
}

void MessageReader::AddError(const std::string& path, const std::string& what) {
  const auto found = given_.find(path);
  Fail(found == given_.end() ? file_ : found->second, absl::StrCat(path, ": ", what));
}

Status MessageReader::status() const {
  if (errors_.empty()) return OkStatus();
  std::vector<std::string> lines = errors_;
  if (error_count_ > errors_.size()) {
    lines.push_back(absl::StrCat("and ", error_count_ - errors_.size(), " more errors"));
  }
  return UsageError(absl::StrJoin(lines, "\n"));
}

void MessageReader::ReadTree(const YamlNode& root) {
  if (root.kind == YamlNode::Kind::kMap) {
    ReadMap(root, "", message_);
  } else {
    Fail(Place(root),
         absl::StrCat("expected keys with values, such as 'name: my-job'; found ", Found(root)));
  }
}

void MessageReader::ReadMap(const YamlNode& node, const std::string& path, Message* message) {
  const Descriptor& type = *message->GetDescriptor();
  std::map<std::string, const YamlNode*> seen;
  for (const auto& [key, value] : node.entries) {
    const std::string child = Join(path, key.text.substr(0, 80));
    const auto [earlier, first] = seen.emplace(key.text, &key);
    if (!first) {
      Fail(Place(key), absl::StrCat("duplicate key '", child, "'; it is already on line ",
                                    earlier->second->mark.line));
      continue;
    }
    const FieldDescriptor* field = type.FindFieldByName(key.text);
    if (field == nullptr) {
      Fail(Place(key), absl::StrCat("unknown key '", child, "'",
                                    Advice(*message_->GetDescriptor(), type, child)));
      continue;
    }
    given_[child] = Place(value.kind == YamlNode::Kind::kNull ? key : value);
    ReadValue(*field, value, child, message);
  }
}

void MessageReader::ReadValue(const Field& field, const YamlNode& node, const std::string& path,
                              Message* message) {
  if (field.is_repeated()) return ReadList(field, node, path, message);
  if (IsSection(field)) {
    // A section whose keys are all commented out is null, and means its defaults.
    if (node.kind == YamlNode::Kind::kNull) return;
    if (node.kind == YamlNode::Kind::kMap) {
      return ReadMap(node, path, message->GetReflection()->MutableMessage(message, &field));
    }
    return Fail(Place(node), absl::StrCat(path, ": expected a section with keys (",
                                          absl::StrJoin(KeysOf(*field.message_type()), ", "),
                                          "); found ", Found(node)));
  }
  if (node.kind != YamlNode::Kind::kScalar) {
    return Fail(given_[path],
                absl::StrCat(path, ": expected ", ExpectedValue(field), "; found ", Found(node)));
  }
  const Status status = ParseField(field, {node.text, node.quoted, directory_}, message);
  if (!status.ok()) {
    Fail(Place(node), absl::StrCat(path, ": ", std::string(status.message())));
  }
}

void MessageReader::ReadList(const Field& field, const YamlNode& node, const std::string& path,
                             Message* message) {
  CHECK(field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE)
      << "lists of configuration have messages as elements: " << field.full_name();
  if (node.kind == YamlNode::Kind::kNull) return;
  if (node.kind != YamlNode::Kind::kList) {
    return Fail(Place(node),
                absl::StrCat(path, ": expected a list such as [a, b]; found ", Found(node)));
  }
  if (node.items.size() > kMostElements) {
    return Fail(Place(node), absl::StrCat(path, ": ", node.items.size(), " elements are too many; ",
                                          kMostElements, " at most"));
  }
  for (size_t i = 0; i < node.items.size(); ++i) {
    ReadElement(node.items[i], absl::StrCat(path, "[", i, "]"),
                message->GetReflection()->AddMessage(message, &field));
  }
}

void MessageReader::ReadElement(const YamlNode& node, const std::string& path, Message* element) {
  given_[path] = Place(node);
  if (node.kind == YamlNode::Kind::kMap) return ReadMap(node, path, element);
  const FieldDescriptor* short_form = ShortForm(*element->GetDescriptor());
  if (node.kind == YamlNode::Kind::kScalar && short_form != nullptr) {
    const std::string child = Join(path, short_form->name());
    given_[child] = Place(node);
    return ReadValue(*short_form, node, child, element);
  }
  Fail(Place(node), absl::StrCat(path, ": expected keys (",
                                 absl::StrJoin(KeysOf(*element->GetDescriptor()), ", "),
                                 "); found ", Found(node)));
}

void MessageReader::ReadOverride(const std::string& override_text) {
  const std::string place = absl::StrCat("--set ", override_text.substr(0, 200));
  const size_t equals = override_text.find('=');
  if (equals == std::string::npos || equals == 0) {
    return Fail(place, "expected KEY=VALUE, such as train.rounds=12");
  }
  const std::string path = override_text.substr(0, equals);
  const std::vector<std::string> names = absl::StrSplit(path, '.');
  Message* message = message_;
  for (size_t i = 0; i < names.size(); ++i) {
    const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(names[i]);
    const std::string here = absl::StrJoin(names.begin(), names.begin() + i + 1, ".");
    if (field == nullptr) {
      const std::vector<std::string> all = AllPaths(*message_->GetDescriptor());
      const std::string near = i + 1 < names.size() ? Nearest(path, all) : "";
      return Fail(place, absl::StrCat("unknown key '", path, "'",
                                      !near.empty() ? absl::StrCat("; did you mean '", near, "'?")
                                                    : Advice(*message_->GetDescriptor(),
                                                             *message->GetDescriptor(), here)));
    }
    if (field->is_repeated()) {
      return Fail(place, absl::StrCat("'", here, "' is a list; it can be given in the file only"));
    }
    const bool last = i + 1 == names.size();
    if (IsSection(*field)) {
      if (last) {
        return Fail(place, absl::StrCat("'", here, "' is a section; set one of its keys: ",
                                        absl::StrJoin(KeysOf(*field->message_type()), ", ")));
      }
      message = message->GetReflection()->MutableMessage(message, field);
      continue;
    }
    if (!last) return Fail(place, absl::StrCat("'", here, "' is a value and has no keys"));
    std::error_code error;
    const std::string directory = std::filesystem::current_path(error).string();
    const Status status =
        ParseField(*field, {override_text.substr(equals + 1), false, directory}, message);
    if (!status.ok()) return Fail(place, absl::StrCat(path, ": ", std::string(status.message())));
    given_[path] = place;
  }
}

void MessageReader::ApplyDefaults() { FillDefaults("", message_); }

void MessageReader::FillDefaults(const std::string& path, Message* message) {
  const auto* reflection = message->GetReflection();
  const Descriptor& type = *message->GetDescriptor();
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    const std::string child = Join(path, field.name());
    if (field.is_repeated()) {
      for (int k = 0; k < reflection->FieldSize(*message, &field); ++k) {
        FillDefaults(absl::StrCat(child, "[", k, "]"),
                     reflection->MutableRepeatedMessage(message, &field, k));
      }
    } else if (IsSection(field)) {
      FillDefaults(child, reflection->MutableMessage(message, &field));
    } else if (!given_.contains(child) && !RuleOf(field).default_().empty()) {
      const Status status = ParseField(field, {RuleOf(field).default_(), false, "/"}, message);
      CHECK(status.ok()) << "the schema's default of " << child << ": " << status;
    }
  }
}

}  // namespace atl
