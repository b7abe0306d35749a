#include "tools/sim/keeper.h"

#include <algorithm>
#include <ctime>

#include "absl/strings/str_cat.h"
#include "tools/sim/world.h"

namespace atl::sim {
namespace {

double CpuSeconds() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace

void MadeUpStore::Apply(const std::vector<Record>& records) {
  for (const Record& record : records) {
    if (const auto* job = std::get_if<JobRecord>(&record)) {
      history_.job = *job;
      history_.run = job->run;
    } else if (const auto* region = std::get_if<RegionRecord>(&record)) {
      RegionRecord& row = regions_[region->name];
      std::optional<pb::Ready> ready = region->ready;
      if (!ready && row.attempt == region->attempt) ready = row.ready;
      row = *region;
      row.ready = std::move(ready);
    } else if (const auto* view = std::get_if<ViewRecord>(&record)) {
      history_.last_view = std::max(history_.last_view, view->view.id());
    } else if (const auto* round = std::get_if<RoundRecord>(&record)) {
      history_.digests[round->round] = round->digest;
    } else if (const auto* supersede = std::get_if<SupersedeRecord>(&record)) {
      history_.digests.erase(history_.digests.upper_bound(supersede->round),
                             history_.digests.end());
      samples_.clear();
      evaluations_.clear();
    } else if (const auto* sample = std::get_if<SampleRecord>(&record)) {
      const std::tuple key(sample->view, sample->round, sample->region);
      if (sample->state == SampleState::kCommitted || sample->state == SampleState::kReturned) {
        samples_.erase(key);
      } else {
        samples_[key] = *sample;
      }
    } else if (const auto* evaluation = std::get_if<EvaluationRecord>(&record)) {
      if (evaluation->region.empty()) {
        std::erase_if(evaluations_, [&](const EvaluationRecord& one) {
          return one.view == evaluation->view && one.round == evaluation->round;
        });
      } else {
        evaluations_.push_back(*evaluation);
      }
    } else if (const auto* membership = std::get_if<MembershipRecord>(&record)) {
      history_.membership = membership->membership;
    } else if (const auto* ledger = std::get_if<LedgerRecord>(&record)) {
      history_.ledger = ledger->ledger;
    } else if (const auto* event = std::get_if<EventRecord>(&record)) {
      history_.last_event = event->number;
    }
  }
  history_.last_round = history_.digests.empty() ? 0 : history_.digests.rbegin()->first;
}

History MadeUpStore::history() const {
  History history = history_;
  for (const auto& [name, region] : regions_) history.regions.push_back(region);
  for (const auto& [key, sample] : samples_) history.open_samples.push_back(sample);
  history.open_evaluations = evaluations_;
  return history;
}

void Keeper::Start() {
  Core::Options options;
  options.job = world_->job();
  options.protocol = 1;
  const Settings& settings = world_->settings();
  if (settings.absent > 0 && !settings.lease_starts) {
    options.least_regions = settings.regions - settings.absent;
  }
  options.random_bytes = [](size_t size) { return std::string(size, 'k'); };
  options.history = store_.history();
  core_ = std::make_unique<Core>(std::move(options));
  ++life_;
  Do([&](Core& core) { return core.Start(world_->now()); });
}

template <typename Step>
void Keeper::Do(Step step) {
  if (core_ == nullptr) return;
  const double before = world_->measures() ? CpuSeconds() : 0;
  Actions actions = step(*core_);
  if (world_->measures()) {
    world_->outcome().core_seconds += CpuSeconds() - before;
    ++world_->outcome().core_steps;
  }
  Take(std::move(actions));
}

void Keeper::Take(Actions actions) {
  const bool has_records = !actions.records.empty();
  if (crash_point_ == 0) return GoDown();
  store_.Apply(actions.records);
  world_->promises().OnRecords(actions.records);
  for (const Record& record : actions.records) {
    if (std::holds_alternative<RoundRecord>(record)) {
      world_->CheckMembers(-1);
      Outcome& outcome = world_->outcome();
      if (outcome.begin_steps == 0) {
        outcome.begin_seconds = outcome.core_seconds;
        outcome.begin_steps = outcome.core_steps;
        outcome.begin_bytes = outcome.core_bytes;
      }
    }
    if (const auto* event = std::get_if<EventRecord>(&record)) {
      world_->Count("core:" + event->kind);
      world_->Say(absl::StrCat("orchestrator: ", event->text));
    }
  }
  if (actions.ended && !ended_) {
    ended_ = actions.ended;
    world_->Finish();
  }
  if (crash_point_ == 1 && has_records) {
    durable_ = core_->DurableState();
    return GoDown();
  }
  for (const Outgoing& outgoing : actions.messages) {
    if (world_->measures()) {
      world_->outcome().core_bytes += static_cast<int64_t>(outgoing.message.ByteSizeLong());
    }
    world_->ToRegion(outgoing.region, outgoing.message);
  }
  if (crash_point_ == 2) {
    durable_ = core_->DurableState();
    return GoDown();
  }
  wake_at_ = actions.wake_at;
  if (wake_at_) {
    const int64_t life = life_;
    const double at = *wake_at_;
    world_->events().In(at - world_->now(), [this, life, at] {
      if (life == life_ && core_ != nullptr && wake_at_ == at) Wake();
    });
  }
}

void Keeper::Wake() {
  Do([&](Core& core) { return core.OnTick(world_->now()); });
}

void Keeper::GoDown() {
  world_->Say("the orchestrator is killed");
  world_->Count(absl::StrCat("orchestrator killed at point ", crash_point_));
  const bool compare = crash_point_ > 0;
  crash_point_ = -1;
  core_.reset();
  ++life_;
  wake_at_.reset();
  if (ended_) return;
  const int64_t committed = world_->promises().committed_round();
  world_->events().In(away_seconds_, [this, compare, committed] {
    if (core_ != nullptr) return;
    world_->Say("the orchestrator is started");
    Core::Options probe;
    const std::string before = compare ? durable_ : "";
    // Compared before it does anything.
    probe.job = world_->job();
    probe.protocol = 1;
    probe.random_bytes = [](size_t size) { return std::string(size, 'k'); };
    probe.history = store_.history();
    const std::string after = Core(std::move(probe)).DurableState();
    const bool has_view =
        store_.history().membership && store_.history().membership->view().id() > 0;
    if (compare && has_view && before != after) {
      world_->promises().Break(
          "P5", absl::StrCat("the orchestrator comes back as another:\nbefore ", before, "\nafter ",
                             after));
    }
    (void)committed;
    Start();
  });
}

void Keeper::OnMessage(const std::string& region, const pb::LeaderMessage& message) {
  Do([&](Core& core) { return core.OnMessage(region, message, world_->now()); });
}

void Keeper::CrashIn(int point, double seconds_away) {
  if (core_ == nullptr) return;
  crash_point_ = point;
  away_seconds_ = seconds_away;
}

void Keeper::Drain(const std::string& region) {
  Do([&](Core& core) { return core.OnDrain(region, "a person says so", world_->now()); });
}

}  // namespace atl::sim
