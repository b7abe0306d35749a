#include "orchestrator/store/writer.h"

#include "orchestrator/store/details.h"
#include "proto/sample_pool.h"

namespace atl {
namespace {

constexpr char kJob[] =
    "INSERT OR REPLACE INTO jobs(run, state, reason, exit_code, started, since, first_view, ended,"
    " parameters, dataset_samples, dataset_fingerprint, resumed_from, resumed_digest,"
    " resumed_sample, job) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)";
constexpr char kRegion[] =
    "INSERT INTO regions(name, state, why, since, heard, attempt, workers, host, pid, version,"
    " accelerator, doing, round, digest, next_sequence, phases, ready, caught_up, lease_end, left)"
    " VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT(name) DO UPDATE SET"
    " state=excluded.state, why=excluded.why, since=excluded.since, heard=excluded.heard,"
    " attempt=excluded.attempt, workers=excluded.workers, host=excluded.host, pid=excluded.pid,"
    " version=excluded.version, accelerator=excluded.accelerator, doing=excluded.doing,"
    " round=excluded.round, digest=excluded.digest, next_sequence=excluded.next_sequence,"
    " phases=excluded.phases, ready=CASE WHEN excluded.attempt=attempt"
    " THEN coalesce(excluded.ready, ready) ELSE excluded.ready END,"
    " caught_up=excluded.caught_up, lease_end=excluded.lease_end, left=excluded.left";
constexpr char kView[] =
    "INSERT OR REPLACE INTO views(id, time, view, checkpoints) VALUES(?,?,?,?)";
constexpr char kRound[] =
    "INSERT OR REPLACE INTO rounds(view, round, digest, train_loss, tokens, tokens_total, seconds,"
    " wan_seconds, gradient_norm, learning_rate, wan_bytes_sent, time)"
    " VALUES(?,?,?,?,?,?,?,?,?,?,?,?)";
constexpr char kSample[] =
    "INSERT OR REPLACE INTO samples(view, round, region, first, end, state, tokens,"
    " wan_bytes_sent, report, rest, samples_per_step) VALUES(?,?,?,?,?,?,?,?,?,?,?)";
// What a region reported stays until all have; sums stay for ever.
constexpr char kSampleState[] =
    "UPDATE samples SET state=?, report=NULL WHERE view=? AND round=? AND region=?";
constexpr char kEvaluation[] =
    "INSERT OR REPLACE INTO evaluations(view, round, region, loss_sum, tokens) VALUES(?,?,?,?,?)";
constexpr char kCheckpoint[] =
    "INSERT OR REPLACE INTO checkpoints(view, round, region, digest, path, own, next_sample,"
    " inner_steps, bytes, seconds, time, complete) VALUES(?,?,?,?,?,?,?,?,?,?,?,?)";
constexpr char kMembership[] = "INSERT OR REPLACE INTO membership(one, state) VALUES(1,?)";
constexpr char kLedger[] = "INSERT OR REPLACE INTO ledger(one, state) VALUES(1,?)";
constexpr char kEvent[] =
    "INSERT OR REPLACE INTO events(number, time, kind, region, round, text, details)"
    " VALUES(?,?,?,?,?,?,?)";

}  // namespace

StatusOr<std::unique_ptr<RecordWriter>> RecordWriter::Create(Database* database) {
  ASSIGN_OR_RETURN(Statement job, database->Prepare(kJob));
  ASSIGN_OR_RETURN(Statement region, database->Prepare(kRegion));
  ASSIGN_OR_RETURN(Statement view, database->Prepare(kView));
  ASSIGN_OR_RETURN(Statement round, database->Prepare(kRound));
  ASSIGN_OR_RETURN(Statement sample, database->Prepare(kSample));
  ASSIGN_OR_RETURN(Statement sample_state, database->Prepare(kSampleState));
  ASSIGN_OR_RETURN(Statement evaluation, database->Prepare(kEvaluation));
  ASSIGN_OR_RETURN(Statement checkpoint, database->Prepare(kCheckpoint));
  ASSIGN_OR_RETURN(Statement membership, database->Prepare(kMembership));
  ASSIGN_OR_RETURN(Statement ledger, database->Prepare(kLedger));
  ASSIGN_OR_RETURN(Statement event, database->Prepare(kEvent));
  return std::unique_ptr<RecordWriter>(new RecordWriter(
      database,
      {std::move(job), std::move(region), std::move(view), std::move(round), std::move(sample),
       std::move(sample_state), std::move(evaluation), std::move(checkpoint), std::move(membership),
       std::move(ledger), std::move(event)}));
}

Status RecordWriter::Write(const JobRecord& r) {
  return statements_.job.Bind(r.run)
      .Bind(r.state)
      .Bind(r.reason)
      .Bind(r.exit_code)
      .Bind(r.started)
      .Bind(r.since)
      .Bind(r.first_view)
      .Bind(r.ended)
      .Bind(r.parameters)
      .Bind(r.dataset_samples)
      .Bind(r.dataset_fingerprint)
      .Bind(r.resumed_from)
      .Bind(r.resumed_digest)
      .Bind(r.resumed_sample)
      .BindBlob(r.job.SerializeAsString())
      .Run();
}

Status RecordWriter::Write(const RegionRecord& r) {
  Statement& statement = statements_.region;
  statement.Bind(r.name)
      .Bind(r.state)
      .Bind(r.why)
      .Bind(r.since)
      .Bind(r.heard)
      .Bind(r.attempt)
      .Bind(r.workers)
      .Bind(r.host)
      .Bind(r.pid)
      .Bind(r.version)
      .Bind(r.accelerator)
      .Bind(r.doing)
      .Bind(r.round)
      .Bind(r.digest)
      .Bind(r.next_sequence)
      .BindBlob(r.phases.SerializeAsString());
  if (r.ready) {
    statement.BindBlob(r.ready->SerializeAsString());
  } else {
    statement.BindNull();
  }
  statement.Bind(r.caught_up).Bind(r.lease_end);
  if (r.left) {
    statement.BindBlob(r.left->SerializeAsString());
  } else {
    statement.BindNull();
  }
  return statement.Run();
}

Status RecordWriter::Write(const MembershipRecord& r) {
  return statements_.membership.BindBlob(r.membership.SerializeAsString()).Run();
}

Status RecordWriter::Write(const LedgerRecord& r) {
  return statements_.ledger.BindBlob(r.ledger.SerializeAsString()).Run();
}

Status RecordWriter::Write(const ViewRecord& r) {
  return statements_.view.Bind(r.view.id())
      .Bind(r.time)
      .BindBlob(r.view.SerializeAsString())
      .Bind(PathsToJson(r.checkpoints))
      .Run();
}

Status RecordWriter::Write(const SupersedeRecord& r) {
  int64_t keep = r.round;
  ASSIGN_OR_RETURN(Statement others,
                   database_->Prepare("SELECT count(*) FROM rounds WHERE superseded=0 AND round=?"
                                      " AND digest<>?"));
  ASSIGN_OR_RETURN(const bool row, others.Bind(r.round).Bind(r.digest).Step());
  if (row && others.Int(0) > 0) keep = -1;
  if (keep == 0) keep = -1;  // from the seed: the evaluation before the first round comes again
  for (const char* table : {"rounds", "samples", "evaluations", "checkpoints"}) {
    ASSIGN_OR_RETURN(Statement statement,
                     database_->Prepare(std::string("UPDATE ") + table +
                                        " SET superseded=1 WHERE superseded=0 AND round>?"));
    RETURN_IF_ERROR(statement.Bind(keep).Run());
  }
  return OkStatus();
}

Status RecordWriter::Write(const RoundRecord& r) {
  return statements_.round.Bind(r.view)
      .Bind(r.round)
      .Bind(r.digest)
      .Bind(r.train_loss)
      .Bind(r.tokens)
      .Bind(r.tokens_total)
      .Bind(r.seconds)
      .Bind(r.wan_seconds)
      .Bind(r.gradient_norm)
      .Bind(r.learning_rate)
      .Bind(r.wan_bytes_sent)
      .Bind(r.time)
      .Run();
}

Status RecordWriter::Write(const SampleRecord& r) {
  const int state = static_cast<int>(r.state);
  if (r.state == SampleState::kCommitted || r.state == SampleState::kReturned) {
    return statements_.sample_state.Bind(state).Bind(r.view).Bind(r.round).Bind(r.region).Run();
  }
  Statement& statement = statements_.sample;
  statement.Bind(r.view)
      .Bind(r.round)
      .Bind(r.region)
      .Bind(r.samples.empty() ? 0 : r.samples[0].begin)
      .Bind(r.samples.empty() ? 0 : r.samples[0].end)
      .Bind(state)
      .Bind(r.report ? r.report->tokens() : 0)
      .Bind(r.report ? r.report->wan_bytes_sent() : 0);
  if (r.report) {
    statement.BindBlob(r.report->SerializeAsString());
  } else {
    statement.BindNull();
  }
  statement.Bind(RangesToText(Suffix(r.samples, r.samples.empty() ? 0 : r.samples[0].size())));
  return statement.Bind(r.samples_per_step).Run();
}

Status RecordWriter::Write(const EvaluationRecord& r) {
  return statements_.evaluation.Bind(r.view)
      .Bind(r.round)
      .Bind(r.region)
      .Bind(r.loss_sum)
      .Bind(r.tokens)
      .Run();
}

Status RecordWriter::Write(const CheckpointRecord& r) {
  return statements_.checkpoint.Bind(r.view)
      .Bind(r.checkpoint.round())
      .Bind(r.region)
      .Bind(r.checkpoint.digest())
      .Bind(r.checkpoint.path())
      .Bind(r.checkpoint.own())
      .Bind(r.checkpoint.next_sample())
      .Bind(r.checkpoint.inner_steps())
      .Bind(r.bytes)
      .Bind(r.seconds)
      .Bind(r.time)
      .Bind(r.complete)
      .Run();
}

Status RecordWriter::Write(const EventRecord& r) {
  return statements_.event.Bind(r.number)
      .Bind(r.time)
      .Bind(r.kind)
      .Bind(r.region)
      .Bind(r.round)
      .Bind(r.text)
      .Bind(DetailsToJson(r.details))
      .Run();
}

}  // namespace atl
