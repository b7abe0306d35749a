// Leases: who need not be waited for yet, which round is a region's last, and what is said of it
// (docs/regions-that-change.md, "Leases").
//
//   1. A lease ends by the site's clock. Heartbeats tell that clock; where it is ahead of ours the
//      lease ends earlier for us. Where it is behind we take ours: who goes early loses nothing.
//   2. The round under way began when the one before was committed. Whole rounds that end before
//      the lease does, with a reserve, are planned (RoundTime). When only the one under way is
//      left, its region is told to leave after it; the word has all of a round to arrive.
//   3. The leader plans the same from its own rounds, with a smaller reserve, so that nothing is
//      cut where this orchestrator is away (worker/agent).
//   4. A region whose lease ends before it could do anything useful is not taken in, and leaves.
//   5. A notice that is shorter than a round is spoken of: who is told to leave waits for the
//      others in the all-reduce, and may be killed there. Its samples then come again.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/units.h"
#include "orchestrator/core/core.h"

namespace atl {
namespace {

// Kept free at the end of a lease: for words on their way, and rounds that take longer.
constexpr double kReserveSeconds = 2;
constexpr double kReserveShare = 0.1;  // of a round
// The others connect to the view without the region while it is in its last round. Where that takes
// longer than the round, a fence and one more round end it.
constexpr double kSwitchSeconds = 6;
// A region joins for so many rounds at least: one to be connected, one to fetch, one to train.
constexpr double kLeastRounds = 3;
// Clocks that differ by more are worth a word.
constexpr double kClockSeconds = 5;
// The word to leave is said again until the region says that it leaves.
constexpr double kAgainSeconds = 1;

}  // namespace

bool Core::IsExpected(const RegionEntry& entry) const {
  if (entry.state() != RegionState::kAbsent) return true;
  if (entry.left) return false;
  const double start = entry.terms.start;
  const double end = entry.LeaseEndsAt();
  return start <= now_ && (end <= 0 || now_ < end);
}

bool Core::LeaseIsTooShort(RegionEntry& entry) {
  const double end = entry.LeaseEndsAt();
  if (end <= 0 || !round_time_.IsKnown()) return false;
  if (now_ + kLeastRounds * round_time_.Round() + kReserveSeconds <= end) return false;
  if (!entry.short_told) {
    entry.short_told = true;
    Event(
        "lease_too_short", entry.name(), -1,
        absl::StrCat("region ", entry.name(), " is not taken in: its lease ends at ",
                     TimeOfDay(end), ", and a round takes ", FormatDuration(round_time_.Round())));
  }
  if (now_ < entry.drain_sent_at + kAgainSeconds) return true;
  entry.drain_sent_at = now_;
  pb::OrchestratorMessage message;
  message.mutable_stop()->set_reason("its lease ends too soon to join");
  Send(entry.name(), std::move(message));
  return true;
}

void Core::TakeClock(RegionEntry& entry, double clock) {
  if (!(clock > 0) || !std::isfinite(clock)) return;
  // What a message was on its way makes the difference look larger, never smaller.
  const double offset = now_ - clock;
  if (!entry.clock_offset) entry.clock_since = now_;
  entry.clock_offset = std::min(entry.clock_offset.value_or(offset), offset);
  // The first ones may have been said while no orchestrator was there: they look behind by their
  // age.
  if (*entry.clock_offset > 0 && now_ < entry.clock_since + kClockSeconds) return;
  if (entry.clock_told || std::abs(*entry.clock_offset) < kClockSeconds) return;
  entry.clock_told = true;
  Event("clock_differs", entry.name(), -1,
        absl::StrCat("the clock of region ", entry.name(), " is ",
                     FormatDuration(std::abs(*entry.clock_offset)),
                     *entry.clock_offset > 0 ? " behind" : " ahead of",
                     " the orchestrator's: its lease is taken to end at the earlier of both"),
        {{"seconds", -*entry.clock_offset}});
}

void Core::WatchLeases() {
  if (state_ != JobState::kTraining || !round_time_.IsKnown()) return;
  const double round = round_time_.Round();
  const int64_t committed = ledger_->next_round() - 1;
  const int64_t rest = view_.last_round() - committed;
  const double begun = std::max(round_time_.committed_at(), now_ - round);
  job_ends_ = begun + static_cast<double>(rest) * round;
  for (const std::string& name : order_) {
    RegionEntry& entry = regions_.at(name);
    const double end = entry.LeaseEndsAt();
    entry.job_ends = job_ends_;
    if (entry.state() == RegionState::kTraining) WeighNotice(entry);
    if (end <= 0 || entry.state() != RegionState::kTraining) continue;
    const double reserve =
        kReserveSeconds + kReserveShare * round + std::max(0.0, kSwitchSeconds - round);
    const double fits = std::floor((end - reserve - begun) / round);
    entry.last_round = fits >= static_cast<double>(rest)
                           ? 0
                           : committed + std::max<int64_t>(0, static_cast<int64_t>(fits));
    if (entry.last_round > 0) TellLease(entry, end);
    if (fits >= 2 || static_cast<double>(rest) <= fits) continue;
    SendLeaseEnd(entry, end, fits >= 1);
  }
}

void Core::WeighNotice(RegionEntry& entry) {
  const double notice = entry.terms.notice;
  if (entry.notice_told || notice <= 0 || notice >= round_time_.Round()) return;
  entry.notice_told = true;
  Event("notice_short", entry.name(), -1,
        absl::StrCat("region ", entry.name(), " has ", FormatDuration(notice),
                     " notice, and a round takes ", FormatDuration(round_time_.Round()),
                     ": what it has done of one when it is told to end may be lost; fewer "
                     "train.inner_steps would make rounds shorter"),
        {{"notice_seconds", notice}, {"round_seconds", round_time_.Round()}});
}

void Core::SendLeaseEnd(RegionEntry& entry, double end, bool whole) {
  if (entry.drain_sent_at > 0 && now_ < entry.drain_sent_at + kAgainSeconds) return;
  const int64_t round = ledger_->next_round();
  if (entry.drain_sent_at <= 0) {
    const std::string when =
        whole ? absl::StrCat("after round ", round, ", the last that fits")
              : absl::StrCat("with what it has done of round ", round, ", which would not fit");
    Event("lease_ends", entry.name(), round,
          absl::StrCat("the lease of region ", entry.name(), " ends at ", TimeOfDay(end),
                       ": it leaves ", when),
          {{"lease_end", end}, {"round_seconds", round_time_.Round()}});
  }
  entry.drain_sent_at = now_;
  pb::OrchestratorMessage message;
  message.mutable_drain()->set_reason("its lease ends");
  message.mutable_drain()->set_finish_round(whole);
  Send(entry.name(), std::move(message));
}

void Core::TellLease(RegionEntry& entry, double end) {
  if (entry.lease_told) return;
  entry.lease_told = true;
  Event("lease_short", entry.name(), entry.last_round,
        absl::StrCat("the lease of region ", entry.name(), " ends at ", TimeOfDay(end),
                     ", before the job will (about ", TimeOfDay(job_ends_), "): round ",
                     entry.last_round, " will be its last"),
        {{"lease_end", end}, {"job_ends", job_ends_}});
}

}  // namespace atl
