// atoll: the command line.
//
// 1. Split the words at the verb (cli/verbs.h).
// 2. Check the rest against the verb's flags (base/flags.h); --help ends here.
// 3. Run the verb. Its value is the exit code; an error is printed here, and nowhere else.
//
// What goes to stdout is the answer alone; with --json it is one JSON object, also for an error of
// step 1 or 2.
#include <algorithm>
#include <csignal>
#include <string>
#include <vector>

#include "base/build_info.h"
#include "base/flags.h"
#include "base/log.h"
#include "cli/output.h"
#include "cli/verbs.h"

namespace atl {
namespace {

// Known before the flags are parsed, so that errors in them are JSON too.
bool WantsJson(const std::vector<std::string>& words) {
  for (const std::string& word : words) {
    if (word == "--") return false;
    if (word == "--json" || word == "--json=true") return true;
  }
  return false;
}

// Help and version are text even with --json.
StatusOr<ExitCode> Tell(const std::string& text) {
  Output output(false);
  output.Print(text);
  RETURN_IF_ERROR(output.written());
  return ExitCode::kDone;
}

StatusOr<ExitCode> Run(const std::vector<std::string>& words, Output& output) {
  ASSIGN_OR_RETURN(const VerbCall call, SplitAtVerb(words));
  if (call.verb == nullptr) {
    ASSIGN_OR_RETURN(const std::string help, HelpText(call.topic));
    return Tell(help);
  }
  ASSIGN_OR_RETURN(const ParsedFlags flags, ParseFlags(call.verb->command, call.arguments));
  if (flags.help()) {
    return Tell(FlagsHelp(call.verb->command));
  }
  if (flags.version()) {
    return Tell(VersionLine("atoll") + "\n");
  }
  ASSIGN_OR_RETURN(const ExitCode code, call.verb->run(flags, output));
  // A job's own code says more than an answer that was lost on its way.
  if (code == ExitCode::kDone) RETURN_IF_ERROR(output.written());
  return code;
}

}  // namespace
}  // namespace atl

int main(int argc, char** argv) {
  // `atoll ... | head` ends with an error of write, not with a signal in the middle of a job.
  std::signal(SIGPIPE, SIG_IGN);
  atl::InitLogging(argv[0]);
  const std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
  atl::Output output(atl::WantsJson(words));
  const atl::StatusOr<atl::ExitCode> code = atl::Run(words, output);
  if (code.ok()) return static_cast<int>(*code);
  output.Error(code.status());
  return static_cast<int>(atl::ExitCodeOf(code.status()));
}
