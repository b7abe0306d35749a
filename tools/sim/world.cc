#include "tools/sim/world.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/sim/keeper.h"
#include "tools/sim/region.h"
#include "tools/sim/sea.h"

namespace atl::sim {
namespace {

constexpr size_t kTranscriptLines = 4000;
constexpr double kWatchSeconds = 0.25;
constexpr int64_t kEventsAtOnce = 100000;
// Regions that come later come after 5 s; the made-up clock begins at 1000 s.
constexpr char kLaterLease[] = "1970-01-01T00:16:45Z";

pb::Job JobOf(const Settings& settings) {
  pb::Job job;
  job.set_name("sim");
  job.set_seed(settings.seed);
  job.set_resume("auto");
  job.mutable_train()->set_rounds(settings.rounds);
  job.mutable_train()->set_inner_steps(settings.inner_steps);
  job.mutable_train()->set_global_batch(settings.batch);
  job.mutable_train()->set_evaluate_every(settings.evaluate_every);
  job.mutable_data()->set_sequence_length(16);
  job.mutable_checkpoint()->set_every(settings.save_every);
  job.mutable_checkpoint()->set_keep(3);
  job.mutable_sync()->mutable_slow()->set_policy(
      static_cast<pb::SlowRegions::Policy>(settings.slow_policy));
  job.mutable_sync()->mutable_slow()->set_quorum(settings.quorum);
  for (int i = 0; i < settings.regions; ++i) {
    pb::Region* region = job.add_regions();
    region->set_name(NameOf(i));
    if (settings.lease_starts && i >= settings.regions - settings.absent) {
      region->mutable_lease()->set_start(kLaterLease);
    }
  }
  return job;
}

}  // namespace

World::World(const Settings& settings, bool measures)
    : settings_(settings),
      measures_(measures),
      job_(JobOf(settings)),
      dice_(DeriveSeed(settings.seed, "sim:world")),
      promises_(SeedDigest()),
      keeper_(std::make_unique<Keeper>(this)),
      sea_(std::make_unique<Sea>(this)) {
  for (int i = 0; i < settings_.regions; ++i) {
    indices_[NameOf(i)] = i;
    regions_.push_back(std::make_unique<Region>(this, i));
  }
}

World::~World() = default;

void World::Say(const std::string& text) {
  transcript_.push_back(absl::StrFormat("%9.3f  %s", now() - 1000, text));
  if (transcript_.size() > kTranscriptLines) transcript_.pop_front();
}

double World::Delay() {
  double delay = settings_.control_seconds * dice_.Uniform(0.8, 1.5);
  if (settings_.lateness > 0 && dice_.Chance(settings_.lateness)) {
    delay += dice_.Uniform(0.1, 5);
  }
  return delay;
}

void World::Transmit(double delay, std::function<void()> deliver) {
  if (settings_.loss > 0 && dice_.Chance(settings_.loss)) return;
  if (settings_.repeat > 0 && dice_.Chance(settings_.repeat)) events_.In(delay + Delay(), deliver);
  events_.In(delay, std::move(deliver));
}

void World::ToOrchestrator(int region, const pb::LeaderMessage& message) {
  if (control_cuts_.contains({region, true})) return;
  Transmit(Delay(), [this, region, message] {
    if (keeper_->alive() && !control_cuts_.contains({region, true})) {
      keeper_->OnMessage(NameOf(region), message);
    }
  });
}

void World::ToRegion(const std::string& name, const pb::OrchestratorMessage& message) {
  const int region = IndexOf(name);
  if (control_cuts_.contains({region, false})) return;
  const int64_t life = regions_[region]->life();
  Transmit(Delay(), [this, region, life, message] { regions_[region]->OnMessage(life, message); });
}

void World::CutControl(int region, bool up, double seconds) {
  control_cuts_.insert({region, up});
  events_.In(seconds, [this, region, up] { control_cuts_.erase({region, up}); });
}

void World::NoteDamage(int64_t round) {
  Count("a state was damaged");
  damaged_rounds_.insert(round);
}

bool World::AnyIsDamaged() const {
  return std::any_of(regions_.begin(), regions_.end(),
                     [](const auto& region) { return region->IsDamaged(); });
}

void World::CheckMembers(int only) {
  // Of two that differ the one that is still heard may be the damaged one: who is being left out
  // comes back with what the others hold.
  if (AnyIsDamaged() && keeper_->core() != nullptr && keeper_->core()->fencing()) return;
  for (int i = only < 0 ? 0 : only; i < (only < 0 ? regions() : only + 1); ++i) {
    const auto& region = regions_[i];
    if (!region->IsMemberWithState() || keeper_->core() == nullptr) continue;
    // Damage is the core's to find, from reports.
    if (region->IsDamaged()) continue;
    const int at = MemberOf(keeper_->core()->view(), region->name());
    if (at < 0 || !IsFull(keeper_->core()->view().members(at)) ||
        region->agent()->view().id() != keeper_->core()->view().id())
      continue;
    promises_.CheckMember(region->name(), region->agent()->digest(), region->agent()->committed());
  }
}

double World::SlownessOf(int region) const {
  const bool slow = region < settings_.slow_regions && now() < 1000 + settings_.slow_seconds;
  return slow ? settings_.slow_factor : 1;
}

void World::DoFault(const Fault& fault) {
  if (keeper_->ended()) return;
  Count(absl::StrCat("fault:", fault.kind));
  Trouble();
  Region* one = fault.a >= 0 ? regions_[fault.a].get() : nullptr;
  if (fault.kind == "crash") return one->Crash(fault.seconds, false);
  if (fault.kind == "wipe") return one->Crash(fault.seconds, true);
  if (fault.kind == "pause") return one->Pause(fault.seconds);
  if (fault.kind == "leave") return one->Leave();
  if (fault.kind == "damage") return one->Damage();
  if (fault.kind == "drain") return keeper_->Drain(one->name());
  if (fault.kind == "slow") {
    one->SetSlow(8);
    events_.In(fault.seconds, [this, a = fault.a] { regions_[a]->SetSlow(SlownessOf(a)); });
  } else if (fault.kind == "cut") {
    Say(absl::StrCat("the line between ", one->name(), " and ", NameOf(fault.b), " is cut for ",
                     fault.seconds, " s"));
    sea_->Cut(fault.a, fault.b, fault.seconds);
  } else if (fault.kind == "cut-control") {
    CutControl(fault.a, true, fault.seconds);
    CutControl(fault.a, false, fault.seconds);
  } else if (fault.kind == "cut-up") {
    CutControl(fault.a, true, fault.seconds);
  } else if (fault.kind == "cut-down") {
    CutControl(fault.a, false, fault.seconds);
  } else if (fault.kind == "orchestrator") {
    keeper_->CrashIn(static_cast<int>(dice_.Below(3)), fault.seconds);
  } else if (fault.kind == "all") {
    for (const auto& region : regions_) region->Crash(dice_.Uniform(1, 20), false);
  } else if (fault.kind == "all-leave") {
    for (const auto& region : regions_) region->Leave();
  } else if (fault.kind == "lease") {
    one->Crash(1, false);
    one->SetLease(fault.seconds);
  }
}

void World::DrawFaults() {
  static const char* const kKinds[] = {
      "crash",  "crash",        "crash",        "crash",        "wipe",  "pause",
      "pause",  "leave",        "leave",        "cut",          "cut",   "cut",
      "cut-up", "drain",        "cut-down",     "cut-control",  "slow",  "all",
      "damage", "orchestrator", "orchestrator", "orchestrator", "lease", "crash"};
  for (int i = 0; i < settings_.faults; ++i) {
    Fault fault;
    fault.kind = kKinds[dice_.Below(std::size(kKinds))];
    fault.a = static_cast<int>(dice_.Below(regions()));
    fault.b = static_cast<int>(dice_.Below(regions()));
    fault.time = dice_.Uniform(0.5, settings_.fault_seconds);
    fault.seconds = dice_.Uniform(0.5, dice_.Chance(0.3) ? 60 : 12);
    if (fault.kind == "cut" && fault.a == fault.b) continue;
    if (fault.kind == "all" && dice_.Chance(0.7)) fault.kind = "crash";
    // Two of three can tell who is wrong; one of two cannot.
    if (fault.kind == "damage" && (regions() < 4 || dice_.Chance(0.5))) continue;
    events_.In(fault.time, [this, fault] { DoFault(fault); });
    // Faults like company.
    if (!dice_.Chance(0.3)) continue;
    Fault second = fault;
    second.kind = kKinds[dice_.Below(std::size(kKinds))];
    if (second.kind == "damage" || second.kind == "all") second.kind = "crash";
    second.a = static_cast<int>(dice_.Below(regions()));
    if (second.kind == "cut" && second.a == second.b) continue;
    events_.In(fault.time + dice_.Uniform(0, 3), [this, second] { DoFault(second); });
  }
}

Outcome World::Run() {
  keeper_->Start();
  for (int i = 0; i < regions(); ++i) {
    const bool late = i >= regions() - settings_.absent;
    events_.In(late ? dice_.Uniform(5, settings_.fault_seconds + 10) : dice_.Uniform(0, 1),
               [this, i] {
                 if (!regions_[i]->alive()) regions_[i]->Start();
               });
  }
  for (int i = 0; i < settings_.slow_regions; ++i) {
    regions_[i]->SetSlow(SlownessOf(i));
    events_.In(settings_.slow_seconds, [this, i] { regions_[i]->SetSlow(1); });
  }
  DrawFaults();
  for (const Fault& fault : settings_.script) {
    events_.In(fault.time, [this, fault] { DoFault(fault); });
  }
  std::function<void()> watch = [this, &watch] {
    sea_->Watch();
    events_.In(kWatchSeconds, watch);
  };
  events_.In(0, watch);
  double instant = now();
  int64_t since = events_.count();
  while (!finished_ && promises_.broken().empty() && events_.RunOne()) {
    if (now() > instant) {
      instant = now();
      since = events_.count();
    } else if (events_.count() > since + kEventsAtOnce) {
      promises_.Break("P4", "time stands still: somebody wakes again and again at once");
    }
    if (now() > 1000 + settings_.limit_seconds) {
      promises_.Break("P4", absl::StrCat("the job is not done after ", settings_.limit_seconds,
                                         " made-up seconds; round ", promises_.committed_round(),
                                         " of ", settings_.rounds, " is committed"));
    }
  }
  if (promises_.broken().empty() && keeper_->end()) {
    const Ended& end = *keeper_->end();
    // As many are wrong as are right, or those who are right are gone: nobody can tell which.
    if (damaged_rounds_.contains(promises_.committed_round() + 1) &&
        absl::StrContains(end.reason, "no majority")) {
      ++counts_["damage without a majority"];
    } else if (end.state == JobState::kFailed) {
      promises_.Break("P4", absl::StrCat("the job failed: ", end.reason));
    } else if (end.state == JobState::kDone) {
      promises_.CheckEnd(settings_.rounds);
    }
  }
  outcome_.broken = promises_.broken();
  if (!outcome_.broken.empty()) {
    for (const auto& region : regions_) Say(region->Describe());
  }
  outcome_.transcript.assign(transcript_.begin(), transcript_.end());
  outcome_.counts = counts_;
  if (promises_.rollbacks() > 0) outcome_.counts["went back to a checkpoint"] = 1;
  outcome_.events = events_.count();
  outcome_.made_up_seconds = now() - 1000;
  outcome_.rounds = promises_.committed_round();
  return outcome_;
}

}  // namespace atl::sim
