// YAML onto a protobuf message, by reflection. Knows no job: names, types, units, defaults and
// bounds come from the message's descriptor and its FieldRules.
//
// 1. ReadTree maps a YAML tree, key by key; it goes on after an error, so that a user sees all
//    mistakes of a file at once.
// 2. ReadOverride applies one "a.b=value" of the command line.
// 3. ApplyDefaults fills what neither gave. proto3 scalars know no presence, so what was given is
//    kept as a map from path to place; an explicit 0 stays 0.
//
// Paths in maps and messages: "train.rounds", "regions[0].name".
#pragma once

#include <google/protobuf/message.h>

#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "proto/yaml_tree.h"

namespace atl {

class MessageReader {
 public:
  // `file` stands for the file in messages; relative paths in it are taken from `directory`, an
  // absolute one. `message` outlives the reader.
  MessageReader(std::string file, std::string directory, google::protobuf::Message* message);

  void ReadTree(const YamlNode& root);
  // Relative paths are taken from the working directory.
  void ReadOverride(const std::string& override_text);
  void ApplyDefaults();
  // An error that is found later, about the value at `path`.
  void AddError(const std::string& path, const std::string& what);

  // All errors so far, a line each (the first ten), with exit code 2.
  Status status() const;

 private:
  using Field = google::protobuf::FieldDescriptor;
  using Message = google::protobuf::Message;

  void ReadMap(const YamlNode& node, const std::string& path, Message* message);
  void ReadValue(const Field& field, const YamlNode& node, const std::string& path,
                 Message* message);
  void ReadList(const Field& field, const YamlNode& node, const std::string& path,
                Message* message);
  void ReadElement(const YamlNode& node, const std::string& path, Message* element);
  void FillDefaults(const std::string& path, Message* message);

  std::string Place(const YamlNode& node) const;
  void Fail(const std::string& place, const std::string& what);

  const std::string file_;
  const std::string directory_;
  Message* const message_;
  // Path -> where it was given: "job.yaml:3:7" or "--set train.rounds=12".
  std::map<std::string, std::string> given_;
  std::vector<std::string> errors_;  // the first ones
  size_t error_count_ = 0;
};

// The paths of all scalar fields, in the order of the schema; those of lists as "regions[].name".
std::vector<std::string> AllPaths(const google::protobuf::Descriptor& type);

}  // namespace atl
