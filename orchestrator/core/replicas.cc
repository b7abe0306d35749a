#include "orchestrator/core/replicas.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "orchestrator/core/core.h"
#include "orchestrator/core/regions.h"

namespace atl {
namespace {

constexpr size_t kPrefixBytes = 8;

ReplicaDifference Compare(const std::string& region, const pb::CheckpointReport& report,
                          const pb::CheckpointReport& other) {
  ReplicaDifference difference;
  difference.region = region;
  std::map<std::string, std::string> expected;
  for (const pb::ReplicatedFile& file : other.replicated()) expected[file.name()] = file.chunks();
  const auto note = [&](const std::string& file, int64_t chunk) {
    ++difference.chunks;
    if (!difference.file.empty()) return;
    difference.file = file;
    difference.chunk = chunk;
  };
  for (const pb::ReplicatedFile& file : report.replicated()) {
    const auto found = expected.find(file.name());
    if (found == expected.end()) {
      note(file.name(), -1);
      continue;
    }
    const std::string& mine = file.chunks();
    const std::string& theirs = found->second;
    const size_t longest = std::max(mine.size(), theirs.size());
    for (size_t at = 0; at < longest; at += kPrefixBytes) {
      const bool both = at < mine.size() && at < theirs.size();
      if (!both || mine.compare(at, kPrefixBytes, theirs, at, kPrefixBytes) != 0) {
        note(file.name(), static_cast<int64_t>(at / kPrefixBytes));
      }
    }
  }
  return difference;
}

}  // namespace

std::vector<ReplicaDifference> CompareReplicas(
    const std::map<std::string, pb::CheckpointReport>& reports) {
  std::map<std::string, std::string> roots;
  for (const auto& [region, report] : reports) {
    if (!report.replicated_root().empty()) roots[region] = report.replicated_root();
  }
  const std::vector<std::string> minority = Minority(roots);
  std::vector<ReplicaDifference> differences;
  for (const std::string& region : minority) {
    // Someone of the majority; where there is none, the first region that says otherwise.
    const pb::CheckpointReport* other = nullptr;
    for (const auto& [name, root] : roots) {
      const bool outvoted = std::count(minority.begin(), minority.end(), name) > 0;
      if (root == roots[region] || (outvoted && minority.size() < roots.size())) continue;
      other = &reports.at(name);
      break;
    }
    if (other == nullptr) continue;
    differences.push_back(Compare(region, reports.at(region), *other));
    for (const auto& [name, root] : roots) {
      if (std::count(minority.begin(), minority.end(), name) > 0) continue;
      differences.back().right.push_back(name);
      differences.back().right_root = root;
    }
  }
  return differences;
}

// The digests of the round were the same, so the state was; a replica that differs was damaged on
// its way to the disk.
void Core::TellReplicaDifferences(int64_t round,
                                  const std::map<std::string, pb::CheckpointReport>& reports) {
  for (const ReplicaDifference& one : CompareReplicas(reports)) {
    const std::string where = one.file.empty() ? "in a file that is not known"
                              : one.chunk < 0
                                  ? absl::StrCat("in ", one.file)
                                  : absl::StrCat("in ", one.file, ", chunk ", one.chunk);
    const std::string& path = reports.at(one.region).checkpoint().path();
    const std::string what_next =
        HaveMended(one, round, reports)
            ? absl::StrCat("it is mended from ", absl::StrJoin(one.right, ", "))
        : one.right.empty() ? std::string("there is no majority that says which is right")
                            : absl::StrCat("mend it with `atoll checkpoint repair ", path,
                                           " --replicated_root=", one.right_root,
                                           " --from=...` from ", absl::StrJoin(one.right, ", "));
    Event("checkpoint_differs", one.region, round,
          absl::StrCat("region ", one.region, "'s checkpoint of round ", round,
                       " differs from the others' ", where, " (", one.chunks,
                       " chunks in all): ", what_next, ". Look at that region's memory"),
          {{"path", path},
           {"file", one.file},
           {"chunk", one.chunk},
           {"chunks", one.chunks},
           {"replicated_root", one.right_root}});
  }
}

// Those who are about to leave have no time for it.
bool Core::HaveMended(const ReplicaDifference& difference, int64_t round,
                      const std::map<std::string, pb::CheckpointReport>& reports) {
  if (!elastic_ || difference.right.empty() || round >= view_.last_round() ||
      !stop_reason_.empty()) {
    return false;
  }
  pb::OrchestratorMessage message;
  pb::MendCheckpoint& order = *message.mutable_mend();
  order.set_view(view_.id());
  order.set_round(round);
  order.set_replicated_root(difference.right_root);
  for (const std::string& region : difference.right) {
    order.set_path(reports.at(region).checkpoint().path());
    Send(region, message);
  }
  order.set_path(reports.at(difference.region).checkpoint().path());
  order.mutable_sources()->Assign(difference.right.begin(), difference.right.end());
  Send(difference.region, message);
  return true;
}

void Core::OnTended(RegionEntry& entry, const pb::CheckpointTended& tended) {
  if (!InView(entry, tended.view())) return;
  const std::string subject =
      absl::StrCat("region ", entry.name(), "'s checkpoint of round ", tended.round());
  const bool done = tended.failure().empty();
  std::string kind, text;
  if (tended.place().empty()) {
    kind = done ? "checkpoint_mended" : "checkpoint_not_mended";
    text = done ? absl::StrCat(subject, " is the same as the others' again: ", tended.chunks(),
                               " chunks came from them")
                : absl::StrCat(subject, " is not mended: ", tended.failure(),
                               "; `atoll checkpoint repair ", tended.path(),
                               " --replicated_root=... --from=...` does it by hand");
  } else {
    kind = done ? "checkpoint_pushed" : "checkpoint_not_pushed";
    text = done ? absl::StrCat(subject, " is in ", tended.place())
                : absl::StrCat(subject, " is not yet in ", tended.place(), ": ", tended.failure(),
                               "; it is tried again until a newer one comes");
  }
  Event(kind, entry.name(), tended.round(), text,
        {{"path", tended.path()},
         {"place", tended.place()},
         {"chunks", tended.chunks()},
         {"bytes", tended.bytes()},
         {"seconds", tended.seconds()}});
}

}  // namespace atl
