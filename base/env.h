// The process's surroundings: environment variables, host, user. getenv lives here alone.
#pragma once

#include <optional>
#include <string>

namespace atl {

std::optional<std::string> GetEnv(const std::string& name);
// Call before threads start. `overwrite` false keeps a value that the user has set.
void SetEnv(const std::string& name, const std::string& value, bool overwrite);
std::string HostName();
bool IsRoot();
// $HOME, else the password file's; empty if neither is there.
std::string HomeDirectory();
// The directory of the running executable.
std::string ExecutableDirectory();

}  // namespace atl
