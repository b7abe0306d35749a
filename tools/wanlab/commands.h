// The verbs of the program wanlab.
#pragma once

#include <string>
#include <vector>

#include "base/exit_code.h"
#include "base/flags.h"
#include "base/status.h"

namespace atl {

struct LabVerb {
  std::string name;
  CommandSpec spec;
  bool takes_command = false;  // ... -- CMD ARGUMENTS
  // Answers go to stdout. The value is the exit code, which may be that of a command.
  StatusOr<int> (*run)(const ParsedFlags& flags, const std::vector<std::string>& command);
};

const std::vector<LabVerb>& LabVerbs();

}  // namespace atl
