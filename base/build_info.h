// What was built: version and build facts, for --version, logs and run directories.
#pragma once

#include <string>

namespace atl {

struct BuildInfo {
  std::string version;     // "0.1.0"
  std::string compiler;    // "GNU 12.2.0"
  std::string build_type;  // "Release"
  std::string sanitizers;  // "address,undefined"; empty: none
  std::string system;      // "Linux x86_64"
};

const BuildInfo& GetBuildInfo();
// "atoll 0.1.0 (Release, GNU 12.2.0, Linux x86_64)" for `program` "atoll".
std::string VersionLine(const std::string& program);

}  // namespace atl
