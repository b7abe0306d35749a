#include "orchestrator/core/replicas.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "orchestrator/core/core.h"
#include "orchestrator/core/regions.h"

namespace atl {
namespace {

constexpr size_t kPrefixBytes = 8;
constexpr size_t kMostProofs = 8;  // asked for at a time

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

std::string HowToMend(const ReplicaDifference& difference, const std::string& path) {
  return absl::StrCat("mend it with `atoll checkpoint repair ", path,
                      " --replicated_root=", difference.right_root, " --from=...` from ",
                      absl::StrJoin(difference.right, ", "));
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
  const std::vector<ReplicaDifference> differences = CompareReplicas(reports);
  const bool proved =
      !differences.empty() && differences.front().right.empty() && HaveProved(round, reports);
  std::map<std::string, std::string> paths;
  for (const auto& [region, report] : reports) paths[region] = report.checkpoint().path();
  for (const ReplicaDifference& one : differences) {
    const std::string where = one.file.empty() ? "in a file that is not known"
                              : one.chunk < 0
                                  ? absl::StrCat("in ", one.file)
                                  : absl::StrCat("in ", one.file, ", chunk ", one.chunk);
    const std::string what_next =
        proved ? std::string(
                     "there is no majority that says which is right; each region looks whether "
                     "its own has the round's state")
        : one.right.empty()
            ? std::string(
                  "there is no majority that says which is right; a run that goes on takes only "
                  "what has the round's state")
        : HaveMended(one, round, paths)
            ? absl::StrCat("it is mended from ", absl::StrJoin(one.right, ", "))
            : HowToMend(one, paths[one.region]);
    Event("checkpoint_differs", one.region, round,
          absl::StrCat("region ", one.region, "'s checkpoint of round ", round,
                       " differs from the others' ", where, " (", one.chunks,
                       " chunks in all): ", what_next, ". Look at that region's memory"),
          {{"path", paths[one.region]},
           {"file", one.file},
           {"chunk", one.chunk},
           {"chunks", one.chunks},
           {"replicated_root", one.right_root}});
  }
}

// Those who are about to leave have no time for it.
bool Core::TendsCheckpoints(int64_t round) const {
  return elastic_ && round < view_.last_round() && stop_reason_.empty();
}

bool Core::HaveMended(const ReplicaDifference& difference, int64_t round,
                      const std::map<std::string, std::string>& paths) {
  if (difference.right.empty() || !TendsCheckpoints(round)) return false;
  pb::OrchestratorMessage message;
  pb::MendCheckpoint& order = *message.mutable_mend();
  order.set_view(view_.id());
  order.set_round(round);
  order.set_replicated_root(difference.right_root);
  for (const std::string& region : difference.right) {
    order.set_path(paths.at(region));
    Send(region, message);
  }
  order.set_path(paths.at(difference.region));
  order.mutable_sources()->Assign(difference.right.begin(), difference.right.end());
  Send(difference.region, message);
  return true;
}

bool Core::HaveProved(int64_t round, const std::map<std::string, pb::CheckpointReport>& reports) {
  if (!TendsCheckpoints(round)) return false;
  if (proofs_.size() >= kMostProofs) proofs_.erase(proofs_.begin());  // somebody never answered
  ReplicaProof& proof = proofs_[round];
  for (const auto& [region, report] : reports) {
    if (report.replicated_root().empty()) continue;
    proof.replicas[region] = {report.checkpoint().path(), report.replicated_root(), std::nullopt};
    pb::OrchestratorMessage message;
    message.mutable_mend()->set_view(view_.id());
    message.mutable_mend()->set_round(round);
    message.mutable_mend()->set_path(report.checkpoint().path());
    Send(region, message);
  }
  return true;
}

bool Core::TakeProof(const RegionEntry& entry, const pb::CheckpointTended& tended) {
  const auto found = proofs_.find(tended.round());
  if (found == proofs_.end() || !tended.place().empty()) return false;
  std::map<std::string, ReplicaProof::Replica>& replicas = found->second.replicas;
  const auto replica = replicas.find(entry.name());
  if (replica == replicas.end() || replica->second.path != tended.path()) return false;
  if (!replica->second.failure) replica->second.failure = tended.failure();
  for (const auto& [region, one] : replicas) {
    if (!one.failure) return true;
  }
  const ReplicaProof proof = std::move(found->second);
  proofs_.erase(found);
  Decide(tended.round(), proof);
  return true;
}

void Core::Decide(int64_t round, const ReplicaProof& proof) {
  ReplicaDifference difference;
  std::map<std::string, std::string> paths;
  std::vector<std::string> whys;
  bool same = true;
  for (const auto& [region, replica] : proof.replicas) {
    paths[region] = replica.path;
    if (!replica.failure->empty()) {
      whys.push_back(absl::StrCat(region, ": ", *replica.failure));
      continue;
    }
    same = same && (difference.right.empty() || difference.right_root == replica.root);
    difference.right.push_back(region);
    difference.right_root = replica.root;
  }
  const std::string subject = absl::StrCat("checkpoint of round ", round);
  if (difference.right.empty()) {
    return Event("checkpoint_undecided", "", round,
                 absl::StrCat("no region's ", subject, " is known to have the round's state (",
                              absl::StrJoin(whys, "; "), "): an older one counts"));
  }
  if (!same) {
    return Event("checkpoint_undecided", "", round,
                 absl::StrCat("the ", subject, " has the round's state in ",
                              absl::StrJoin(difference.right, ", "),
                              ", and other files there: they are encrypted with different keys, or "
                              "written by different versions. Each can be used where it is, none "
                              "can be mended from another"));
  }
  for (const auto& [region, replica] : proof.replicas) {
    if (replica.failure->empty()) continue;
    difference.region = region;
    Event("checkpoint_decided", region, round,
          absl::StrCat(
              "region ", region, "'s ", subject, " is the wrong one: ", *replica.failure, "; ",
              HaveMended(difference, round, paths)
                  ? absl::StrCat("it is mended from ", absl::StrJoin(difference.right, ", "))
                  : HowToMend(difference, replica.path)),
          {{"path", replica.path}, {"replicated_root", difference.right_root}});
  }
}

void Core::OnTended(RegionEntry& entry, const pb::CheckpointTended& tended) {
  if (!InView(entry, tended.view()) || TakeProof(entry, tended)) return;
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
