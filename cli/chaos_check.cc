#include "cli/chaos_check.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/range.h"
#include "checkpoint/checkpoint.h"
#include "cli/run_directory.h"
#include "orchestrator/store/database.h"
#include "orchestrator/store/details.h"
#include "proto/membership.pb.h"

namespace atl {
namespace {

namespace fs = std::filesystem;

// Every round from 1 on is there, once.
Status CheckRounds(Database* database, const nlohmann::json& summary, ChaosVerdict* verdict) {
  const int64_t total = static_cast<int64_t>(NumberOr(summary, "rounds_total", 0));
  ASSIGN_OR_RETURN(Statement row, database->Prepare("SELECT round, count(*) FROM rounds WHERE "
                                                    "superseded=0 GROUP BY round ORDER BY round"));
  int64_t next = 1;
  for (;;) {
    ASSIGN_OR_RETURN(const bool more, row.Step());
    if (!more) break;
    if (row.Int(0) != next || row.Int(1) != 1) {
      verdict->broken.push_back(
          absl::StrCat("round ", next, " is missing, or there more than once"));
      return OkStatus();
    }
    ++next;
  }
  verdict->rounds = next - 1;
  if (verdict->rounds != total) {
    verdict->broken.push_back(absl::StrCat(verdict->rounds, " of ", total, " rounds committed"));
  }
  return OkStatus();
}

// What is committed and what was returned at last are, together, all samples up to the next one;
// none is twice.
Status CheckLedger(Database* database, ChaosVerdict* verdict) {
  std::vector<Range> all;
  ASSIGN_OR_RETURN(Statement row, database->Prepare("SELECT first, end, rest FROM samples WHERE "
                                                    "superseded=0 AND state=2"));
  for (;;) {
    ASSIGN_OR_RETURN(const bool more, row.Step());
    if (!more) break;
    std::vector<Range> ranges = RangesFromText(row.Text(2));
    ranges.push_back({row.Int(0), row.Int(1)});
    for (const Range& range : ranges) {
      verdict->samples += range.size();
      if (!range.empty()) all.push_back(range);
    }
  }
  ASSIGN_OR_RETURN(verdict->returned,
                   database->QueryInt("SELECT count(*) FROM samples WHERE state=3"));
  ASSIGN_OR_RETURN(verdict->views, database->QueryInt("SELECT count(*) FROM views"));
  ASSIGN_OR_RETURN(Statement state, database->Prepare("SELECT state FROM ledger"));
  ASSIGN_OR_RETURN(const bool there, state.Step());
  pb::LedgerState ledger;
  if (!there || !ledger.ParseFromString(state.Blob(0))) {
    verdict->broken.push_back("the ledger is not in the store");
    return OkStatus();
  }
  for (const pb::SampleRange& range : ledger.returned())
    all.push_back({range.begin(), range.end()});
  std::sort(all.begin(), all.end(),
            [](const Range& a, const Range& b) { return a.begin < b.begin; });
  int64_t next = 0;
  for (const Range& range : all) {
    if (range.begin != next) {
      verdict->broken.push_back(
          absl::StrCat("sample ", std::min(next, range.begin),
                       range.begin > next ? " was skipped" : " counts twice"));
      return OkStatus();
    }
    next = range.end;
  }
  if (next != ledger.next_sample()) {
    verdict->broken.push_back(
        absl::StrCat("the ledger's next sample is ", ledger.next_sample(), ", not ", next));
  }
  return OkStatus();
}

// Every region that saved the last round saved the ledger's digest.
Status CheckReplicas(const std::string& run_dir, const nlohmann::json& summary,
                     ChaosVerdict* verdict) {
  const std::string digest = TextOr(summary, "digest", "");
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(run_dir, error)) {
    std::vector<std::string> ignored;
    const std::string directory = entry.path().string() + "/checkpoints";
    if (!fs::is_directory(directory, error)) continue;
    for (const checkpoint::Found& found : checkpoint::List(directory, &ignored)) {
      if (found.description.round != verdict->rounds) continue;
      ++verdict->replicas;
      if (found.description.digest == digest) continue;
      verdict->broken.push_back(absl::StrCat(found.path, " has digest ", found.description.digest,
                                             ", the ledger ", digest));
    }
  }
  if (verdict->replicas == 0) {
    verdict->broken.push_back("no region has saved the last round: its digest cannot be compared");
  }
  return OkStatus();
}

}  // namespace

StatusOr<ChaosVerdict> CheckChaos(const std::string& run_dir) {
  ChaosVerdict verdict;
  const nlohmann::json summary = ReadSummary(run_dir);
  const std::string state = TextOr(summary, "state", "unknown");
  if (state != "done") {
    verdict.broken.push_back(
        absl::StrCat("the job is not done but ", state, ": ", TextOr(summary, "reason", "")));
  }
  ASSIGN_OR_RETURN(const auto database, Database::Open(run_dir + "/atoll.db"));
  RETURN_IF_ERROR(CheckRounds(database.get(), summary, &verdict));
  RETURN_IF_ERROR(CheckLedger(database.get(), &verdict));
  RETURN_IF_ERROR(CheckReplicas(run_dir, summary, &verdict));
  return verdict;
}

}  // namespace atl
