#include "orchestrator/core/pace.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/log.h"
#include "orchestrator/core/core.h"
#include "proto/round_plan.h"

namespace atl {
namespace {

// Rounds differ by so much of themselves without a reason to do anything.
constexpr double kTolerance = 0.25;
// So many times the samples a second.
constexpr double kWorth = 1.1;

}  // namespace

void Pace::Add(double seconds, int64_t samples) {
  if (!std::isfinite(seconds) || seconds <= 0 || samples < 1) return;
  newest_.push_back(seconds / static_cast<double>(samples));
  if (std::ssize(newest_) > rounds_) newest_.pop_front();
  ++since_change_;
}

void Pace::Changed(bool lowered) {
  if (lowered_.has_value()) {
    rounds_ =
        lowered == *lowered_ ? std::max(kRounds, rounds_ / 2) : std::min(kMostRounds, rounds_ * 2);
  }
  lowered_ = lowered;
  since_change_ = 0;
}

std::optional<double> Pace::SecondsPerSample() const {
  if (std::ssize(newest_) < kRounds) return std::nullopt;
  std::vector<double> sorted(newest_.begin(), newest_.end());
  const auto middle = sorted.begin() + std::ssize(sorted) / 2;
  std::nth_element(sorted.begin(), middle, sorted.end());
  return *middle;
}

std::vector<int64_t> EvenSteps(int64_t most, const std::vector<MemberPace>& members) {
  CHECK_GE(most, 1);
  double fastest = 0;
  for (const MemberPace& member : members) {
    if (member.step_seconds <= 0) continue;
    fastest = fastest > 0 ? std::min(fastest, member.step_seconds) : member.step_seconds;
  }
  std::vector<int64_t> steps;
  for (const MemberPace& member : members) {
    steps.push_back(member.steps);
    if (member.step_seconds <= 0) continue;
    const double fit = static_cast<double>(most) * fastest / member.step_seconds;
    const double ratio = static_cast<double>(member.steps) / fit;
    if (ratio <= 1 + kTolerance && ratio >= 1 / (1 + kTolerance)) continue;
    steps.back() = std::clamp<int64_t>(std::llround(fit), 1, most);
  }
  return steps;
}

bool IsWorthAView(const std::vector<MemberPace>& members, const std::vector<int64_t>& steps,
                  double reduce_seconds) {
  const auto rate = [&](auto steps_of) {
    double samples = 0, slowest = 0;
    for (size_t i = 0; i < members.size(); ++i) {
      const auto taken = static_cast<double>(steps_of(i));
      samples += taken * static_cast<double>(members[i].samples_per_step);
      slowest = std::max(slowest, taken * members[i].step_seconds);
    }
    const double seconds = slowest + reduce_seconds;
    return seconds > 0 ? samples / seconds : 0;
  };
  return rate([&](size_t i) { return steps[i]; }) >
         kWorth * rate([&](size_t i) { return members[i].steps; });
}

void Core::NotePaces(int64_t round) {
  for (const auto& [name, report] : reports_.at(round)) {
    if (report.heard()) continue;
    const Ledger::Entry* entry = ledger_->Find(round, name);
    if (entry == nullptr) continue;
    regions_.at(name).pace.Add(report.train_seconds(), SizeOf(entry->samples));
  }
}

void Core::EvenOutSteps() {
  const bool may_change =
      elastic_ && !fence_ && planned_.empty() && view_.id() > 0 && state_ == JobState::kTraining;
  if (options_.job.sync().slow().policy() != pb::SlowRegions::SHARE || !may_change) return;
  const int64_t most = InnerSteps(options_.job);
  std::vector<RegionEntry*> entries;
  std::vector<MemberPace> paces;
  for (const pb::Member& member : view_.members()) {
    RegionEntry& entry = regions_.at(member.region());
    if (!IsFull(member) || entry.state() != RegionState::kTraining) continue;
    const std::optional<double> pace = entry.pace.SecondsPerSample();
    entries.push_back(&entry);
    paces.push_back({pace ? *pace * static_cast<double>(member.samples_per_step()) : 0,
                     entry.inner_steps > 0 ? entry.inner_steps : most, member.samples_per_step()});
  }
  const std::vector<int64_t> steps = EvenSteps(most, paces);
  if (!IsWorthAView(paces, steps, round_time_.Reduce())) return;
  bool changed = false;
  for (size_t i = 0; i < entries.size(); ++i) {
    if (steps[i] == paces[i].steps || !entries[i]->pace.MayChange()) continue;
    changed = true;
    entries[i]->pace.Changed(steps[i] < paces[i].steps);
    entries[i]->inner_steps = steps[i] == most ? 0 : steps[i];
    const std::string& name = entries[i]->name();
    Event(steps[i] < paces[i].steps ? "steps_lowered" : "steps_raised", name, ledger_->next_round(),
          absl::StrCat("region ", name, " is to take ", steps[i],
                       " inner steps a round instead of ", paces[i].steps, " of ", most,
                       ": a step takes it ", absl::StrFormat("%.3g s", paces[i].step_seconds)),
          {{"steps", steps[i]}, {"step_seconds", paces[i].step_seconds}});
  }
  if (!changed) return;
  // What was measured has been answered; the next answer takes new rounds.
  for (RegionEntry* entry : entries) {
    entry->pace.Clear();
    RecordRegion(*entry);
  }
  RecordMembership();
}

}  // namespace atl
