// List: which checkpoints of a directory can be used. Reads only; safe beside a save.
#include <algorithm>
#include <filesystem>
#include <map>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/names.h"

namespace atl::checkpoint {

std::vector<Found> List(const std::string& directory, std::vector<std::string>* ignored) {
  namespace fs = std::filesystem;
  auto ignore = [&](const std::string& name, absl::string_view why) {
    if (ignored != nullptr) ignored->push_back(absl::StrCat(directory, "/", name, ": ", why));
  };
  std::map<int64_t, std::string> rounds, replaced;
  std::vector<std::string> others;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (const auto round = RoundOfName(name)) {
      rounds[*round] = name;
    } else if (const auto moved = RoundOfReplacedName(name)) {
      replaced[*moved] = name;
    } else if (!IsOfTransfers(name) && name != ".lock") {
      others.push_back(name);
    }
  }
  if (error && error != std::errc::no_such_file_or_directory) ignore("", error.message());
  // A save that replaced a round ended half-way: the one moved aside counts (see staging.h).
  rounds.merge(replaced);

  std::vector<Found> found;
  for (auto round = rounds.rbegin(); round != rounds.rend(); ++round) {
    const std::string path = absl::StrCat(directory, "/", round->second);
    const StatusOr<std::unique_ptr<Checkpoint>> opened = Checkpoint::Open(path);
    if (!opened.ok()) {
      ignore(round->second, opened.status().message());
    } else if ((*opened)->description().round != round->first) {
      ignore(round->second,
             absl::StrCat("it holds round ", (*opened)->description().round, ": rename it"));
    } else {
      found.push_back({path, (*opened)->description(), (*opened)->key_id()});
    }
  }
  std::sort(others.begin(), others.end());
  for (const std::string& name : others) {
    ignore(name, IsLeftoverName(name) ? "a save is under way, or ended before it was complete"
                 : IsPullName(name)   ? "a pull is under way, or was cut short and can go on"
                                      : "not the name of a checkpoint (round-000000)");
  }
  return found;
}

}  // namespace atl::checkpoint
