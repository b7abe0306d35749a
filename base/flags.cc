#include "base/flags.h"

#include <algorithm>
#include <cstdio>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "base/build_info.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "base/suggest.h"
#include "base/units.h"

namespace atl {
namespace {

bool LooksLikeFlag(const std::string& argument) {
  // "-" alone is a file name by custom, "-5" a number.
  return argument.size() > 1 && argument[0] == '-' && !(argument[1] >= '0' && argument[1] <= '9');
}

std::string Placeholder(const FlagSpec& flag) {
  switch (flag.kind) {
    case FlagKind::kSwitch:
      return absl::StrCat("--", flag.name);
    case FlagKind::kFiles:
      return absl::StrCat("--", flag.name, " ", flag.placeholder, "...");
    default:
      return absl::StrCat("--", flag.name, "=", flag.placeholder);
  }
}

std::string HowToGetHelp(const CommandSpec& spec) {
  return absl::StrCat(" (see `", spec.command, " --help`)");
}

}  // namespace

// One pass over the arguments; errors stop it.
class FlagParser {
 public:
  explicit FlagParser(const CommandSpec& spec) : spec_(spec) {}

  StatusOr<ParsedFlags> Run(const std::vector<std::string>& arguments) {
    RETURN_IF_ERROR(SetDefaults());
    bool flags_ended = false;
    for (size_t i = 0; i < arguments.size(); ++i) {
      const std::string& argument = arguments[i];
      if (flags_ended || !LooksLikeFlag(argument)) {
        result_.positional_.push_back(argument);
      } else if (argument == "--") {
        flags_ended = true;
      } else if (argument == "--help" || argument == "-h") {
        result_.help_ = true;
        return std::move(result_);
      } else if (argument == "--version") {
        result_.version_ = true;
        return std::move(result_);
      } else {
        RETURN_IF_ERROR(TakeFlag(arguments, &i));
      }
    }
    RETURN_IF_ERROR(CheckWhole());
    return std::move(result_);
  }

 private:
  Status SetDefaults() {
    for (const FlagSpec& flag : spec_.flags) {
      ParsedFlags::Value& value = result_.values_[flag.name];
      value.kind = flag.kind;
      if (flag.default_value.empty()) continue;
      const Status status = Assign(flag, flag.default_value);
      CHECK(status.ok()) << "default of --" << flag.name << ": " << status;
      value.given = false;
    }
    return OkStatus();
  }

  // Takes the flag at arguments[*i] with its value or values; *i is its last argument afterwards.
  Status TakeFlag(const std::vector<std::string>& arguments, size_t* i) {
    const std::string& argument = arguments[*i];
    const size_t equals = argument.find('=');
    const std::string typed = argument.substr(0, equals);
    const FlagSpec* flag = FindFlag(typed);
    if (flag == nullptr) return Unknown(typed);
    if (equals != std::string::npos) return Assign(*flag, argument.substr(equals + 1));
    if (flag->kind == FlagKind::kSwitch) return Assign(*flag, "true");
    const size_t first = *i + 1;
    while (*i + 1 < arguments.size() && !LooksLikeFlag(arguments[*i + 1])) {
      RETURN_IF_ERROR(Assign(*flag, arguments[++*i]));
      if (flag->kind != FlagKind::kFiles) break;
    }
    if (*i + 1 == first) {
      return UsageError(absl::StrCat("--", flag->name, " needs a value: ", Placeholder(*flag),
                                     HowToGetHelp(spec_)));
    }
    return OkStatus();
  }

  const FlagSpec* FindFlag(const std::string& typed) const {
    if (!absl::StartsWith(typed, "--")) return nullptr;
    const std::string name = absl::StrReplaceAll(typed.substr(2), {{"-", "_"}});
    for (const FlagSpec& flag : spec_.flags) {
      if (flag.name == name) return &flag;
    }
    return nullptr;
  }

  Status Unknown(const std::string& typed) const {
    std::vector<std::string> names = {"--help", "--version"};
    for (const FlagSpec& flag : spec_.flags) names.push_back(absl::StrCat("--", flag.name));
    const std::string did_you_mean = DidYouMean(typed, names);
    return UsageError(absl::StrCat("unknown flag '", typed, "'", did_you_mean,
                                   did_you_mean.empty() ? HowToGetHelp(spec_) : ""));
  }

  Status Assign(const FlagSpec& flag, const std::string& text) {
    ParsedFlags::Value& value = result_.values_[flag.name];
    value.given = true;
    value.text = text;
    switch (flag.kind) {
      case FlagKind::kText:
        break;
      case FlagKind::kCount:
        return AssignCount(flag, text, &value.count);
      case FlagKind::kDuration: {
        auto seconds = ParseDurationSeconds(text);
        if (!seconds.ok()) return Bad(flag, seconds.status().message());
        value.seconds = *seconds;
        break;
      }
      case FlagKind::kSwitch:
        if (text != "true" && text != "false") {
          return Bad(flag, absl::StrCat("'", text, "' is neither true nor false"));
        }
        value.on = text == "true";
        break;
      case FlagKind::kList:
      case FlagKind::kFiles:
        value.list.push_back(text);
        break;
    }
    return OkStatus();
  }

  static Status AssignCount(const FlagSpec& flag, const std::string& text, int64_t* count) {
    const bool negative = absl::StartsWith(text, "-");
    auto parsed = ParseCount(negative ? text.substr(1) : text);
    if (!parsed.ok()) return Bad(flag, parsed.status().message());
    *count = negative ? -*parsed : *parsed;
    if (*count < flag.min) {
      return Bad(flag, absl::StrCat(*count, " is too small; the smallest is ", flag.min));
    }
    if (*count > flag.max) {
      return Bad(flag, absl::StrCat(*count, " is too large; the largest is ", flag.max));
    }
    return OkStatus();
  }

