#include "tools/wanlab/state.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/clock.h"
#include "base/env.h"
#include "base/exit_code.h"
#include "base/suggest.h"
#include "tools/wanlab/namespace.h"

namespace atl {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kMostSlots = 64 * 256;
constexpr int64_t kMostStateBytes = 1 << 20;
constexpr size_t kMostEnvironmentBytes = 8 << 20;

StatusOr<LabState> ParseState(const std::string& text, const std::string& name) {
  const json document = json::parse(text, nullptr, false);
  LabState state;
  state.name = name;
  try {
    state.slot = document.at("slot").get<int>();
    state.relay = document.at("relay").get<pid_t>();
    state.relay_start = document.at("relay_start").get<uint64_t>();
    for (const json& entry : document.at("regions")) {
      state.regions.push_back(
          {entry.at("name").get<std::string>(), entry.at("address").get<std::string>(),
           entry.at("network").get<uint64_t>(), entry.at("descriptor").get<int>()});
    }
  } catch (const json::exception& error) {
    return absl::DataLossError(absl::StrCat(LabDirectory(name), "/state.json is damaged (",
                                            error.what(), "); remove the directory"));
  }
  return state;
}

// The environment that a process was started with: "A=1\0B=2\0". The kernel says 0 for its size.
std::string EnvironmentOf(pid_t pid) {
  const auto file = OpenFile(absl::StrCat("/proc/", pid, "/environ"), O_RDONLY | O_CLOEXEC);
  std::string text;
  char buffer[65536];
  ssize_t size = 0;
  while (file.ok() && text.size() < kMostEnvironmentBytes &&
         (size = read(file->get(), buffer, sizeof buffer)) > 0) {
    text.append(buffer, static_cast<size_t>(size));
  }
  return text;
}

bool CarriesName(pid_t pid, const std::string& name) {
  const std::string variable = absl::StrCat("ATOLL_LAB=", name);
  for (absl::string_view entry : absl::StrSplit(EnvironmentOf(pid), '\0')) {
    if (entry == variable) return true;
  }
  return false;
}

}  // namespace

bool LabState::up() const { return relay > 0 && StartTime(relay) == relay_start; }

std::string LabsDirectory() {
  const auto chosen = GetEnv("ATOLL_LAB_DIR");
  return chosen && !chosen->empty() ? *chosen : "/run/atoll-lab";
}

std::string LabDirectory(const std::string& name) {
  return absl::StrCat(LabsDirectory(), "/", name);
}

Status CheckLabName(const std::string& name) {
  const bool well_formed = !name.empty() && name.size() <= 40 && name[0] != '.' && name != "lock" &&
                           std::all_of(name.begin(), name.end(), [](char c) {
                             return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.';
                           });
  if (well_formed) return OkStatus();
  return UsageError(absl::StrCat("'", name,
                                 "' is no name for a lab: 1 to 40 letters, digits, '-', "
                                 "'_' and '.', not 'lock'"));
}

StatusOr<LabState> ReadLabState(const std::string& name) {
  RETURN_IF_ERROR(CheckLabName(name));
  const auto text = ReadFile(LabDirectory(name) + "/state.json", kMostStateBytes);
  if (!text.ok()) {
    std::vector<std::string> names;
    for (const LabState& lab : AllLabs()) names.push_back(lab.name);
    return absl::NotFoundError(
        absl::StrCat("no lab is called '", name, "'", DidYouMean(name, names),
                     names.empty() ? "; none is up (wanlab up FILE)"
                                   : absl::StrCat("; there are: ", absl::StrJoin(names, ", "))));
  }
  return ParseState(*text, name);
}

Status WriteLabState(const LabState& state) {
  json document = {{"slot", state.slot},
                   {"relay", state.relay},
                   {"relay_start", state.relay_start},
                   {"regions", json::array()}};
  for (const RegionState& region : state.regions) {
    document["regions"].push_back({{"name", region.name},
                                   {"address", region.address},
                                   {"network", region.network},
                                   {"descriptor", region.descriptor}});
  }
  return WriteFileAtomically(LabDirectory(state.name) + "/state.json", document.dump(2) + "\n");
}

std::vector<LabState> AllLabs() {
  std::vector<LabState> labs;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(LabsDirectory(), error)) {
    const std::string name = entry.path().filename().string();
    const auto text = ReadFile(entry.path().string() + "/state.json", kMostStateBytes);
    if (!text.ok() || !CheckLabName(name).ok()) continue;
    if (auto state = ParseState(*text, name); state.ok()) labs.push_back(*std::move(state));
  }
  std::sort(labs.begin(), labs.end(),
            [](const LabState& a, const LabState& b) { return a.name < b.name; });
  return labs;
}

StatusOr<LabState> FindLab(const std::string& name) {
  if (!name.empty()) return ReadLabState(name);
  if (const auto variable = GetEnv("ATOLL_LAB"); variable && !variable->empty()) {
    auto state = ReadLabState(*variable);
    if (!state.ok()) return Annotate(state.status(), "$ATOLL_LAB");
    return state;
  }
  const std::vector<LabState> labs = AllLabs();
  if (labs.size() == 1) return labs[0];
  std::vector<std::string> names;
  for (const LabState& lab : labs) names.push_back(lab.name);
  return UsageError(labs.empty() ? "no lab is up; wanlab up FILE brings one up"
                                 : absl::StrCat("which lab? Say --name or set ATOLL_LAB; there "
                                                "are: ",
                                                absl::StrJoin(names, ", ")));
}

StatusOr<Fd> LockLabs() {
  RETURN_IF_ERROR(MakeDirectories(LabsDirectory(), 0700));
  ASSIGN_OR_RETURN(Fd lock, OpenFile(LabsDirectory() + "/lock", O_RDWR | O_CREAT | O_CLOEXEC));
  while (flock(lock.get(), LOCK_EX) != 0) {
    if (errno != EINTR) return ErrnoError(errno, "cannot lock " + LabsDirectory());
  }
  return lock;
}

std::string RegionAddress(int slot, int region) {
  return absl::StrCat("10.", 64 + slot / 256, ".", slot % 256, ".", region + 1);
}

int FreeSlot() {
  std::set<int> taken;
  for (const LabState& lab : AllLabs()) taken.insert(lab.slot);
  int slot = 0;
  while (taken.count(slot) > 0 && slot + 1 < kMostSlots) ++slot;
  return slot;
}

void RemoveRemains(const LabState& state) {
  std::vector<uint64_t> networks;
  for (const RegionState& region : state.regions) networks.push_back(region.network);
  for (int attempt = 0; attempt < 400; ++attempt) {
    int left = 0;
    for (const pid_t pid : ProcessesIn(networks)) {
      if (!CarriesName(pid, state.name)) continue;
      kill(pid, SIGKILL);
      ++left;
    }
    if (left == 0) break;
    Clock::Real()->SleepFor(absl::Milliseconds(5));
  }
  std::error_code error;
  fs::remove_all(LabDirectory(state.name), error);
}

}  // namespace atl
