// A YAML text as a plain tree, within what a job file needs: scalars, lists and maps with marks.
//
// Refused, with line and column: more than kMaxYamlBytes, bytes that are not UTF-8, control
// characters, tabs as indentation, nesting beyond kMaxYamlDepth, several documents, anchors and
// aliases (a few bytes could stand for gigabytes), tags, keys that are not plain text. What passes
// has at most one node per byte of text. yaml-cpp is included by yaml_tree.cc alone.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/status.h"

namespace atl {

inline constexpr int kMaxYamlBytes = 1 << 20;
inline constexpr int kMaxYamlDepth = 16;

struct YamlMark {
  int line = 1;  // both from 1; a column counts characters
  int column = 1;
};

struct YamlEntry;

struct YamlNode {
  enum class Kind { kNull, kScalar, kList, kMap };
  Kind kind = Kind::kNull;
  YamlMark mark;
  std::string text;                // kScalar
  bool quoted = false;             // kScalar: written "x", 'x' or as a block
  std::vector<YamlEntry> entries;  // kMap: in order
  std::vector<YamlNode> items;     // kList
};

struct YamlEntry {
  YamlNode key;  // kScalar
  YamlNode value;
};

// `name` stands for the file in messages: "NAME:LINE:COLUMN: what". Errors have exit code 2. An
// empty text is an error.
StatusOr<YamlNode> ParseYaml(const std::string& text, const std::string& name);

}  // namespace atl
