#include "checkpoint/agreement.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/exit_code.h"

namespace atl::checkpoint {
namespace {

// "CODE EXIT_CODE TEXT": status code, exit code, then the message or the error.
std::string Encode(const Status& status, const std::string& message) {
  return absl::StrCat(static_cast<int>(status.code()), " ", static_cast<int>(ExitCodeOf(status)),
                      " ", status.ok() ? message : std::string(status.message()));
}

Status Decode(const std::string& bytes, std::string* message) {
  const std::vector<std::string> parts = absl::StrSplit(bytes, absl::MaxSplits(' ', 2));
  int code = 0, exit_code = 0;
  if (parts.size() != 3 || !absl::SimpleAtoi(parts[0], &code) ||
      !absl::SimpleAtoi(parts[1], &exit_code)) {
    return absl::InternalError("an answer that could not be read");
  }
  *message = parts[2];
  if (code == 0) return OkStatus();
  return WithExitCode(Status(static_cast<absl::StatusCode>(code), parts[2]),
                      static_cast<ExitCode>(exit_code));
}

}  // namespace

StatusOr<std::vector<std::string>> Agree(Communicator& region, const Status& mine,
                                         const std::string& message, bool* reachable) {
  auto answers = region.AllGatherBytes(Encode(mine, message));
  if (!answers.ok()) {
    *reachable = false;
    return mine.ok() ? answers.status() : mine;
  }
  std::vector<std::string> messages(answers->size());
  for (size_t rank = 0; rank < answers->size(); ++rank) {
    const Status status = Decode((*answers)[rank], &messages[rank]);
    if (status.ok()) continue;
    return answers->size() == 1 ? status : Annotate(status, absl::StrCat("rank ", rank));
  }
  return messages;
}

}  // namespace atl::checkpoint
