#include "collectives/agreement.h"

#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/exit_code.h"

namespace atl {

// A rank's report is empty for OK, else "CODE EXIT_CODE MESSAGE".
Status AgreeOnSuccess(Communicator& communicator, const Status& own) {
  std::string report;
  if (!own.ok()) {
    report = absl::StrCat(static_cast<int>(own.code()), " ", static_cast<int>(ExitCodeOf(own)), " ",
                          own.message());
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> reports, communicator.AllGatherBytes(report));
  RETURN_IF_ERROR(own);
  for (int rank = 0; rank < static_cast<int>(reports.size()); ++rank) {
    const std::string& other = reports[rank];
    if (other.empty()) continue;
    const size_t first = other.find(' ');
    const size_t second = first == std::string::npos ? first : other.find(' ', first + 1);
    int code = 0, exit_code = 0;
    if (second == std::string::npos || !absl::SimpleAtoi(other.substr(0, first), &code) ||
        !absl::SimpleAtoi(other.substr(first + 1, second - first - 1), &exit_code) || code == 0) {
      return absl::InternalError(absl::StrCat("rank ", rank, " brought an unreadable report"));
    }
    return WithExitCode(Status(static_cast<absl::StatusCode>(code),
                               absl::StrCat("rank ", rank, ": ", other.substr(second + 1))),
                        static_cast<ExitCode>(exit_code));
  }
  return OkStatus();
}

}  // namespace atl
