// What the core knows of each region: its attempt, what it said, when it was last heard of, and the
// order of its numbered reports. Pure.
//
// Reports of an attempt are numbered 1, 2, 3, ... and repeated until acknowledged, so they may come
// twice or out of order: Admit() hands them on once each, in order.
// Deadline for silence (P8): ten times the longest gap that this attempt has shown, at least ten
// seconds, at most a minute.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "orchestrator/core/pace.h"
#include "orchestrator/core/records.h"
#include "orchestrator/core/states.h"
#include "proto/lease_terms.h"

namespace atl {

class RegionEntry {
 public:
  explicit RegionEntry(std::string name) : name_(std::move(name)) {}

  const std::string& name() const { return name_; }
  RegionState state() const { return state_; }
  double since() const { return since_; }
  const std::string& attempt() const { return hello_.attempt(); }
  const pb::Hello& hello() const { return hello_; }
  const std::string& doing() const { return doing_; }
  double heard() const { return heard_; }
  uint64_t next_sequence() const { return next_sequence_; }

  // Joining, ready, in the view: somebody is there who is expected to be heard.
  bool IsLive() const {
    return state_ == RegionState::kJoining || state_ == RegionState::kReady || IsMember();
  }
  // In the present view.
  bool IsMember() const { return state_ == RegionState::kObserving || IsFull(); }
  bool IsFull() const {
    return state_ == RegionState::kTraining || state_ == RegionState::kLeaving;
  }
  // An illegal successor is a programmer error (CHECK).
  void Enter(RegionState state, const std::string& why, double now);
  // A new attempt: nothing of the one before is kept.
  void Begin(const pb::Hello& hello, double now);
  void Heard(double now);
  // A peer misses it too, or it is left out: the silence under way is a fault's, not its manner.
  void Miss() { missed_ = true; }
  // The orchestrator itself stood still: nobody is to blame for that silence.
  void ForgiveSilence(double now) { heard_ = now; }
  double SilenceDeadline() const;
  // The same where a peer misses the region too: three times the longest gap, at least three
  // heartbeats.
  double MissedDeadline(double heartbeat_seconds) const;

  // Reports before `sequence` are acknowledged: by an orchestrator before this one, if any of them
  // is news here. True if so.
  bool SkipTo(uint64_t sequence);
  // Takes a message in; returns those whose turn it is, in order.
  std::vector<pb::LeaderMessage> Admit(const pb::LeaderMessage& message);
  void Progress(const std::string& doing, int64_t round, const pb::PhaseSeconds* phases);
  // Its lines to other regions; what is not of `regions`, or comes twice, is left out.
  void TakeLinks(const google::protobuf::RepeatedPtrField<pb::WanLink>& links,
                 const std::vector<std::string>& regions);
  // Of all its links together, bytes/s; 0: not all are known.
  double UpRate() const;
  // The end of its lease, from `terms` and its hello.
  void TakeLease() { lease_end_ = LeaseEnd(terms, hello_); }
  // When its lease ends, on our clock; 0: open.
  double LeaseEndsAt() const;
  void Report(const pb::RoundReport& report);

  RegionRecord ToRecord() const;
  // As a record says, heard of now.
  void Restore(const RegionRecord& record, double now);

  // What its Ready said, and what has become of its checkpoints since.
  std::optional<pb::Ready> ready;
  std::set<std::string> unusable_checkpoints;
  std::string checkpoint_failure;
  std::optional<pb::Fault> fault;
  std::optional<pb::Left> left;
  bool caught_up = false;  // kObserving: holds the state
  // What it said then; looked at when that round is committed.
  int64_t caught_up_round = 0;
  std::string caught_up_digest;
  Pace pace;
  int64_t inner_steps = 0;             // that it is to take in a round; 0: the job's
  LeaseTerms terms;                    // of the job file
  std::optional<double> clock_offset;  // ours minus its own; at most so much
  double clock_since = 0;              // its first word of that
  bool lease_told = false, short_told = false, clock_told = false, notice_told = false;
  int64_t last_round = 0;    // that fits before its lease ends; 0: all of the job's
  double job_ends = 0;       // as it looks; 0: not known
  double drain_sent_at = 0;  // 0: not
  double not_before = 0;     // not taken into a planned view before
  double holds_since = 0;    // 0: its round is not broken, as far as it says

 private:
  const std::string name_;
  RegionState state_ = RegionState::kAbsent;
  std::string why_ = "not heard of yet";
  double since_ = 0;
  pb::Hello hello_;
  double heard_ = 0;
  double largest_gap_ = 0;
  bool missed_ = false;
  uint64_t next_sequence_ = 1;
  std::map<uint64_t, pb::LeaderMessage> early_;  // beyond next_sequence_; bounded
  std::string doing_;
  int64_t round_ = 0;
  std::string digest_;
  pb::PhaseSeconds phases_;
  std::vector<pb::WanLink> links_;
  double lease_end_ = 0;  // on its clock; 0: open
};

// "a", "a and b", "a, b and c".
std::string JoinNames(const std::vector<std::string>& names);
// Of values by region: the regions outside the largest group of equal values; all of them if no
// group is the largest; none if all are equal.
std::vector<std::string> Minority(const std::map<std::string, std::string>& values);
// The same where only `voters` have a word in what is right, if any of them is there.
std::vector<std::string> Minority(const std::map<std::string, std::string>& values,
                                  const std::set<std::string>& voters);
// "12:03:11 UTC"
std::string TimeOfDay(double now);

}  // namespace atl