  static Status Bad(const FlagSpec& flag, absl::string_view what) {
    return UsageError(absl::StrCat("--", flag.name, ": ", what));
  }

  Status CheckWhole() const {
    const int given = static_cast<int>(result_.positional_.size());
    if (given < spec_.min_positional) {
      return UsageError(absl::StrCat("missing argument; usage: ", spec_.command, " ",
                                     spec_.arguments, HowToGetHelp(spec_)));
    }
    if (given > spec_.max_positional) {
      const std::string& extra = result_.positional_[spec_.max_positional];
      return UsageError(absl::StrCat("unexpected argument '", extra, "'", HowToGetHelp(spec_)));
    }
    for (const FlagSpec& flag : spec_.flags) {
      if (flag.required && !result_.Has(flag.name)) {
        return UsageError(absl::StrCat("--", flag.name, " is required: ", Placeholder(flag), " (",
                                       flag.help, ")"));
      }
    }
    return OkStatus();
  }

  const CommandSpec& spec_;
  ParsedFlags result_;
};

const ParsedFlags::Value& ParsedFlags::Find(const std::string& name,
                                            std::initializer_list<FlagKind> kinds) const {
  const auto found = values_.find(name);
  CHECK(found != values_.end()) << "no flag --" << name;
  CHECK(kinds.size() == 0 ||
        std::find(kinds.begin(), kinds.end(), found->second.kind) != kinds.end())
      << "--" << name << " is of another kind";
  return found->second;
}

bool ParsedFlags::Has(const std::string& name) const { return Find(name, {}).given; }
const std::string& ParsedFlags::Text(const std::string& name) const {
  return Find(name, {FlagKind::kText}).text;
}
int64_t ParsedFlags::Count(const std::string& name) const {
  return Find(name, {FlagKind::kCount}).count;
}
double ParsedFlags::Seconds(const std::string& name) const {
  return Find(name, {FlagKind::kDuration}).seconds;
}
bool ParsedFlags::Switch(const std::string& name) const {
  return Find(name, {FlagKind::kSwitch}).on;
}
const std::vector<std::string>& ParsedFlags::List(const std::string& name) const {
  return Find(name, {FlagKind::kList, FlagKind::kFiles}).list;
}

StatusOr<ParsedFlags> ParseFlags(const CommandSpec& spec,
                                 const std::vector<std::string>& arguments) {
  return FlagParser(spec).Run(arguments);
}

std::string WrapText(absl::string_view text, int indent, int width) {
  std::string result;
  for (absl::string_view paragraph : absl::StrSplit(text, '\n')) {
    if (!result.empty()) absl::StrAppend(&result, "\n", std::string(indent, ' '));
    int column = indent;
    bool first = true;
    for (absl::string_view word : absl::StrSplit(paragraph, ' ')) {
      const int length = static_cast<int>(word.size());
      if (!first && column + 1 + length > width) {
        absl::StrAppend(&result, "\n", std::string(indent, ' '));
        column = indent;
      } else if (!first) {
        result += ' ';
        ++column;
      }
      absl::StrAppend(&result, word);
      column += length;
      first = false;
    }
  }
  return result;
}

std::string FlagsHelp(const CommandSpec& spec) {
  constexpr int kHelpColumn = 28;
  std::string usage = spec.command;
  if (!spec.arguments.empty()) absl::StrAppend(&usage, " ", spec.arguments);
  for (const FlagSpec& flag : spec.flags) {
    if (flag.required) absl::StrAppend(&usage, " ", Placeholder(flag));
  }
  std::string text =
      absl::StrCat("usage: ", usage, " [flags]\n\n", WrapText(spec.summary, 0), "\n");
  if (!spec.details.empty()) absl::StrAppend(&text, "\n", WrapText(spec.details, 0), "\n");
  absl::StrAppend(&text, "\nflags:\n");

  const auto add = [&text](const std::string& left, const std::string& right) {
    std::string line = absl::StrCat("  ", left);
    if (line.size() + 2 > kHelpColumn) {
      absl::StrAppend(&text, line, "\n", std::string(kHelpColumn, ' '));
    } else {
      absl::StrAppend(&text, line, std::string(kHelpColumn - line.size(), ' '));
    }
    absl::StrAppend(&text, WrapText(right, kHelpColumn), "\n");
  };
  for (const FlagSpec& flag : spec.flags) {
    std::string right = flag.help;
    if (flag.required) absl::StrAppend(&right, " (required)");
    if (!flag.default_value.empty()) absl::StrAppend(&right, " [", flag.default_value, "]");
    if (flag.kind == FlagKind::kList) absl::StrAppend(&right, " (may be repeated)");
    add(Placeholder(flag), right);
  }
  add("--help", "show this help");
  add("--version", "show version and build facts");
  return text;
}

std::optional<int> ParseMain(const CommandSpec& spec, int argc, char** argv, ParsedFlags* flags) {
  auto parsed = ParseFlags(spec, std::vector<std::string>(argv + std::min(argc, 1), argv + argc));
  if (!parsed.ok()) {
    const std::string message(parsed.status().message());
    std::fprintf(stderr, "%s: error: %s\n", spec.command.c_str(), message.c_str());
    return static_cast<int>(ExitCodeOf(parsed.status()));
  }
  if (parsed->help()) {
    std::fputs(FlagsHelp(spec).c_str(), stdout);
    return 0;
  }
  if (parsed->version()) {
    std::fprintf(stdout, "%s\n", VersionLine(spec.command).c_str());
    return 0;
  }
  *flags = *std::move(parsed);
  return std::nullopt;
}

}  // namespace atl
