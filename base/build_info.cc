#include "base/build_info.h"

#include "absl/strings/str_cat.h"

namespace atl {

// The ATOLL_BUILD_* definitions are given to this file alone (base/CMakeLists.txt), so that a new
// version number rebuilds nothing else.
const BuildInfo& GetBuildInfo() {
  static const BuildInfo* const info =
      new BuildInfo{ATOLL_BUILD_VERSION, ATOLL_BUILD_COMPILER, ATOLL_BUILD_TYPE,
                    ATOLL_BUILD_SANITIZERS, ATOLL_BUILD_SYSTEM};
  return *info;
}

std::string VersionLine(const std::string& program) {
  const BuildInfo& info = GetBuildInfo();
  return absl::StrCat(program, " ", info.version, " (", info.build_type, ", ", info.compiler, ", ",
                      info.system, info.sanitizers.empty() ? "" : ", sanitizers ", info.sanitizers,
                      ")");
}

}  // namespace atl
