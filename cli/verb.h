// The verbs of `atoll`. Each is a row of one table: its name, its help, its flags, its function.
//
// Where to add one: cli/x.{h,cc} with `Verb XVerb();` (as cli/check.h, cli/train.h: TrainVerb(),
// cli/status.h: StatusVerb()), and its place in the list in cli/verbs.cc.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/exit_code.h"
#include "base/flags.h"
#include "base/status.h"
#include "cli/output.h"

namespace atl {

// Does the verb's work. Answers go to stdout, talk to stderr, both through `output`. The value is
// the process's exit code. An error is printed once, by main, and its ExitCodeOf becomes the exit
// code: a verb returns errors and does not print them.
using RunVerb = std::function<StatusOr<ExitCode>(const ParsedFlags& flags, Output& output)>;

struct Verb {
  std::string name;  // "check", or of two words: "data tokenize"
  CommandSpec
      command;  // `command` is "atoll NAME"; its flags have JsonFlag() if it answers something
  RunVerb run;
};

// Flags that several verbs share.
FlagSpec JsonFlag();  // flags.Switch("json"); Output knows it already
FlagSpec SetFlag();   // flags.List("set"): overrides for LoadJob

}  // namespace atl
