#include "proto/yaml_tree.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/exit_code.h"

namespace atl {
namespace {

// yaml-cpp reads ahead to the end of an open bracket before it reports it: this bounds its work.
constexpr int kMaxBrackets = 4096;

// Thrown through yaml-cpp by the builder, caught in ParseYaml.
struct Refused {
  YamlMark mark;
  std::string what;
};

YamlMark MarkOf(const YAML::Mark& mark) {
  return mark.is_null() ? YamlMark{} : YamlMark{mark.line + 1, mark.column + 1};
}

// The length of the UTF-8 sequence at `bytes`, 0 if it is none.
int Utf8Length(absl::string_view bytes) {
  const auto at = [&bytes](size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned char first = at(0);
  if (first < 0x80) return 1;
  const int length = first >= 0xc2 && first <= 0xdf   ? 2
                     : first >= 0xe0 && first <= 0xef ? 3
                     : first >= 0xf0 && first <= 0xf4 ? 4
                                                      : 0;
  if (length == 0 || bytes.size() < static_cast<size_t>(length)) return 0;
  for (int i = 1; i < length; ++i) {
    if ((at(i) & 0xc0) != 0x80) return 0;
  }
  const unsigned char second = at(1);
  // Overlong forms, surrogates, beyond U+10FFFF.
  if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) ||
      (first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f)) {
    return 0;
  }
  return length;
}

// What yaml-cpp would accept, mend silently or report in its own words only.
void CheckLine(absl::string_view line, int number, int* brackets) {
  int column = 1;
  bool indentation = true;
  while (!line.empty()) {
    const int length = Utf8Length(line);
    const unsigned char c = static_cast<unsigned char>(line[0]);
    const YamlMark mark{number, column};
    if (length == 0) throw Refused{mark, "not UTF-8 text"};
    if (c == '\t' && indentation) {
      throw Refused{mark, "a tab in the indentation; YAML indents with blanks"};
    }
    const bool line_end = c == '\r' && line.size() == 1;
    if ((c < 0x20 && c != '\t' && !line_end) || c == 0x7f) {
      throw Refused{mark, absl::StrFormat("control character 0x%02x; this is not a text file", c)};
    }
    if ((c == '[' || c == '{') && ++*brackets > kMaxBrackets) {
      throw Refused{mark, absl::StrCat("more than ", kMaxBrackets, " brackets")};
    }
    if (c != ' ') indentation = false;
    line.remove_prefix(length);
    ++column;
  }
}

void CheckText(const std::vector<absl::string_view>& lines) {
  int number = 0, brackets = 0;
  for (const absl::string_view line : lines) CheckLine(line, ++number, &brackets);
}

// yaml-cpp takes the end of the file for the end of an open quote, so that a forgotten one would
// swallow keys in silence. `mark` is where a quoted scalar or a block begins in its line.
void CheckQuote(absl::string_view line, YamlMark mark) {
  for (int column = 1; column < mark.column && !line.empty(); ++column) {
    line.remove_prefix(std::max(1, Utf8Length(line)));
  }
  if (line.empty() || (line[0] != '"' && line[0] != '\'')) return;
  const char quote = line[0];
  for (size_t i = 1; i < line.size(); ++i) {
    const bool doubled = quote == '\'' && i + 1 < line.size() && line[i + 1] == '\'';
    if (line[i] == quote && !doubled) return;
    if (doubled && line[i] == quote) ++i;
    if (quote == '"' && line[i] == '\\') ++i;
  }
  throw Refused{mark, "a quote that is not closed on its line"};
}

// Builds the tree from yaml-cpp's events. `open_` holds the containers that are not yet closed,
// outermost first; a map's value follows its key.
class TreeBuilder : public YAML::EventHandler {
 public:
  explicit TreeBuilder(const std::vector<absl::string_view>& lines) : lines_(lines) {}

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ > 1) {
      throw Refused{MarkOf(mark), "a second YAML document ('---'); a job file has one"};
    }
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    YamlNode node;
    node.mark = MarkOf(mark);
    RefuseAnchor(node.mark, anchor);
    Add(std::move(node));
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    throw Refused{MarkOf(mark), "an alias ('*name'); write the value out"};
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    YamlNode node;
    node.kind = YamlNode::Kind::kScalar;
    node.mark = MarkOf(mark);
    node.quoted = tag == "!";  // yaml-cpp's sign for quotes and blocks; "?" or "" is plain
    node.text = value;
    RefuseAnchor(node.mark, anchor);
    RefuseTag(node.mark, node.quoted ? "" : tag);
    if (node.quoted && node.mark.line <= lines_.size()) {
      CheckQuote(lines_[node.mark.line - 1], node.mark);
    }
    // A plain ~ or null is a missing value, as in every YAML reader.
    if (!node.quoted && (value.empty() || value == "~" || value == "null")) {
      node.kind = YamlNode::Kind::kNull;
    }
    Add(std::move(node));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    Open(YamlNode::Kind::kList, MarkOf(mark), tag, anchor);
  }
  void OnSequenceEnd() override { Close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    Open(YamlNode::Kind::kMap, MarkOf(mark), tag, anchor);
  }
  void OnMapEnd() override { Close(); }

  YamlNode Take() { return std::move(root_); }
  bool empty() const { return documents_ == 0; }

 private:
  struct Container {
    YamlNode node;
    bool has_key = false;
    YamlNode key;
  };

  static void RefuseAnchor(YamlMark mark, YAML::anchor_t anchor) {
    if (anchor != 0) throw Refused{mark, "an anchor ('&name'); write values out where they belong"};
  }
  static void RefuseTag(YamlMark mark, const std::string& tag) {
    if (!tag.empty() && tag != "?") {
      throw Refused{mark,
                    absl::StrCat("a tag ('", tag.substr(0, 40), "'); the key gives the type")};
    }
  }

  void Open(YamlNode::Kind kind, YamlMark mark, const std::string& tag, YAML::anchor_t anchor) {
    RefuseAnchor(mark, anchor);
    RefuseTag(mark, tag);
    if (open_.size() >= kMaxYamlDepth) {
      throw Refused{mark, absl::StrCat("nested more than ", kMaxYamlDepth, " deep")};
    }
    if (!open_.empty() && open_.back().node.kind == YamlNode::Kind::kMap && !open_.back().has_key) {
      throw Refused{mark, "a key must be a plain word"};
    }
    Container container;
    container.node.kind = kind;
    container.node.mark = mark;
    open_.push_back(std::move(container));
  }

  void Close() {
    YamlNode node = std::move(open_.back().node);
    open_.pop_back();
    Add(std::move(node));
  }

  void Add(YamlNode node) {
    if (open_.empty()) {
      root_ = std::move(node);
      return;
    }
    Container& container = open_.back();
    if (container.node.kind == YamlNode::Kind::kList) {
      container.node.items.push_back(std::move(node));
    } else if (!container.has_key) {
      if (node.kind != YamlNode::Kind::kScalar) throw Refused{node.mark, "a missing key"};
      container.key = std::move(node);
      container.has_key = true;
    } else {
      container.node.entries.push_back({std::move(container.key), std::move(node)});
      container.has_key = false;
    }
  }

  const std::vector<absl::string_view>& lines_;  // of the text
  std::vector<Container> open_;
  YamlNode root_;
  int documents_ = 0;
};

Status At(const std::string& name, YamlMark mark, absl::string_view what) {
  return UsageError(absl::StrCat(name, ":", mark.line, ":", mark.column, ": ", what));
}

}  // namespace

StatusOr<YamlNode> ParseYaml(const std::string& text, const std::string& name) {
  if (text.size() > kMaxYamlBytes) {
    return UsageError(absl::StrCat(name, ": ", text.size(), " bytes are too long for a job file (",
                                   kMaxYamlBytes, " at most)"));
  }
  const std::vector<absl::string_view> lines = absl::StrSplit(text, '\n');
  TreeBuilder builder(lines);
  try {
    CheckText(lines);
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const Refused& refused) {
    return At(name, refused.mark, refused.what);
  } catch (const YAML::Exception& error) {
    return At(name, MarkOf(error.mark), absl::StrCat("not valid YAML: ", error.msg));
  } catch (const std::exception& error) {
    return At(name, YamlMark{}, absl::StrCat("cannot be read as YAML: ", error.what()));
  }
  YamlNode root = builder.Take();
  if (builder.empty() || root.kind == YamlNode::Kind::kNull) {
    return At(name, YamlMark{}, "the file is empty");
  }
  return root;
}

}  // namespace atl
