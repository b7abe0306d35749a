#include "orchestrator/store/step_codec.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "proto/record.pb.h"

namespace atl {
namespace {

constexpr int kVersion = 1;

void Encode(const JobRecord& r, pb::StoredRecord* out) {
  pb::StoredJob* to = out->mutable_job();
  to->set_run(r.run);
  to->set_state(r.state);
  to->set_reason(r.reason);
  to->set_exit_code(r.exit_code);
  to->set_started(r.started);
  to->set_since(r.since);
  to->set_first_view(r.first_view);
  to->set_ended(r.ended);
  to->set_parameters(r.parameters);
  to->set_dataset_samples(r.dataset_samples);
  to->set_dataset_fingerprint(r.dataset_fingerprint);
  to->set_resumed_from(r.resumed_from);
  to->set_resumed_digest(r.resumed_digest);
  to->set_resumed_sample(r.resumed_sample);
  *to->mutable_job() = r.job;
}

Record Decode(const pb::StoredJob& from) {
  JobRecord r;
  r.run = from.run();
  r.state = from.state();
  r.reason = from.reason();
  r.exit_code = from.exit_code();
  r.started = from.started();
  r.since = from.since();
  r.first_view = from.first_view();
  r.ended = from.ended();
  r.parameters = from.parameters();
  r.dataset_samples = from.dataset_samples();
  r.dataset_fingerprint = from.dataset_fingerprint();
  r.resumed_from = from.resumed_from();
  r.resumed_digest = from.resumed_digest();
  r.resumed_sample = from.resumed_sample();
  r.job = from.job();
  return r;
}

void Encode(const RegionRecord& r, pb::StoredRecord* out) {
  pb::StoredRegion* to = out->mutable_region();
  to->set_name(r.name);
  to->set_state(r.state);
  to->set_why(r.why);
  to->set_since(r.since);
  to->set_heard(r.heard);
  to->set_attempt(r.attempt);
  to->set_workers(r.workers);
  to->set_host(r.host);
  to->set_pid(r.pid);
  to->set_version(r.version);
  to->set_accelerator(r.accelerator);
  to->set_doing(r.doing);
  to->set_round(r.round);
  to->set_digest(r.digest);
  to->set_next_sequence(r.next_sequence);
  *to->mutable_phases() = r.phases;
  to->set_caught_up(r.caught_up);
  to->set_lease_end(r.lease_end);
  if (r.left) *to->mutable_left() = *r.left;
  if (r.ready) *to->mutable_ready() = *r.ready;
}

Record Decode(const pb::StoredRegion& from) {
  RegionRecord r;
  r.name = from.name();
  r.state = from.state();
  r.why = from.why();
  r.since = from.since();
  r.heard = from.heard();
  r.attempt = from.attempt();
  r.workers = from.workers();
  r.host = from.host();
  r.pid = from.pid();
  r.version = from.version();
  r.accelerator = from.accelerator();
  r.doing = from.doing();
  r.round = from.round();
  r.digest = from.digest();
  r.next_sequence = from.next_sequence();
  r.phases = from.phases();
  r.caught_up = from.caught_up();
  r.lease_end = from.lease_end();
  if (from.has_left()) r.left = from.left();
  if (from.has_ready()) r.ready = from.ready();
  return r;
}

void Encode(const ViewRecord& r, pb::StoredRecord* out) {
  pb::StoredView* to = out->mutable_view();
  *to->mutable_view() = r.view;
  for (const auto& [region, path] : r.checkpoints) (*to->mutable_checkpoints())[region] = path;
  to->set_time(r.time);
}

Record Decode(const pb::StoredView& from) {
  ViewRecord r;
  r.view = from.view();
  r.checkpoints.insert(from.checkpoints().begin(), from.checkpoints().end());
  r.time = from.time();
  return r;
}

void Encode(const SupersedeRecord& r, pb::StoredRecord* out) {
  out->mutable_supersede()->set_round(r.round);
  out->mutable_supersede()->set_digest(r.digest);
}

Record Decode(const pb::StoredSupersede& from) {
  return SupersedeRecord{from.round(), from.digest()};
}

void Encode(const RoundRecord& r, pb::StoredRecord* out) {
  pb::StoredRound* to = out->mutable_round();
  to->set_view(r.view);
  to->set_round(r.round);
  to->set_digest(r.digest);
  to->set_train_loss(r.train_loss);
  to->set_tokens(r.tokens);
  to->set_tokens_total(r.tokens_total);
  to->set_seconds(r.seconds);
  to->set_wan_seconds(r.wan_seconds);
  to->set_gradient_norm(r.gradient_norm);
  to->set_learning_rate(r.learning_rate);
  to->set_wan_bytes_sent(r.wan_bytes_sent);
  to->set_time(r.time);
}

Record Decode(const pb::StoredRound& from) {
  return RoundRecord{from.view(),          from.round(),          from.digest(),
                     from.train_loss(),    from.tokens(),         from.tokens_total(),
                     from.seconds(),       from.wan_seconds(),    from.gradient_norm(),
                     from.learning_rate(), from.wan_bytes_sent(), from.time()};
}

void Encode(const SampleRecord& r, pb::StoredRecord* out) {
  pb::StoredSample* to = out->mutable_sample();
  to->set_view(r.view);
  to->set_round(r.round);
  to->set_region(r.region);
  for (const Range& range : r.samples) {
    pb::SampleRange* one = to->add_samples();
    one->set_begin(range.begin);
    one->set_end(range.end);
  }
  to->set_state(static_cast<int>(r.state));
  if (r.report) *to->mutable_report() = *r.report;
  to->set_samples_per_step(r.samples_per_step);
}

StatusOr<Record> Decode(const pb::StoredSample& from) {
  if (from.state() < 0 || from.state() > static_cast<int>(SampleState::kReturned)) {
    return UsageError(absl::StrCat("a range of samples in state ", from.state()));
  }
  SampleRecord r;
  r.view = from.view();
  r.round = from.round();
  r.region = from.region();
  for (const pb::SampleRange& range : from.samples()) {
    r.samples.push_back({range.begin(), range.end()});
  }
  r.state = static_cast<SampleState>(from.state());
  if (from.has_report()) r.report = from.report();
  r.samples_per_step = from.samples_per_step();
  return Record(std::move(r));
}

void Encode(const EvaluationRecord& r, pb::StoredRecord* out) {
  pb::StoredEvaluation* to = out->mutable_evaluation();
  to->set_view(r.view);
  to->set_round(r.round);
  to->set_region(r.region);
  to->set_loss_sum(r.loss_sum);
  to->set_tokens(r.tokens);
}

Record Decode(const pb::StoredEvaluation& from) {
  return EvaluationRecord{from.view(), from.round(), from.region(), from.loss_sum(), from.tokens()};
}

void Encode(const CheckpointRecord& r, pb::StoredRecord* out) {
  pb::StoredCheckpoint* to = out->mutable_checkpoint();
  to->set_view(r.view);
  to->set_region(r.region);
  *to->mutable_checkpoint() = r.checkpoint;
  to->set_bytes(r.bytes);
  to->set_seconds(r.seconds);
  to->set_time(r.time);
  to->set_complete(r.complete);
}

Record Decode(const pb::StoredCheckpoint& from) {
  return CheckpointRecord{from.view(),    from.region(), from.checkpoint(), from.bytes(),
                          from.seconds(), from.time(),   from.complete()};
}

void Encode(const MembershipRecord& r, pb::StoredRecord* out) {
  *out->mutable_membership() = r.membership;
}
void Encode(const LedgerRecord& r, pb::StoredRecord* out) { *out->mutable_ledger() = r.ledger; }

void Encode(const EventRecord& r, pb::StoredRecord* out) {
  pb::StoredEvent* to = out->mutable_event();
  to->set_number(r.number);
  to->set_time(r.time);
  to->set_kind(r.kind);
  to->set_region(r.region);
  to->set_round(r.round);
  to->set_text(r.text);
  for (const auto& [name, value] : r.details) {
    pb::StoredDetail* detail = to->add_details();
    detail->set_name(name);
    if (const auto* integer = std::get_if<int64_t>(&value)) {
      detail->set_integer(*integer);
    } else if (const auto* real = std::get_if<double>(&value)) {
      detail->set_real(*real);
    } else {
      detail->set_text(std::get<std::string>(value));
    }
  }
}

Record Decode(const pb::StoredEvent& from) {
  EventRecord r{from.number(), from.time(), from.kind(), from.region(),
                from.round(),  from.text(), {}};
  for (const pb::StoredDetail& detail : from.details()) {
    Detail value = detail.text();
    if (detail.has_integer()) value = detail.integer();
    if (detail.has_real()) value = detail.real();
    r.details.emplace_back(detail.name(), std::move(value));
  }
  return r;
}

StatusOr<Record> Decode(const pb::StoredRecord& from) {
  switch (from.record_case()) {
    case pb::StoredRecord::kJob:
      return Decode(from.job());
    case pb::StoredRecord::kRegion:
      return Decode(from.region());
    case pb::StoredRecord::kView:
      return Decode(from.view());
    case pb::StoredRecord::kSupersede:
      return Decode(from.supersede());
    case pb::StoredRecord::kRound:
      return Decode(from.round());
    case pb::StoredRecord::kSample:
      return Decode(from.sample());
    case pb::StoredRecord::kEvaluation:
      return Decode(from.evaluation());
    case pb::StoredRecord::kCheckpoint:
      return Decode(from.checkpoint());
    case pb::StoredRecord::kMembership:
      return Record(MembershipRecord{from.membership()});
    case pb::StoredRecord::kLedger:
      return Record(LedgerRecord{from.ledger()});
    case pb::StoredRecord::kEvent:
      return Decode(from.event());
    case pb::StoredRecord::RECORD_NOT_SET:
      break;
  }
  return UsageError("a record of a kind that this atoll does not know");
}

}  // namespace

std::string EncodeStep(const std::vector<Record>& records) {
  pb::StoredStep step;
  step.set_version(kVersion);
  for (const Record& record : records) {
    std::visit([&](const auto& typed) { Encode(typed, step.add_records()); }, record);
  }
  return step.SerializeAsString();
}

StatusOr<std::vector<Record>> DecodeStep(absl::string_view bytes) {
  pb::StoredStep step;
  if (!step.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return UsageError("a step of the log is no StoredStep");
  }
  if (step.version() != kVersion) {
    return UsageError(absl::StrCat("a step of the log has version ", step.version(),
                                   ", this atoll reads ", kVersion,
                                   ": use the newer atoll that wrote it"));
  }
  std::vector<Record> records;
  for (const pb::StoredRecord& stored : step.records()) {
    ASSIGN_OR_RETURN(Record record, Decode(stored));
    records.push_back(std::move(record));
  }
  return records;
}

}  // namespace atl
