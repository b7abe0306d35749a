// Commands given after `--`: in the place of this process, or as its child.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/status.h"

namespace atl {

// exec. Returns only if it failed.
Status ReplaceProcess(std::vector<std::string> words);

// Runs a command and waits for it. Its exit code, or 128 + n if signal n ended it.
//
// SIGTERM and SIGHUP go on to it, SIGINT too unless it came from the terminal, which tells the
// command itself. 10 s after the first of them, or at the second, it is killed. It does not outlive
// this process. Call it in a program of one thread; signals are as before afterwards.
StatusOr<int> RunCommand(const std::vector<std::string>& words,
                         const std::map<std::string, std::string>& environment);

}  // namespace atl
