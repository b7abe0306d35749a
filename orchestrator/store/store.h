// What the orchestrator remembers, in SQLite: the core's records, applied in order, all of a step
// or none of them. With a step log (step_log.h) the log outside of this host is the truth, and the
// database a copy that is made anew from it at each start:
//   1. Open takes the log's image, and applies the steps after it.
//   2. Apply writes a step in a transaction, appends it to the log, and commits then: what is in
//      the database is in the log.
//   3. When the log has grown long, it gets the database's image.
// DIR/atoll.db.copy says of which log the database is a copy; a database without it is nobody's
// copy and is never replaced.
// Tables: jobs, regions, views, rounds, samples, evaluations, checkpoints, events.
//
// Superseded rows stay, marked; the readers below leave them out. The file holds keys of views and
// has mode 0600. One thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "orchestrator/core/records.h"

namespace atl {

class Database;
class RecordWriter;
class StepLog;

class Store {
 public:
  // Sums over what is committed and not superseded, as it stands now.
  struct RegionTotals {
    int64_t tokens = 0;
    int64_t wan_bytes_sent = 0;
  };
  struct Evaluation {
    int64_t round = 0;
    double loss = 0;
  };

  // Opens or creates. Errors: no database, damaged, another program's or of a newer atoll (exit
  // code
  // 2); disk full or not writable (4).
  // `log` (none: this database is the truth) outlives the store.
  static StatusOr<std::unique_ptr<Store>> Open(const std::string& path, StepLog* log = nullptr);
  ~Store();

  // One transaction. After an error nothing of it is there. Waits where the log is out of reach.
  Status Apply(const std::vector<Record>& records);

  StatusOr<History> LoadHistory();
  // In order of rounds and of numbers.
  Status ForEachRound(const std::function<void(const RoundRecord&)>& use);
  Status ForEachEvent(const std::function<void(const EventRecord&)>& use);
  // By region.
  StatusOr<std::map<std::string, RegionTotals>> Totals();
  // Of rounds that every member of the view has evaluated, in order.
  StatusOr<std::vector<Evaluation>> Evaluations();
  // Round of the newest checkpoint that is complete in every region; 0: none.
  StatusOr<int64_t> LastCheckpoint();
  StatusOr<std::vector<RegionRecord>> Regions();
  // Of the last run.
  StatusOr<std::optional<JobRecord>> Job();
  StatusOr<std::optional<ViewRecord>> LastView();
  // Of a view, by round and region.
  StatusOr<std::vector<SampleRecord>> Samples(int64_t view);

 private:
  // What a core needs that goes on where another was stopped.
  Status LoadState(History* history);
  Status LoadEvaluations(History* history);
  Store(std::unique_ptr<Database> database, std::unique_ptr<RecordWriter> writer);
  static StatusOr<std::unique_ptr<Store>> OpenDatabase(const std::string& path);
  // Applies to the database and, if there is one, the log.
  Status ApplyTo(StepLog* log, const std::vector<Record>& records);

  StepLog* log_ = nullptr;
  std::unique_ptr<Database> database_;
  std::unique_ptr<RecordWriter> writer_;
};

}  // namespace atl
