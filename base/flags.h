// Command-line flags for every program of atoll: typed, with their own help and with suggestions
// for misspelled names.
//
// 1. A program (or a verb of one) describes itself as a CommandSpec: usage, flags, positional
//    arguments.
// 2. ParseFlags checks the arguments against it: "--name=value", "--name value", switches "--name"
//    and "--name=false", '-' and '_' alike in names; "--" ends the flags. Of a flag given twice the
//    last counts, except for lists, which collect.
// 3. ParseMain does the same for a main() that has no verbs, and answers --help and --version.
//
// No globals; every value is immutable after parsing and may be read by any thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/status.h"

namespace atl {

enum class FlagKind {
  kText,      // --run_dir=DIR
  kCount,     // --regions=3: an integer within [min, max], in the notation of ParseCount
  kDuration,  // --grace=30s: seconds, in the notation of ParseDurationSeconds
  kSwitch,    // --json
  kList,      // --set a=1 --set b=2: one value each time
  kFiles,     // --input a b c: all arguments up to the next flag; may also come again
};

struct FlagSpec {
  std::string name;  // with '_', without dashes: "run_dir"
  FlagKind kind = FlagKind::kText;
  std::string placeholder;         // "DIR", as help shows it; unused for switches
  std::string help;                // one sentence; its default is added by FlagsHelp
  std::string default_value = "";  // in the notation of the command line; empty: none
  bool required = false;
  int64_t min = 0;  // of kCount
  int64_t max = INT64_MAX;
};

struct CommandSpec {
  std::string command;    // "atoll check" or "atoll-worker"
  std::string arguments;  // positional ones as usage shows them: "JOB.yaml"
  std::string summary;    // one line
  std::string details;    // more paragraphs for --help; may be empty
  std::vector<FlagSpec> flags;
  int min_positional = 0;
  int max_positional = 0;
};

class ParsedFlags {
 public:
  // True if it was given on the command line (a default does not count).
  bool Has(const std::string& name) const;
  // The value or the default. Asking for a flag that the spec does not have, or by the wrong kind,
  // is a programmer error (CHECK).
  const std::string& Text(const std::string& name) const;
  int64_t Count(const std::string& name) const;
  double Seconds(const std::string& name) const;
  bool Switch(const std::string& name) const;
  const std::vector<std::string>& List(const std::string& name) const;  // kList and kFiles
  const std::vector<std::string>& positional() const { return positional_; }
  // --help or -h, --version: the rest of the command line was not checked.
  bool help() const { return help_; }
  bool version() const { return version_; }

 private:
  friend class FlagParser;
  struct Value {
    FlagKind kind = FlagKind::kText;
    bool given = false;
    std::string text;
    int64_t count = 0;
    double seconds = 0;
    bool on = false;
    std::vector<std::string> list;
  };
  const Value& Find(const std::string& name, std::initializer_list<FlagKind> kinds) const;

  std::map<std::string, Value> values_;
  std::vector<std::string> positional_;
  bool help_ = false;
  bool version_ = false;
};

// `arguments` are those after the program (and verb). Errors have exit code 2, name the flag and
// end with the nearest right one if there is one.
StatusOr<ParsedFlags> ParseFlags(const CommandSpec& spec,
                                 const std::vector<std::string>& arguments);

// What --help prints: usage, summary, details, a table of the flags. At most 100 columns.
std::string FlagsHelp(const CommandSpec& spec);

// For main(): parses argv. After --help or --version (stdout, 0) or an error (stderr, 2) it returns
// the exit code that main should return; otherwise `flags` is filled and the result empty.
std::optional<int> ParseMain(const CommandSpec& spec, int argc, char** argv, ParsedFlags* flags);

// Breaks `text` at blanks into lines of at most `width` columns, each after the first indented by
// `indent`; line breaks in `text` stay.
std::string WrapText(absl::string_view text, int indent, int width = 100);

}  // namespace atl
