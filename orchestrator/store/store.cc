#include "orchestrator/store/store.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/log.h"
#include "orchestrator/store/database.h"
#include "orchestrator/store/details.h"
#include "orchestrator/store/schema.h"
#include "orchestrator/store/step_log.h"
#include "orchestrator/store/writer.h"

namespace atl {
namespace {

Status CreateOrCheckSchema(Database& database) {
  ASSIGN_OR_RETURN(const int64_t version, database.QueryInt("PRAGMA user_version"));
  ASSIGN_OR_RETURN(const int64_t application, database.QueryInt("PRAGMA application_id"));
  ASSIGN_OR_RETURN(const int64_t tables, database.QueryInt("SELECT count(*) FROM sqlite_master"));
  if (tables == 0 && version == 0) {
    return database.Execute(absl::StrCat("BEGIN IMMEDIATE; ", kCreateTables,
                                         "PRAGMA application_id=", kApplicationId,
                                         "; PRAGMA user_version=", kSchemaVersion, "; COMMIT"));
  }
  if (application != kApplicationId) {
    return UsageError(absl::StrCat("database ", database.path(),
                                   " is not atoll's: move it away or take another --run_dir"));
  }
  if (version > kSchemaVersion) {
    return UsageError(absl::StrCat("database ", database.path(), " has schema version ", version,
                                   ", this atoll knows up to ", kSchemaVersion,
                                   ": use the newer atoll that wrote it"));
  }
  if (version == 1) {
    return database.Execute(absl::StrCat("BEGIN IMMEDIATE; ", kUpgradeFrom1,
                                         "PRAGMA user_version=", kSchemaVersion, "; COMMIT"));
  }
  return OkStatus();
}

template <typename Message>
Status ParseBlob(const Statement& row, int column, const char* what, Message* message) {
  if (message->ParseFromString(row.Blob(column))) return OkStatus();
  return UsageError(absl::StrCat("the database holds a damaged ", what));
}

// round, region, first, end, state, report, rest, samples_per_step
StatusOr<SampleRecord> SampleOf(const Statement& row) {
  SampleRecord r;
  r.round = row.Int(0), r.region = row.Text(1);
  // None: who only heard the round.
  if (row.Int(2) < row.Int(3)) r.samples = {{row.Int(2), row.Int(3)}};
  r.state = static_cast<SampleState>(row.Int(4));
  if (!row.IsNull(5)) RETURN_IF_ERROR(ParseBlob(row, 5, "report", &r.report.emplace()));
  for (const Range& range : RangesFromText(row.Text(6))) r.samples.push_back(range);
  r.samples_per_step = row.Int(7);
  return r;
}

std::string CopyMark(const std::string& path) { return path + ".copy"; }

bool Exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

// Makes room for a copy of the log.
Status RemoveFormerCopy(const std::string& path, const StepLog& log) {
  if (Exists(path) && !Exists(CopyMark(path))) {
    return UsageError(absl::StrCat(
        path, " is the store of a job of its own, not a copy of what is in ", log.name(),
        ": take another --run_dir, or --store=sqlite to go on with that job"));
  }
  RETURN_IF_ERROR(WriteFileAtomically(CopyMark(path), log.name() + "\n"));
  for (const char* suffix : {"", "-wal", "-shm"}) {
    const std::string file = path + suffix;
    if (Exists(file) && std::remove(file.c_str()) != 0) {
      return ErrnoError(errno, absl::StrCat("cannot remove ", file));
    }
  }
  return OkStatus();
}

}  // namespace

Store::Store(std::unique_ptr<Database> database, std::unique_ptr<RecordWriter> writer)
    : database_(std::move(database)), writer_(std::move(writer)) {}

// Statements go before their database.
Store::~Store() { writer_.reset(); }

StatusOr<std::unique_ptr<Store>> Store::Open(const std::string& path, StepLog* log) {
  if (log == nullptr) {
    if (Exists(CopyMark(path))) {
      return UsageError(absl::StrCat(path, " is a copy of what is in another store (", path,
                                     ".copy says which): give that one with --store, or take "
                                     "another --run_dir"));
    }
    return OpenDatabase(path);
  }
  RETURN_IF_ERROR(RemoveFormerCopy(path, *log));
  ASSIGN_OR_RETURN(const std::optional<std::string> image, log->ReadImage());
  if (image) {
    ASSIGN_OR_RETURN(const Fd file, OpenFile(path, O_WRONLY | O_CREAT | O_EXCL, 0600));
    RETURN_IF_ERROR(WriteAt(file, path, image->data(), static_cast<int64_t>(image->size()), 0));
  }
  ASSIGN_OR_RETURN(std::unique_ptr<Store> store, OpenDatabase(path));
  RETURN_IF_ERROR(log->ReadSteps(
      [&](const std::vector<Record>& records) { return store->ApplyTo(nullptr, records); }));
  store->log_ = log;
  return store;
}

StatusOr<std::unique_ptr<Store>> Store::OpenDatabase(const std::string& path) {
  ASSIGN_OR_RETURN(std::unique_ptr<Database> database, Database::Open(path));
  RETURN_IF_ERROR(CreateOrCheckSchema(*database));
  ASSIGN_OR_RETURN(std::unique_ptr<RecordWriter> writer, RecordWriter::Create(database.get()));
  return std::unique_ptr<Store>(new Store(std::move(database), std::move(writer)));
}

Status Store::Apply(const std::vector<Record>& records) {
  if (records.empty()) return OkStatus();
  RETURN_IF_ERROR(ApplyTo(log_, records));
  if (log_ == nullptr || !log_->WantsImage()) return OkStatus();
  ASSIGN_OR_RETURN(const std::string image, database_->Image());
  const Status written = log_->WriteImage(image);
  // The steps are all there; the next step tries again.
  if (!written.ok()) LOG(WARNING) << "the log keeps its old image: " << written.message();
  return OkStatus();
}

Status Store::ApplyTo(StepLog* log, const std::vector<Record>& records) {
  // A step may give out samples of a view before it says what the view is: all must fit at the end.
  RETURN_IF_ERROR(database_->Execute("BEGIN IMMEDIATE; PRAGMA defer_foreign_keys=ON"));
  Status status;
  for (const Record& record : records) {
    status = std::visit([&](const auto& typed) { return writer_->Write(typed); }, record);
    if (!status.ok()) break;
  }
  // What COMMIT would refuse must not get into the log.
  if (status.ok()) status = database_->CheckReferences();
  if (status.ok() && log != nullptr) status = log->Append(records);
  if (status.ok()) status = database_->Execute("COMMIT");
  // SQLite may have rolled back by itself (disk full); then there is nothing left to do.
  if (!status.ok()) database_->Execute("ROLLBACK").IgnoreError();
  return status;
}

StatusOr<History> Store::LoadHistory() {
  History history;
  ASSIGN_OR_RETURN(history.run, database_->QueryInt("SELECT max(run) FROM jobs"));
  ASSIGN_OR_RETURN(history.last_event, database_->QueryInt("SELECT max(number) FROM events"));
  ASSIGN_OR_RETURN(history.last_view, database_->QueryInt("SELECT max(id) FROM views"));
  ASSIGN_OR_RETURN(history.last_round,
                   database_->QueryInt("SELECT max(round) FROM rounds WHERE superseded=0"));
  RETURN_IF_ERROR(LoadState(&history));
  return history;
}

Status Store::LoadState(History* history) {
  ASSIGN_OR_RETURN(Statement membership, database_->Prepare("SELECT state FROM membership"));
  ASSIGN_OR_RETURN(const bool any, membership.Step());
  if (!any) return OkStatus();
  RETURN_IF_ERROR(ParseBlob(membership, 0, "membership", &history->membership.emplace()));
  ASSIGN_OR_RETURN(Statement ledger, database_->Prepare("SELECT state FROM ledger"));
  ASSIGN_OR_RETURN(const bool ledger_there, ledger.Step());
  if (ledger_there) {
    RETURN_IF_ERROR(ParseBlob(ledger, 0, "ledger", &history->ledger.emplace()));
  }
  ASSIGN_OR_RETURN(history->job, Job());
  ASSIGN_OR_RETURN(history->regions, Regions());
  ASSIGN_OR_RETURN(
      Statement row,
      database_->Prepare("SELECT round, region, first, end, state, report, rest, samples_per_step,"
                         " view FROM samples WHERE superseded=0 AND state IN (0, 1)"
                         " ORDER BY round, first"));
  while (true) {
    ASSIGN_OR_RETURN(const bool more, row.Step());
    if (!more) break;
    ASSIGN_OR_RETURN(SampleRecord record, SampleOf(row));
    record.view = row.Int(8);
    history->open_samples.push_back(std::move(record));
  }
  RETURN_IF_ERROR(LoadEvaluations(history));
  return ForEachRound(
      [&](const RoundRecord& round) { history->digests[round.round] = round.digest; });
}

Status Store::LoadEvaluations(History* history) {
  ASSIGN_OR_RETURN(
      Statement row,
      database_->Prepare("SELECT view, round, region, loss_sum, tokens FROM evaluations AS e"
                         " WHERE superseded=0 AND region<>'' AND NOT EXISTS (SELECT 1 FROM"
                         " evaluations WHERE view=e.view AND round=e.round AND region='')"));
  while (true) {
    ASSIGN_OR_RETURN(const bool more, row.Step());
    if (!more) return OkStatus();
    history->open_evaluations.push_back(
        {row.Int(0), row.Int(1), row.Text(2), row.Real(3), row.Int(4)});
  }
}

Status Store::ForEachRound(const std::function<void(const RoundRecord&)>& use) {
  ASSIGN_OR_RETURN(
      Statement row,
      database_->Prepare("SELECT view, round, digest, train_loss, tokens, tokens_total, seconds,"
                         " wan_seconds, gradient_norm, learning_rate, wan_bytes_sent, time"
                         " FROM rounds WHERE superseded=0 ORDER BY round"));
  while (true) {
    ASSIGN_OR_RETURN(const bool more, row.Step());
    if (!more) return OkStatus();
    use(RoundRecord{row.Int(0), row.Int(1), row.Text(2), row.Real(3), row.Int(4), row.Int(5),
                    row.Real(6), row.Real(7), row.Real(8), row.Real(9), row.Int(10), row.Real(11)});
  }
}

Status Store::ForEachEvent(const std::function<void(const EventRecord&)>& use) {
  ASSIGN_OR_RETURN(Statement row,
                   database_->Prepare("SELECT number, time, kind, region, round, text, details"
                                      " FROM events ORDER BY number"));
  while (true) {
    ASSIGN_OR_RETURN(const bool more, row.Step());
    if (!more) return OkStatus();
    use(EventRecord{row.Int(0), row.Real(1), row.Text(2), row.Text(3), row.Int(4), row.Text(5),
                    DetailsFromJson(row.Text(6))});
  }
}

StatusOr<std::map<std::string, Store::RegionTotals>> Store::Totals() {
  std::map<std::string, RegionTotals> totals;
  ASSIGN_OR_RETURN(Statement row,
                   database_->Prepare("SELECT region, sum(tokens), sum(wan_bytes_sent) FROM samples"
                                      " WHERE superseded=0 AND state=? GROUP BY region"));
  row.Bind(static_cast<int>(SampleState::kCommitted));
  while (true) {
    ASSIGN_OR_RETURN(const bool more, row.Step());
    if (!more) return totals;
    totals[row.Text(0)] = {row.Int(1), row.Int(2)};
  }
}

StatusOr<std::vector<Store::Evaluation>> Store::Evaluations() {
  std::vector<Evaluation> evaluations;
  // A resumed job may have evaluated a round twice; the bare columns are those of the newest view
  // (SQLite's rule for a single max()).
  ASSIGN_OR_RETURN(Statement row,
                   database_->Prepare("SELECT round, loss_sum, tokens, max(view) FROM evaluations"
                                      " WHERE superseded=0 AND region='' AND tokens>0"
                                      " GROUP BY round ORDER BY round"));
  while (true) {
    ASSIGN_OR_RETURN(const bool more, row.Step());
    if (!more) return evaluations;
    evaluations.push_back({row.Int(0), row.Real(1) / static_cast<double>(row.Int(2))});
  }
}

StatusOr<int64_t> Store::LastCheckpoint() {
  return database_->QueryInt(
      "SELECT max(round) FROM checkpoints WHERE superseded=0 AND complete=1");
}

StatusOr<std::vector<RegionRecord>> Store::Regions() {
  std::vector<RegionRecord> regions;
  ASSIGN_OR_RETURN(Statement row,
                   database_->Prepare(
                       "SELECT name, state, why, since, heard, attempt, workers, host, pid,"
                       " version, accelerator, doing, round, digest, next_sequence, phases, ready,"
                       " caught_up, lease_end, left FROM regions ORDER BY name"));
  while (true) {
    ASSIGN_OR_RETURN(const bool more, row.Step());
    if (!more) return regions;
    RegionRecord r;
    r.name = row.Text(0), r.state = row.Text(1), r.why = row.Text(2);
    r.since = row.Real(3), r.heard = row.Real(4), r.attempt = row.Text(5);
    r.workers = static_cast<int>(row.Int(6)), r.host = row.Text(7), r.pid = row.Int(8);
    r.version = row.Text(9), r.accelerator = row.Text(10), r.doing = row.Text(11);
    r.round = row.Int(12), r.digest = row.Text(13);
    r.next_sequence = static_cast<uint64_t>(row.Int(14));
    RETURN_IF_ERROR(ParseBlob(row, 15, "region", &r.phases));
    if (!row.IsNull(16)) {
      RETURN_IF_ERROR(ParseBlob(row, 16, "region", &r.ready.emplace()));
    }
    r.caught_up = row.Int(17) != 0, r.lease_end = row.Real(18);
    if (!row.IsNull(19)) {
      RETURN_IF_ERROR(ParseBlob(row, 19, "region", &r.left.emplace()));
    }
    regions.push_back(std::move(r));
  }
}

StatusOr<std::optional<JobRecord>> Store::Job() {
  ASSIGN_OR_RETURN(Statement row,
                   database_->Prepare(
                       "SELECT run, state, reason, exit_code, started, since, first_view, ended,"
                       " parameters, dataset_samples, dataset_fingerprint, resumed_from,"
                       " resumed_digest, resumed_sample, job FROM jobs ORDER BY run DESC LIMIT 1"));
  ASSIGN_OR_RETURN(const bool found, row.Step());
  if (!found) return std::optional<JobRecord>();
  JobRecord r;
  r.run = row.Int(0), r.state = row.Text(1), r.reason = row.Text(2);
  r.exit_code = static_cast<int>(row.Int(3));
  r.started = row.Real(4), r.since = row.Real(5), r.first_view = row.Real(6), r.ended = row.Real(7);
  r.parameters = row.Int(8), r.dataset_samples = row.Int(9);
  r.dataset_fingerprint = static_cast<uint64_t>(row.Int(10));
  r.resumed_from = row.Int(11), r.resumed_digest = row.Text(12);
  r.resumed_sample = row.Int(13);
  RETURN_IF_ERROR(ParseBlob(row, 14, "job", &r.job));
  return std::optional<JobRecord>(std::move(r));
}

StatusOr<std::optional<ViewRecord>> Store::LastView() {
  ASSIGN_OR_RETURN(
      Statement row,
      database_->Prepare("SELECT time, view, checkpoints FROM views ORDER BY id DESC LIMIT 1"));
  ASSIGN_OR_RETURN(const bool found, row.Step());
  if (!found) return std::optional<ViewRecord>();
  ViewRecord r;
  r.time = row.Real(0);
  RETURN_IF_ERROR(ParseBlob(row, 1, "view", &r.view));
  r.checkpoints = PathsFromJson(row.Text(2));
  return std::optional<ViewRecord>(std::move(r));
}

StatusOr<std::vector<SampleRecord>> Store::Samples(int64_t view) {
  std::vector<SampleRecord> samples;
  ASSIGN_OR_RETURN(
      Statement row,
      database_->Prepare("SELECT round, region, first, end, state, report, rest,"
                         " samples_per_step FROM samples WHERE view=? ORDER BY round, first"));
  row.Bind(view);
  while (true) {
    ASSIGN_OR_RETURN(const bool more, row.Step());
    if (!more) return samples;
    ASSIGN_OR_RETURN(SampleRecord r, SampleOf(row));
    r.view = view;
    samples.push_back(std::move(r));
  }
}

}  // namespace atl
