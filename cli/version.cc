#include "cli/version.h"

#include <nlohmann/json.hpp>

#include "base/build_info.h"

namespace atl {
namespace {

StatusOr<ExitCode> RunVersion(const ParsedFlags&, Output& output) {
  const BuildInfo& info = GetBuildInfo();
  output.Answer({{"version", info.version},
                 {"build_type", info.build_type},
                 {"compiler", info.compiler},
                 {"sanitizers", info.sanitizers},
                 {"system", info.system}});
  output.Print(VersionLine("atoll") + "\n");
  return ExitCode::kDone;
}

}  // namespace

Verb VersionVerb() {
  return {"version",
          {.command = "atoll version",
           .arguments = "",
           .summary = "print version and build facts",
           .details = "",
           .flags = {JsonFlag()}},
          RunVersion};
}

}  // namespace atl
