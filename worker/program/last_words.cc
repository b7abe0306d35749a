#include "worker/program/last_words.h"

#include <unistd.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/env.h"
#include "base/file.h"
#include "base/log.h"

namespace atl {

void LeaveLastWords(const std::string& directory, const LastWords& words) {
  LOG(ERROR) << "region " << words.region << " rank " << words.rank << " ends with exit code "
             << static_cast<int>(words.exit_code) << ": " << words.what;
  if (directory.empty()) return;
  const nlohmann::json json = {
      {"time", absl::FormatTime(absl::RFC3339_sec, Clock::Real()->WallTime(), absl::UTCTimeZone())},
      {"region", words.region},
      {"host", HostName()},
      {"rank", words.rank},
      {"pid", getpid()},
      {"doing", words.doing},
      {"what", words.what},
      {"exit_code", static_cast<int>(words.exit_code)},
      {"cause", words.is_cause}};
  const std::string text =
      json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  WriteFileAtomically(absl::StrCat(directory, "/rank-", words.rank, ".failure.json"), text)
      .IgnoreError();
}

}  // namespace atl
