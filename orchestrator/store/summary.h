// The job at a glance, as a reader of the core's records: what summary.json says.
// docs/formats/summary.md has the keys. Pure.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>

#include "orchestrator/core/records.h"
#include "orchestrator/store/store.h"

namespace atl {

class Summary {
 public:
  // As the store stands.
  static StatusOr<Summary> Load(Store& store);
  // Records that came since. A SupersedeRecord needs a new Load.
  void Take(const Record& record);
  std::string ToJson(double now) const;

 private:
  void TakeEvent(const EventRecord& event);

  std::optional<JobRecord> job_;
  std::map<std::string, RegionRecord> regions_;
  std::map<std::string, Store::RegionTotals> totals_;
  std::optional<RoundRecord> first_round_;
  std::optional<RoundRecord> last_round_;
  std::optional<Store::Evaluation> first_evaluation_;
  std::optional<Store::Evaluation> last_evaluation_;
  int64_t last_checkpoint_ = 0;
  // The newest round whose replicas were not the same, and the regions whose is, or may be, wrong.
  int64_t differing_round_ = 0;
  bool decided_ = false;  // they are known to be wrong
  std::set<std::string> differing_;
  std::map<std::string, double> first_heard_;  // when regions first said hello, over all runs
  // What regions reported of rounds that are not committed yet.
  std::map<std::pair<int64_t, std::string>, Store::RegionTotals> reported_;
};

// Lines of rounds.jsonl and events.jsonl, without the line break.
std::string RoundToJson(const RoundRecord& round);
std::string EventToJson(const EventRecord& event);
// RFC 3339, UTC, milliseconds.
std::string TimeToText(double time);

}  // namespace atl
