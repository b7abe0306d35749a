// Records to rows: the prepared statements behind Store::Apply.
#pragma once

#include <memory>

#include "orchestrator/core/records.h"
#include "orchestrator/store/database.h"

namespace atl {

class RecordWriter {
 public:
  static StatusOr<std::unique_ptr<RecordWriter>> Create(Database* database);

  Status Write(const JobRecord& record);
  Status Write(const RegionRecord& record);
  Status Write(const ViewRecord& record);
  Status Write(const SupersedeRecord& record);
  Status Write(const RoundRecord& record);
  Status Write(const SampleRecord& record);
  Status Write(const EvaluationRecord& record);
  Status Write(const CheckpointRecord& record);
  Status Write(const MembershipRecord& record);
  Status Write(const LedgerRecord& record);
  Status Write(const EventRecord& record);

 private:
  struct Statements {
    Statement job, region, view, round, sample, sample_state, evaluation, checkpoint, membership,
        ledger, event;
  };
  RecordWriter(Database* database, Statements statements)
      : database_(database), statements_(std::move(statements)) {}

  Database* const database_;
  Statements statements_;
};

}  // namespace atl
