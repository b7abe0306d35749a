#include "cli/env.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/env.h"
#include "base/units.h"
#include "cli/host_advice.h"
#include "cli/launcher.h"

namespace atl {
namespace {

// The path of `program`: beside this executable, else from PATH; empty if it is in neither.
std::string FindProgram(const std::string& program) {
  std::vector<std::string> directories = {ExecutableDirectory()};
  for (absl::string_view directory : absl::StrSplit(GetEnv("PATH").value_or(""), ':')) {
    directories.push_back(std::string(directory));
  }
  for (const std::string& directory : directories) {
    const std::string path = absl::StrCat(directory.empty() ? "." : directory, "/", program);
    std::error_code error;
    const auto status = std::filesystem::status(path, error);
    const auto executable = std::filesystem::perms::owner_exec |
                            std::filesystem::perms::group_exec |
                            std::filesystem::perms::others_exec;
    if (!error && std::filesystem::is_regular_file(status) &&
        (status.permissions() & executable) != std::filesystem::perms::none) {
      return path;
    }
  }
  return "";
}

// The links between regions: what TCP can do here, and what would help.
void TellTcp(const HostTcp& tcp, nlohmann::json* answer, std::string* text) {
  const std::vector<std::string> advice = HostAdvice(tcp, IsRoot());
  (*answer)["tcp"] = {{"available", tcp.available},
                      {"allowed", tcp.allowed},
                      {"default", tcp.standard},
                      {"slow_start_after_idle", tcp.slow_start_after_idle},
                      {"send_buffer_bytes", tcp.send_buffer_bytes},
                      {"receive_buffer_bytes", tcp.receive_buffer_bytes},
                      {"reach_bytes", ReachBytes(tcp)},
                      {"advice", advice}};
  absl::StrAppend(text, "tcp         ", absl::StrJoin(tcp.available, ", "));
  if (tcp.available.empty()) *text += "its settings cannot be read";
  if (ReachBytes(tcp) > 0) {
    absl::StrAppend(text, "; two gateways reach ",
                    FormatBytes(static_cast<double>(ReachBytes(tcp))), " of rate x round trip");
  }
  *text += "\n";
  for (const std::string& line : advice) absl::StrAppend(text, "  better    ", line, "\n");
}

StatusOr<ExitCode> RunEnvironment(const ParsedFlags&, Output& output) {
  ASSIGN_OR_RETURN(const Launcher launcher, DetectLauncher(GetEnv));
  nlohmann::json answer = {{"host", HostName()},
                           {"root", IsRoot()},
                           {"processors", std::thread::hardware_concurrency()},
                           {"launcher", {{"name", launcher.name}, {"rank", nullptr}}}};
  std::string text = absl::StrCat(
      "host        ", HostName(), ", ", std::thread::hardware_concurrency(), " processors, ",
      IsRoot() ? "root" : "an ordinary user", "\n", "launcher    ",
      launcher.name == "none" ? "none: this process was started alone" : launcher.name);
  nlohmann::json& json_launcher = answer["launcher"];
  json_launcher["world_size"] = nullptr;
  json_launcher["found"] = nlohmann::json::object();
  if (launcher.rank) {
    json_launcher["rank"] = *launcher.rank;
    absl::StrAppend(&text, ", rank ", *launcher.rank);
  }
  if (launcher.world_size) {
    json_launcher["world_size"] = *launcher.world_size;
    absl::StrAppend(&text, " of ", *launcher.world_size);
  }
  text += "\n";
  for (const auto& [name, value] : launcher.found) {
    json_launcher["found"][name] = value;
    absl::StrAppend(&text, "            ", name, "=", value, "\n");
  }
  TellTcp(ReadHostTcp(), &answer, &text);
  for (const char* program : {"atoll-orchestrator", "atoll-worker", "mpirun", "srun"}) {
    const std::string path = FindProgram(program);
    answer["programs"][program] = path.empty() ? nlohmann::json(nullptr) : nlohmann::json(path);
    std::string line = program;
    line.resize(std::max<size_t>(line.size() + 1, 20), ' ');
    absl::StrAppend(&text, line, path.empty() ? "not found" : path, "\n");
  }
  output.Answer(answer);
  output.Print(text);
  return ExitCode::kDone;
}

}  // namespace

Verb EnvironmentVerb() {
  return {
      "env",
      {.command = "atoll env",
       .arguments = "",
       .summary =
           "say which launcher started this process, how far TCP reaches, which programs are there",
       .details = "The first of these that the environment shows counts: ATOLL_*, torchrun, Open "
                  "MPI, Slurm (inside a step), PMIx, PMI, RANK and WORLD_SIZE, Kubernetes.",
       .flags = {JsonFlag()}},
      RunEnvironment};
}

}  // namespace atl
