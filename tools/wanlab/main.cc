// wanlab: a test sea on one host. docs/wanlab.md tells how to use it.
//
// 1. Split the words at `--`: what follows is a command for exec or run.
// 2. Find the verb, check its flags (base/flags.h); --help ends here.
// 3. Run it. An error is printed here, and nowhere else.
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/build_info.h"
#include "base/log.h"
#include "base/suggest.h"
#include "tools/wanlab/commands.h"

namespace atl {
namespace {

std::string Overview() {
  std::string text =
      "wanlab joins regions on this host by emulated long links.\n\n"
      "usage: wanlab VERB [arguments] [flags] [-- CMD...]\n\nverbs:\n";
  for (const LabVerb& verb : LabVerbs()) {
    std::string line = absl::StrCat("  ", verb.name);
    line.resize(14, ' ');
    absl::StrAppend(&text, line, verb.spec.summary, "\n");
  }
  return text +
         "\nStart here:\n"
         "  wanlab run configs/lab/two-500mbit-80ms.yaml -- wanlab exec johor -- sh\n\n"
         "Exit codes: 0 done, 1 failed, 2 usage or lab file, 4 environment (root, TUN device);\n"
         "of exec and run the command's.\n";
}

StatusOr<int> Tell(const std::string& text) {
  std::fputs(text.c_str(), stdout);
  return 0;
}

StatusOr<int> Run(const std::vector<std::string>& words, const std::vector<std::string>* command) {
  if (words.empty() || words[0] == "help" || words[0] == "--help" || words[0] == "-h") {
    return Tell(Overview());
  }
  if (words[0] == "--version") return Tell(VersionLine("wanlab") + "\n");
  std::vector<std::string> names;
  for (const LabVerb& verb : LabVerbs()) {
    names.push_back(verb.name);
    if (verb.name != words[0]) continue;
    ASSIGN_OR_RETURN(const ParsedFlags flags,
                     ParseFlags(verb.spec, {words.begin() + 1, words.end()}));
    if (flags.help()) return Tell(FlagsHelp(verb.spec));
    if (flags.version()) return Tell(VersionLine("wanlab") + "\n");
    if (verb.takes_command != (command != nullptr && !command->empty())) {
      return UsageError(absl::StrCat("usage: ", verb.spec.command, " ", verb.spec.arguments));
    }
    return verb.run(flags, command != nullptr ? *command : std::vector<std::string>());
  }
  return UsageError(absl::StrCat("unknown verb '", words[0], "'", DidYouMean(words[0], names),
                                 " (see `wanlab help`)"));
}

}  // namespace
}  // namespace atl

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  atl::InitLogging(argv[0]);
  std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
  const auto dashes = std::find(words.begin(), words.end(), "--");
  const bool has_command = dashes != words.end();
  std::vector<std::string> command;
  if (has_command) command.assign(dashes + 1, words.end());
  words.erase(dashes, words.end());
  const atl::StatusOr<int> code = atl::Run(words, has_command ? &command : nullptr);
  if (code.ok()) return *code;
  std::fprintf(stderr, "wanlab: error: %s\n", std::string(code.status().message()).c_str());
  return static_cast<int>(atl::ExitCodeOf(code.status()));
}
