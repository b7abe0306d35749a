// What a worker that fails leaves behind, so that the culprit is told from its victims
// (docs/formats/run-directory.md).
#pragma once

#include <string>

#include "base/exit_code.h"

namespace atl {

struct LastWords {
  std::string region;
  int rank = 0;
  std::string doing;
  std::string what;
  ExitCode exit_code = ExitCode::kFailed;
  bool is_cause = true;
};

// Writes DIR/rank-R.failure.json; nothing if `directory` is empty. Never fails: it is the last
// thing a process does.
void LeaveLastWords(const std::string& directory, const LastWords& words);

}  // namespace atl
