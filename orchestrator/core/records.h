// What the core decides, as typed records. The store persists the records of a step in order, in
// one transaction, before the messages of that step go out (write-ahead, P5); summary.json,
// rounds.jsonl, events.jsonl, status and audit are readers of this one stream. A record carries the
// whole row that it stands for, so that applying one twice changes nothing.
//
// Times are seconds since the Unix epoch, on the core's clock (core.h).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/range.h"
#include "proto/control.pb.h"
#include "proto/job.pb.h"
#include "proto/membership.pb.h"

namespace atl {

// The job as a whole, one row for each start of the orchestrator (run).
struct JobRecord {
  int64_t run = 0;
  std::string state;  // JobStateName
  std::string reason;
  int exit_code = 0;
  double started = 0;
  double since = 0;       // when `state` began
  double first_view = 0;  // 0: no view yet
  double ended = 0;       // 0: not yet
  int64_t parameters = 0;
  int64_t dataset_samples = 0;
  uint64_t dataset_fingerprint = 0;
  int64_t resumed_from = 0;    // round; 0: from the seed
  std::string resumed_digest;  // of the outer state after that round; empty: from the seed
  int64_t resumed_sample = 0;  // ledger cursor after that round
  pb::Job job;
};

// A region's present attempt and where it stands.
struct RegionRecord {
  std::string name;
  std::string state;  // RegionStateName
  std::string why;    // never empty in a state that is not good
  double since = 0;
  double heard = 0;
  std::string attempt;
  int workers = 0;
  std::string host;
  int64_t pid = 0;
  std::string version;
  std::string accelerator;
  std::string doing;
  int64_t round = 0;  // last reported
  std::string digest;
  uint64_t next_sequence = 1;  // reports below it are handled
  pb::PhaseSeconds phases;
  // As the last heartbeat said. Not stored: the next one says it again.
  std::vector<pb::WanLink> links;
  int64_t inner_steps = 0;  // that it is to take in a round; 0: the job's. Membership keeps it
  bool caught_up = false;   // an observer that holds the state
  double lease_end = 0;     // on the region's clock; 0: open
  // Not stored, like `links`.
  int64_t lease_last_round = 0;  // that fits before the lease ends; 0: all
  double job_ends = 0;           // as it looks; 0: not known
  std::optional<pb::Left> left;
  std::optional<pb::Ready> ready;  // only in the record that brings a new one
};

struct ViewRecord {
  pb::View view;                                   // without the fields that differ between regions
  std::map<std::string, std::string> checkpoints;  // region -> path it loads from
  double time = 0;
};

// From here on, rounds and samples after `round` belong to the past: they are trained again. If the
// rounds that are known do not lead to `digest`, all of them belong to another history.
struct SupersedeRecord {
  int64_t round = 0;
  std::string digest;  // empty: from the seed
};

// A committed round.
struct RoundRecord {
  int64_t view = 0;
  int64_t round = 0;
  std::string digest;
  double train_loss = 0;  // nats per token; no number: all who trained are gone
  int64_t tokens = 0;
  int64_t tokens_total = 0;  // of the job up to this round
  double seconds = 0;        // of the slowest region
  double wan_seconds = 0;    // likewise
  double gradient_norm = 0;  // mean over regions
  double learning_rate = 0;
  int64_t wan_bytes_sent = 0;  // by all regions
  double time = 0;
};

enum class SampleState { kAssigned, kDone, kCommitted, kReturned };

// A range of samples: whose it is in which round, and what has become of it.
struct SampleRecord {
  int64_t view = 0;
  int64_t round = 0;
  std::string region;
  std::vector<Range> samples;
  SampleState state = SampleState::kAssigned;
  std::optional<pb::RoundReport> report;  // with kDone: what the region said
  int64_t samples_per_step = 1;
};

struct EvaluationRecord {
  int64_t view = 0;
  int64_t round = 0;
  std::string region;  // empty: the sum over all members, once all have reported
  double loss_sum = 0;
  int64_t tokens = 0;
};

struct CheckpointRecord {
  int64_t view = 0;
  std::string region;
  pb::CheckpointOnDisk checkpoint;
  int64_t bytes = 0;
  double seconds = 0;
  double time = 0;
  bool complete = false;  // every region has it, with the same digest
};

// Where the membership and the ledger stand (proto/membership.proto).
struct MembershipRecord {
  pb::Membership membership;
};
struct LedgerRecord {
  pb::LedgerState ledger;
};

using Detail = std::variant<int64_t, double, std::string>;

struct EventRecord {
  int64_t number = 0;  // 1, 2, ... over all runs
  double time = 0;
  std::string kind;
  std::string region;  // empty: of the job
  int64_t round = -1;  // -1: of none
  std::string text;    // a sentence for people
  std::vector<std::pair<std::string, Detail>> details;
};

using Record =
    std::variant<JobRecord, RegionRecord, ViewRecord, SupersedeRecord, RoundRecord, SampleRecord,
                 EvaluationRecord, CheckpointRecord, MembershipRecord, LedgerRecord, EventRecord>;

// What a new run must know of the runs before it. With a membership that has a view it is no new
// run: the core goes on where the one before was stopped.
struct History {
  int64_t run = 0;         // number of the last run
  int64_t last_event = 0;  // number of the last event
  int64_t last_view = 0;
  int64_t last_round = 0;  // newest committed round that is not superseded

  std::optional<pb::Membership> membership;
  std::optional<pb::LedgerState> ledger;
  std::optional<JobRecord> job;
  std::vector<RegionRecord> regions;
  std::vector<SampleRecord> open_samples;  // assigned or done, with reports
  std::map<int64_t, std::string> digests;  // of committed rounds
  // Of regions, where not all members of the view have reported.
  std::vector<EvaluationRecord> open_evaluations;
};

}  // namespace atl
