#include "orchestrator/core/regions.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/log.h"

namespace atl {
namespace {

constexpr double kLeastSilenceSeconds = 10;
constexpr double kMostSilenceSeconds = 60;
constexpr double kGapsUntilSilent = 10;
// Reports that came before their turn. More are dropped: the sender repeats them.
constexpr size_t kMaxEarlyReports = 4096;
// Beyond this a number is no report that anybody could have sent.
constexpr uint64_t kMaxSequence = uint64_t{1} << 62;

}  // namespace

void RegionEntry::Enter(RegionState state, const std::string& why, double now) {
  CHECK(MayFollow(state_, state)) << "region " << name_ << ": " << RegionStateName(state_) << " -> "
                                  << RegionStateName(state);
  state_ = state;
  why_ = why;
  since_ = now;
}

void RegionEntry::Begin(const pb::Hello& hello, double now) {
  Enter(RegionState::kJoining, "loads the job", now);
  hello_ = hello;
  heard_ = now;
  largest_gap_ = 0;
  missed_ = false;
  next_sequence_ = std::max<uint64_t>(1, std::min(hello.first_sequence(), kMaxSequence));
  early_.clear();
  doing_.clear();
  round_ = 0;
  digest_.clear();
  phases_.Clear();
  links_.clear();
  ready.reset();
  unusable_checkpoints.clear();
  checkpoint_failure.clear();
  fault.reset();
  left.reset();
  caught_up = false;
  drain_sent_at = 0;
  clock_offset.reset();
  lease_told = short_told = clock_told = notice_told = false;
  last_round = 0;
  pace = Pace();
  inner_steps = 0;
  not_before = holds_since = 0;
}

void RegionEntry::Heard(double now) {
  if (!std::exchange(missed_, false)) largest_gap_ = std::max(largest_gap_, now - heard_);
  heard_ = std::max(heard_, now);
}

double RegionEntry::SilenceDeadline() const {
  return heard_ +
         std::clamp(kGapsUntilSilent * largest_gap_, kLeastSilenceSeconds, kMostSilenceSeconds);
}

double RegionEntry::MissedDeadline(double heartbeat_seconds) const {
  return heard_ +
         std::clamp(3 * std::max(largest_gap_, heartbeat_seconds), 2.0, kMostSilenceSeconds);
}

bool RegionEntry::SkipTo(uint64_t sequence) {
  if (sequence <= next_sequence_ || sequence > kMaxSequence) return false;
  next_sequence_ = sequence;
  early_.erase(early_.begin(), early_.lower_bound(sequence));
  return true;
}

std::vector<pb::LeaderMessage> RegionEntry::Admit(const pb::LeaderMessage& message) {
  const uint64_t sequence = message.sequence();
  std::vector<pb::LeaderMessage> admitted;
  if (sequence == 0) {
    admitted.push_back(message);
    return admitted;
  }
  if (sequence < next_sequence_ || sequence > kMaxSequence) return admitted;
  if (sequence > next_sequence_) {
    if (early_.size() < kMaxEarlyReports) early_.emplace(sequence, message);
    return admitted;
  }
  admitted.push_back(message);
  ++next_sequence_;
  for (auto at = early_.begin(); at != early_.end() && at->first <= next_sequence_;) {
    if (at->first == next_sequence_) {
      admitted.push_back(std::move(at->second));
      ++next_sequence_;
    }
    at = early_.erase(at);
  }
  return admitted;
}

void RegionEntry::Progress(const std::string& doing, int64_t round,
                           const pb::PhaseSeconds* phases) {
  if (!doing.empty()) doing_ = doing;
  round_ = std::max(round_, round);
  if (phases != nullptr) phases_ = *phases;
}

void RegionEntry::TakeLinks(const google::protobuf::RepeatedPtrField<pb::WanLink>& links,
                            const std::vector<std::string>& regions) {
  // A heartbeat between views has none: the last known ones stay, for who asks afterwards.
  if (links.empty()) return;
  links_.clear();
  for (const std::string& region : regions) {
    if (region == name_) continue;
    const auto link = std::find_if(links.begin(), links.end(), [&](const pb::WanLink& each) {
      return each.region() == region;
    });
    if (link != links.end()) links_.push_back(*link);
  }
}

double RegionEntry::UpRate() const {
  double rate = 0;
  for (const pb::WanLink& link : links_) {
    if (!(link.up_rate() > 0)) return 0;
    rate += link.up_rate();
  }
  return rate;
}

double RegionEntry::LeaseEndsAt() const {
  return lease_end_ > 0 ? lease_end_ + std::min(0.0, clock_offset.value_or(0)) : 0;
}

void RegionEntry::Report(const pb::RoundReport& report) {
  if (report.round() >= round_) digest_ = report.digest();
  Progress("", report.round(), report.has_phases() ? &report.phases() : nullptr);
}

RegionRecord RegionEntry::ToRecord() const {
  RegionRecord record;
  record.name = name_;
  record.state = RegionStateName(state_);
  record.why = why_;
  record.since = since_;
  record.heard = heard_;
  record.attempt = hello_.attempt();
  record.workers = hello_.workers();
  record.host = hello_.host();
  record.pid = hello_.pid();
  record.version = hello_.version();
  record.accelerator = ready ? ready->accelerator() : "";
  record.doing = doing_;
  record.round = round_;
  record.digest = digest_;
  record.next_sequence = next_sequence_;
  record.phases = phases_;
  record.links = links_;
  record.inner_steps = inner_steps;
  record.caught_up = caught_up;
  record.lease_end = lease_end_;
  record.lease_last_round = last_round;
  record.job_ends = job_ends;
  record.left = left;
  return record;
}

void RegionEntry::Restore(const RegionRecord& record, double now) {
  for (const RegionState state :
       {RegionState::kAbsent, RegionState::kJoining, RegionState::kReady, RegionState::kObserving,
        RegionState::kTraining, RegionState::kLeaving, RegionState::kLeft, RegionState::kFailed}) {
    if (RegionStateName(state) == record.state) state_ = state;
  }
  why_ = record.why;
  since_ = record.since;
  heard_ = now;
  hello_.set_region(record.name);
  hello_.set_attempt(record.attempt);
  hello_.set_workers(record.workers);
  hello_.set_host(record.host);
  hello_.set_pid(record.pid);
  hello_.set_version(record.version);
  lease_end_ = record.lease_end;
  doing_ = record.doing;
  round_ = record.round;
  digest_ = record.digest;
  next_sequence_ = record.next_sequence;
  phases_ = record.phases;
  caught_up = record.caught_up;
  ready = record.ready;
  left = record.left;
}

std::string JoinNames(const std::vector<std::string>& names) {
  std::string joined;
  for (size_t i = 0; i < names.size(); ++i) {
    if (i > 0) joined += i + 1 == names.size() ? " and " : ", ";
    joined += names[i];
  }
  return joined;
}

std::vector<std::string> Minority(const std::map<std::string, std::string>& values) {
  std::map<std::string, int> counts;
  int largest = 0;
  for (const auto& [region, value] : values) largest = std::max(largest, ++counts[value]);
  std::vector<std::string> minority;
  if (counts.size() <= 1) return minority;
  int groups_of_largest = 0;
  for (const auto& [value, count] : counts) groups_of_largest += count == largest ? 1 : 0;
  for (const auto& [region, value] : values) {
    if (groups_of_largest > 1 || counts[value] < largest) minority.push_back(region);
  }
  return minority;
}

std::vector<std::string> Minority(const std::map<std::string, std::string>& values,
                                  const std::set<std::string>& voters) {
  std::map<std::string, std::string> votes;
  for (const auto& [region, value] : values) {
    if (voters.contains(region)) votes[region] = value;
  }
  if (votes.empty()) return Minority(values);
  const std::vector<std::string> outvoted = Minority(votes);
  for (const std::string& region : outvoted) votes.erase(region);
  std::vector<std::string> minority;
  for (const auto& [region, value] : values) {
    if (votes.empty() || value != votes.begin()->second) minority.push_back(region);
  }
  return minority;
}

std::string TimeOfDay(double now) {
  return absl::FormatTime("%H:%M:%S UTC", absl::UnixEpoch() + absl::Seconds(now),
                          absl::UTCTimeZone());
}

}  // namespace atl
